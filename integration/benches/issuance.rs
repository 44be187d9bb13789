//! Durable issuances a second over gRPC, client and CA on the same machine.
//!
//! `cargo bench -p postern-integration --bench issuance` prints medians and spread as Markdown. Every issuance has a new
//! key and CSR, is signed, judged, written to SQLite with full sync and to the audit chain before its answer leaves.

use std::sync::Arc;
use std::time::Instant;

use postern_integration::bench::figures::Spread;
use postern_integration::bench::processes;
use postern_integration::{Ca, CaOptions, Mesh, tls};
use postern_proto::wire::v1::issue_request::Attestation;
use postern_proto::wire::v1::{IssueRequest, RenewRequest};
use tokio::task::JoinSet;

const ROUNDS: usize = 5;
const ISSUANCES: usize = 8_000;
const CONNECTIONS: usize = 4;
/// Requests at a time, all connections together.
const CONCURRENCY: usize = 64;

const LIMITS: &str = "[limits]\nidentity_per_second = 1000000\nidentity_burst = 1000000\n\
    address_per_second = 1000000\naddress_burst = 1000000\n";

#[derive(Debug, Clone, Copy)]
enum By {
    Token,
    Svid,
}

#[tokio::main]
async fn main() {
    let mesh = Mesh::default();
    let ca = mesh.ca(CaOptions { extra: LIMITS, ..CaOptions::default() }).await;
    println!(
        "| {ISSUANCES} issuances, {CONCURRENCY} at a time | per second | CA's CPU, µs each |\n|---|---|---|"
    );
    for by in [By::Token, By::Svid] {
        let (mut rates, mut cpus) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let (rate, cpu) = round(&ca, by).await;
            rates.push(rate);
            cpus.push(cpu);
        }
        println!("| by {by:?} | {} | {} |", spread(rates), spread(cpus));
    }
}

async fn round(ca: &Ca, by: By) -> (f64, f64) {
    let token: Arc<str> =
        ca.run(&["token", "create", "--id", "orders", "--uses", &ISSUANCES.to_string()]).trim().into();
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let svid = tls::enrol(ca, "payments").await;
        clients.push(tls::ca_client(ca, matches!(by, By::Svid).then_some(&svid)).await);
    }
    let (cpu, started) = (cpu_seconds(ca.program.pid()), Instant::now());
    let mut tasks = JoinSet::new();
    for at in 0..CONCURRENCY {
        let (mut client, token) = (clients[at % CONNECTIONS].clone(), token.clone());
        tasks.spawn(async move {
            for _ in 0..ISSUANCES / CONCURRENCY {
                let csr = tls::csr(&rcgen::KeyPair::generate().unwrap());
                match by {
                    By::Svid => client.renew(RenewRequest { csr }).await.unwrap(),
                    By::Token => {
                        let attestation = Some(Attestation::JoinToken(token.to_string()));
                        client.issue(IssueRequest { csr, attestation }).await.unwrap()
                    }
                };
            }
        });
    }
    tasks.join_all().await;
    let (elapsed, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds(ca.program.pid()) - cpu);
    (ISSUANCES as f64 / elapsed, cpu / ISSUANCES as f64 * 1e6)
}

fn cpu_seconds(pid: u32) -> f64 {
    processes::cpu_seconds(pid).unwrap()
}

/// Median (least – most).
fn spread(values: Vec<f64>) -> String {
    let Spread { median, least, most } = Spread::of(values).unwrap();
    format!("{median:.0} ({least:.0} – {most:.0})")
}
