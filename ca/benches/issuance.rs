//! Durable issuances per second over gRPC: the real CA, and clients on the same cores. Run: cargo bench -p postern-ca

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark ends at the first surprise and prints what it found"
)]

#[path = "../tests/served/fixture.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod fixture;

use std::time::{Duration, Instant};

use fixture::{Client, Home, csr, issue_request};
use postern_proto::identity::Svid;
use postern_proto::wire::v1::RenewRequest;
use rcgen::KeyPair;
use tokio::task::JoinSet;

const ROUND: Duration = Duration::from_secs(4);
const ROUNDS: usize = 5;
const CONNECTIONS: usize = 4;
/// Requests under way, in all.
const CONCURRENCIES: [usize; 2] = [1, 64];
const NO_RATES: &str = "[limits]\nidentity_per_second = 10000000\nidentity_burst = 10000000\n\
    address_per_second = 10000000\naddress_burst = 10000000\n[log]\nlevel = \"warn\"\n";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(measure());
}

async fn measure() {
    let home = Home::new();
    let ca = home.start(NO_RATES);
    let client = ca.client();
    let svid = client.redeem(&ca.token("orders", 1)).await.unwrap();
    println!(
        "durable issuances per second: median of {ROUNDS} rounds of {ROUND:?} (lowest to highest); p50 and p99 latency; CPU time of the CA for one"
    );
    for concurrency in CONCURRENCIES {
        for kind in [Kind::Issue, Kind::Renew] {
            let mut rounds = Vec::new();
            for _ in 0..ROUNDS {
                // A token has at most 10,000 uses.
                let tokens: Vec<_> = (0..8).map(|_| ca.token("orders", 10_000)).collect();
                let before = ca.cpu_time();
                let mut round = round(&client, &svid, kind, concurrency, tokens).await;
                let spent = ca.cpu_time() - before;
                round.cpu_micros = spent.as_secs_f64() * 1e6 / round.latencies.len() as f64;
                rounds.push(round);
            }
            print_row(kind, concurrency, rounds);
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Issue,
    Renew,
}

struct Round {
    per_second: f64,
    /// Of the CA, for one certificate.
    cpu_micros: f64,
    latencies: Vec<Duration>,
}

async fn round(client: &Client, svid: &Svid, kind: Kind, concurrency: usize, tokens: Vec<String>) -> Round {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS.min(concurrency) {
        let identity = matches!(kind, Kind::Renew).then_some(svid);
        connections.push(client.connect(identity).await.unwrap());
    }
    let start = Instant::now();
    let mut callers = JoinSet::new();
    for caller in 0..concurrency {
        let mut connection = connections[caller % connections.len()].clone();
        let token = tokens[caller % tokens.len()].clone();
        callers.spawn(async move {
            let mut latencies = Vec::new();
            while start.elapsed() < ROUND {
                // A client makes a key for every certificate, so that is counted, too.
                let (asked, request) = (Instant::now(), csr(&KeyPair::generate().unwrap()));
                match kind {
                    Kind::Issue => connection.issue(issue_request(&token, request)).await.unwrap(),
                    Kind::Renew => connection.renew(RenewRequest { csr: request }).await.unwrap(),
                };
                latencies.push(asked.elapsed());
            }
            latencies
        });
    }
    let latencies = callers.join_all().await.concat();
    let per_second = latencies.len() as f64 / start.elapsed().as_secs_f64();
    Round { per_second, cpu_micros: 0.0, latencies }
}

fn print_row(kind: Kind, concurrency: usize, rounds: Vec<Round>) {
    let mut rates: Vec<_> = rounds.iter().map(|round| round.per_second.round() as u64).collect();
    rates.sort_unstable();
    let mut cpu: Vec<_> = rounds.iter().map(|round| round.cpu_micros).collect();
    cpu.sort_by(f64::total_cmp);
    let mut latencies = rounds.into_iter().map(|round| round.latencies).collect::<Vec<_>>().concat();
    latencies.sort_unstable();
    let at = |share: usize| latencies[(latencies.len() - 1) * share / 100];
    println!(
        "{kind:?}, {concurrency:>2} at once: {:>6} ({} to {}); {:?}, {:?}; {:.0} µs",
        rates[rates.len() / 2],
        rates[0],
        rates[rates.len() - 1],
        at(50),
        at(99),
        cpu[cpu.len() / 2]
    );
}
