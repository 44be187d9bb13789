//! As many leases through a pair as a given time allows, with memory and descriptors of both sidecars after each round.
//! `cargo bench -p postern-integration --bench soak -- [SECONDS] [CLIENTS]`

use std::time::Duration;

use postern_integration::CaOptions;
use postern_integration::shop::Shop;
use postern_integration::soak::{growth, round};

const SECONDS: u64 = 60;
const CLIENTS: u64 = 16;
const ROUNDS: u64 = 20;
/// Until then pools and allocators fill.
const WARM: usize = 4;

#[tokio::main]
async fn main() {
    // cargo adds an argument of its own.
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<u64>().ok());
    let seconds = numbers.next().unwrap_or(SECONDS);
    let clients = numbers.next().unwrap_or(CLIENTS);
    let shop = Shop::start(CaOptions::default()).await;
    println!("| leases so far | per second | calling: KiB | descriptors | called: KiB | descriptors |");
    println!("|---|---|---|---|---|---|");
    let (mut rounds, mut leases) = (Vec::new(), 0);
    for _ in 0..ROUNDS {
        let round = round(&shop, clients, Duration::from_secs(seconds) / ROUNDS as u32).await;
        leases += round.leases;
        let rate = round.leases as f64 / round.took.as_secs_f64();
        let (orders, payments) = (round.orders, round.payments);
        println!(
            "| {leases} | {rate:.0} | {} | {} | {} | {} |",
            orders.resident_kib, orders.descriptors, payments.resident_kib, payments.descriptors
        );
        rounds.push(round);
    }
    for (name, sidecar, growth) in [
        ("calling", &shop.orders, growth(&rounds, WARM, |round| round.orders)),
        ("called", &shop.payments, growth(&rounds, WARM, |round| round.payments)),
    ] {
        let handshakes = sidecar.metric("postern_handshake_duration_seconds_count", &["completed"]).await;
        println!("{name}: {growth:?} after round {WARM}; {handshakes} handshakes for {leases} leases");
    }
}
