//! A pair of our sidecars, as an operator runs them, with a CA that neither counts nor has anything to do.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;

use postern_integration::{CaOptions, Mesh, SidecarSpec, sidecar_binary, tls};

use crate::peers::{Carries, Middle, Pair, version};

/// `orders` may connect.
const TCP_POLICY: &str = r#"trust_domain = "shop.example"
[service.payments]
ports = { api = "tcp" }
[[service.payments.allow]]
from = ["orders"]
[service.orders]
"#;

/// `orders` may look at charges, and make one.
const HTTP_POLICY: &str = r#"trust_domain = "shop.example"
[service.payments]
ports = { api = "http" }
[[service.payments.allow]]
from = ["orders"]
calls = ["POST /charge", "GET /charges/*"]
[service.orders]
"#;

/// Names another build of the sidecar, which the peers `postern-other` and `postern-http-other` run.
pub(crate) const OTHER_BUILD: &str = "POSTERN_BENCH_SIDECAR";

pub(crate) async fn tcp(backend: SocketAddr) -> Pair {
    start(backend, TCP_POLICY, Carries::Bytes, &sidecar_binary()).await
}

pub(crate) async fn http(backend: SocketAddr) -> Pair {
    start(backend, HTTP_POLICY, Carries::Http, &sidecar_binary()).await
}

pub(crate) async fn other_tcp(backend: SocketAddr) -> anyhow::Result<Pair> {
    Ok(start(backend, TCP_POLICY, Carries::Bytes, &other_build()?).await)
}

pub(crate) async fn other_http(backend: SocketAddr) -> anyhow::Result<Pair> {
    Ok(start(backend, HTTP_POLICY, Carries::Http, &other_build()?).await)
}

fn other_build() -> anyhow::Result<PathBuf> {
    let path =
        std::env::var_os(OTHER_BUILD).with_context(|| format!("{OTHER_BUILD} names no other build"))?;
    let path = PathBuf::from(path);
    anyhow::ensure!(path.is_file(), "{OTHER_BUILD}: {} is no file", path.display());
    Ok(path)
}

async fn start(backend: SocketAddr, policy: &str, carries: Carries, binary: &Path) -> Pair {
    let mesh = Mesh::default();
    let ca = mesh.ca(CaOptions::default()).await;
    let policy = mesh.write("policy.toml", policy);
    let spec = |name| {
        let spec = SidecarSpec::new(name).policy(&policy).binary(binary);
        if carries == Carries::Http { spec.http() } else { spec }
    };
    let payments = mesh.sidecar(&ca, &spec("payments").inbound("api", backend));
    let orders = mesh.sidecar(&ca, &spec("orders").outbound("payments", payments.inbounds[0]));
    payments.ready().await;
    orders.ready().await;
    let caller = Arc::new(tls::enrol(&ca, "orders").await);
    let version = version(&binary.to_string_lossy(), "--version").unwrap();
    Pair {
        entries: orders.outbounds,
        middle: Some(Middle { address: payments.inbounds[0], bundles: ca.bundles(), caller }),
        carries,
        version,
        programs: vec![orders.program, payments.program],
        _kept: Box::new((ca, mesh)),
    }
}
