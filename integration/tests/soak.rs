//! Lease after lease, nothing stays behind: memory and descriptors of both sidecars are flat, and each app gets its own
//! bytes. `integration/benches/soak.rs` runs it as long as one likes.

use std::time::Duration;

use postern_integration::CaOptions;
use postern_integration::shop::Shop;
use postern_integration::soak::{Growth, growth, round};

const ROUNDS: usize = 8;
const ROUND: Duration = Duration::from_millis(1_200);
const CLIENTS: u64 = 8;
/// Until then pools and allocators fill.
const WARM: usize = 3;
/// An allocator's page here and there, over thousands of leases; a leak of a kilobyte for each would be megabytes.
const GROWTH_KIB_MAX: u64 = 2 * 1024;
/// As many tunnels may rest between the rounds as there are clients, and a socket may be about to close.
const GROWTH_DESCRIPTORS_MAX: usize = 2 * CLIENTS as usize;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_leave_neither_memory_nor_descriptors_behind() {
    let shop = Shop::start(CaOptions::default()).await;
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push(round(&shop, CLIENTS, ROUND).await);
    }
    let leases: u64 = rounds.iter().map(|round| round.leases).sum();
    println!("{leases} leases: {rounds:?}");
    let bound = Growth { resident_kib: GROWTH_KIB_MAX, descriptors: GROWTH_DESCRIPTORS_MAX };
    for growth in [growth(&rounds, WARM, |round| round.orders), growth(&rounds, WARM, |round| round.payments)]
    {
        assert!(growth.resident_kib <= bound.resident_kib, "{growth:?} in {rounds:?}");
        assert!(growth.descriptors <= bound.descriptors, "{growth:?} in {rounds:?}");
    }
}
