//! What a connection through a pair of sidecars costs, against the same through a pair of plain TCP relays.
//!
//! `cargo bench -p postern-integration --bench pair` runs interleaved rounds on the release build of the real
//! programs and prints medians and spread as Markdown; `-- --json` prints JSON instead, `-- tcp` and `-- http` measure
//! that half only. The HTTP half has a pair of Envoys beside it where there is one.

mod envoy;
mod http;
mod measure;
mod report;
mod roles;

use std::net::SocketAddr;

use postern_integration::shop::POLICY;
use postern_integration::{CaOptions, Mesh, SidecarSpec};

use measure::{Path, Row};

const ROUNDS: usize = 5;

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench").peekable();
    if args.next_if_eq("role").is_some() {
        return roles::run(args);
    }
    let options: Vec<String> = args.collect();
    let has = |option: &str| options.iter().any(|given| given == option);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut rows = Vec::new();
    if !has("http") {
        rows.extend(runtime.block_on(measure_tcp()));
    }
    if !has("tcp") {
        rows.extend(runtime.block_on(measure_http()));
    }
    if has("--json") { report::json(&rows) } else { report::markdown(&rows, ROUNDS) }
}

/// `orders` may look at charges.
const HTTP_POLICY: &str = r#"trust_domain = "shop.example"
[service.payments]
ports = { api = "http" }
[[service.payments.allow]]
from = ["orders"]
calls = ["POST /charge", "GET /charges/*"]
[service.orders]
"#;

async fn measure_http() -> Vec<Row> {
    let backend = roles::start_http_backend().await;
    let inner = roles::start_relay(backend.address).await;
    let outer = roles::start_relay(inner.address).await;

    let mesh = Mesh::default();
    let ca = mesh.ca(CaOptions::default()).await;
    let policy = mesh.write("policy.toml", HTTP_POLICY);
    let spec = |name| SidecarSpec::new(name).policy(&policy).http();
    let payments = mesh.sidecar(&ca, &spec("payments").inbound("api", backend.address));
    let orders = mesh.sidecar(&ca, &spec("orders").outbound("payments", payments.inbounds[0]));
    payments.ready().await;
    orders.ready().await;
    let envoys = envoy::Envoys::start(&mesh, &ca, backend.address).await;

    let relay = Path { name: "plain relay pair", entry: outer.address, pids: vec![outer.pid(), inner.pid()] };
    let pids = vec![orders.program.pid(), payments.program.pid()];
    let pair = Path { name: "postern pair", entry: orders.outbounds[0], pids };
    let envoys =
        envoys.as_ref().map(|envoys| Path { name: "envoy pair", entry: envoys.entry, pids: envoys.pids() });
    let paths: Vec<&Path> = [&pair, &relay].into_iter().chain(&envoys).collect();

    let mut rows = Vec::new();
    for (connections, count) in [(1, 5_000), (64, 64_000)] {
        rows.extend(http::keep_alive(&paths, connections, count, ROUNDS).await);
    }
    rows.extend(http::new_connections(&paths, 32, 16_000, ROUNDS).await);
    rows
}

async fn measure_tcp() -> Vec<Row> {
    let backend = roles::start_backend().await;
    let inner = roles::start_relay(backend.address).await;
    let outer = roles::start_relay(inner.address).await;

    let mesh = Mesh::default();
    let ca = mesh.ca(CaOptions::default()).await;
    let policy = mesh.write("policy.toml", POLICY);
    let payments =
        mesh.sidecar(&ca, &SidecarSpec::new("payments").policy(&policy).inbound("api", backend.address));
    let to: SocketAddr = payments.inbounds[0];
    let orders = mesh.sidecar(&ca, &SidecarSpec::new("orders").policy(&policy).outbound("payments", to));
    payments.ready().await;
    orders.ready().await;

    let relay = Path { name: "plain relay pair", entry: outer.address, pids: vec![outer.pid(), inner.pid()] };
    let pids = vec![orders.program.pid(), payments.program.pid()];
    let pair = Path { name: "postern pair", entry: orders.outbounds[0], pids };

    let mut rows = vec![measure::handshakes(&payments, &ca, ROUNDS).await];
    for path in [&pair, &relay] {
        rows.push(measure::idle_memory(path));
    }
    for (concurrency, count) in [(1, 2_000), (32, 8_000)] {
        rows.extend(measure::connections(&[&pair, &relay], concurrency, count, ROUNDS).await);
    }
    for streams in [1, 8] {
        rows.extend(measure::bulk(&[&pair, &relay], streams, ROUNDS).await);
    }
    for path in [&pair, &relay] {
        rows.push(measure::connection_memory(path, 2_000).await);
    }
    rows
}
