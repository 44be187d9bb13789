//! How long `decide` takes with 10, 1,000 and 10,000 rules: over many services, in one service, allowed and refused.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark prints, and stops at what is wrong"
)]

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::{Duration, Instant};

use postern_proto::identity::SpiffeId;
use postern_proto::policy::{Call, Policy, Port, Protocol, decide};
use time::OffsetDateTime;

const RUNS: usize = 11;
const RUN: Duration = Duration::from_millis(60);

fn main() {
    println!("{:>7} {:<34} {:>9} {:>9} {:>9}", "rules", "question", "median", "least", "most");
    for rules in [10, 1_000, 10_000] {
        let many = policy(rules, 10);
        let one = policy(rules, rules);
        let last = rules - 1;
        measure(
            rules,
            "10 rules a service, allowed",
            &many,
            last / 10,
            &format!("/caller/{last}"),
            "/api/7/x",
        );
        measure(rules, "10 rules a service, refused", &many, last / 10, "/stranger", "/api/7/x");
        measure(rules, "one service, allowed", &one, 0, &format!("/caller/{last}"), "/api/7/x");
        measure(rules, "one service, by pattern", &one, 0, &format!("/ns/{last}/sa/x"), "/api/7/x");
        measure(rules, "one service, encoded path", &one, 0, &format!("/caller/{last}"), "/%61pi/7/x");
        measure(rules, "one service, refused", &one, 0, "/stranger", "/api/7/x");
    }
}

/// Services of `per_service` rules each; a rule names one caller exactly and others by pattern.
fn policy(rules: usize, per_service: usize) -> Policy {
    let mut text = "trust_domain = \"shop.example\"\n".to_owned();
    for number in 0..rules {
        let service = number / per_service;
        write!(
            text,
            "[[service.s{service}.allow]]\nfrom=[\"/caller/{number}\",\"/ns/{number}/sa/*\"]\ncalls=[\"GET /api/*/x\"]\n"
        )
        .unwrap();
    }
    Policy::parse("bench.toml", &text).unwrap()
}

fn measure(rules: usize, question: &str, policy: &Policy, service: usize, peer: &str, path: &str) {
    let peer = SpiffeId::from_parts(policy.trust_domain().clone(), peer).unwrap();
    let target = policy.identity_of(&format!("s{service}")).unwrap();
    let port = Port { name: "api", protocol: Protocol::Http };
    let call = Some(Call { method: "GET", path });
    let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
    let mut nanos: Vec<u128> = (0..RUNS)
        .map(|_| {
            let (start, mut rounds) = (Instant::now(), 0_u128);
            while start.elapsed() < RUN {
                for _ in 0..64 {
                    black_box(decide(black_box(policy), &peer, target, port, black_box(call), now));
                }
                rounds += 64;
            }
            start.elapsed().as_nanos() / rounds
        })
        .collect();
    nanos.sort_unstable();
    let (least, median, most) = (nanos[0], nanos[RUNS / 2], nanos[RUNS - 1]);
    println!("{rules:>7} {question:<34} {median:>6} ns {least:>6} ns {most:>6} ns");
}
