//! A pair of our sidecars, as an operator runs them, with a CA that neither counts nor has anything to do.

use std::net::SocketAddr;

use postern_integration::{CaOptions, Mesh, SidecarSpec, sidecar_binary};

use crate::peers::{Pair, version};

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

pub(crate) async fn tcp(backend: SocketAddr) -> Pair {
    start(backend, TCP_POLICY, |spec| spec).await
}

pub(crate) async fn http(backend: SocketAddr) -> Pair {
    start(backend, HTTP_POLICY, SidecarSpec::http).await
}

async fn start(backend: SocketAddr, policy: &str, protocol: impl Fn(SidecarSpec) -> SidecarSpec) -> Pair {
    let mesh = Mesh::default();
    let ca = mesh.ca(CaOptions::default()).await;
    let policy = mesh.write("policy.toml", policy);
    let spec = |name| protocol(SidecarSpec::new(name).policy(&policy));
    let payments = mesh.sidecar(&ca, &spec("payments").inbound("api", backend));
    let orders = mesh.sidecar(&ca, &spec("orders").outbound("payments", payments.inbounds[0]));
    payments.ready().await;
    orders.ready().await;
    let version = version(&sidecar_binary().to_string_lossy(), "--version").unwrap();
    Pair {
        entries: orders.outbounds,
        demands: Some((payments.inbounds[0], ca.bundles())),
        version,
        programs: vec![orders.program, payments.program],
        _kept: Box::new((ca, mesh)),
    }
}
