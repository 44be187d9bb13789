//! A pair of our sidecars, as an operator runs them, with a CA that neither counts nor has anything to do.

use std::net::SocketAddr;
use std::sync::Arc;

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

pub(crate) async fn tcp(backend: SocketAddr) -> Pair {
    start(backend, TCP_POLICY, Carries::Bytes).await
}

pub(crate) async fn http(backend: SocketAddr) -> Pair {
    start(backend, HTTP_POLICY, Carries::Http).await
}

async fn start(backend: SocketAddr, policy: &str, carries: Carries) -> Pair {
    let mesh = Mesh::default();
    let ca = mesh.ca(CaOptions::default()).await;
    let policy = mesh.write("policy.toml", policy);
    let spec = |name| {
        let spec = SidecarSpec::new(name).policy(&policy);
        if carries == Carries::Http { spec.http() } else { spec }
    };
    let payments = mesh.sidecar(&ca, &spec("payments").inbound("api", backend));
    let orders = mesh.sidecar(&ca, &spec("orders").outbound("payments", payments.inbounds[0]));
    payments.ready().await;
    orders.ready().await;
    let caller = Arc::new(tls::enrol(&ca, "orders").await);
    let version = version(&sidecar_binary().to_string_lossy(), "--version").unwrap();
    Pair {
        entries: orders.outbounds,
        middle: Some(Middle { address: payments.inbounds[0], bundles: ca.bundles(), caller }),
        carries,
        version,
        programs: vec![orders.program, payments.program],
        _kept: Box::new((ca, mesh)),
    }
}
