//! What a connection through a pair of sidecars costs, against the same through a pair of plain TCP relays.
//!
//! `cargo bench -p postern-integration --bench pair` runs interleaved rounds on the release build of the real
//! programs and prints medians and spread as Markdown; `-- --json` prints JSON instead.

mod measure;
mod report;
mod roles;

use std::net::SocketAddr;

use postern_integration::shop::POLICY;
use postern_integration::{CaOptions, Mesh, SidecarSpec};

use measure::{Path, Row};

const ROUNDS: usize = 5;

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    match args.next().as_deref() {
        Some("role") => roles::run(args),
        option => {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let rows = runtime.block_on(measure_all());
            if option == Some("--json") { report::json(&rows) } else { report::markdown(&rows, ROUNDS) }
        }
    }
}

async fn measure_all() -> Vec<Row> {
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
