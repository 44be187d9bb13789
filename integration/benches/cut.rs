//! How long after a policy is replaced the connections that it no longer allows are cut: median and worst, for each of
//! the five kinds. `cargo bench -p postern-integration --bench cut`

use std::time::{Duration, Instant};

use postern_integration::eventually;
use postern_integration::live::{Five, KINDS, Wide, allowing};

const ROUNDS: usize = 50;

#[tokio::main]
async fn main() {
    let wide = Wide::start().await;
    let mut times: [Vec<Duration>; 5] = Default::default();
    for _ in 0..ROUNDS {
        let five = Five::open(&wide, &wide.orders).await;
        let replaced = Instant::now();
        wide.mesh.write("policy.toml", &allowing(&["reports"]));
        for (times, at) in times.iter_mut().zip(five.cut().await) {
            times.push(at - replaced);
        }
        allow_again(&wide).await;
    }
    println!("from the policy file replaced to the connection cut, {ROUNDS} rounds:");
    for (kind, times) in KINDS.iter().zip(&mut times) {
        times.sort_unstable();
        println!("{kind:<26} median {:>9.1?}  worst {:>9.1?}", times[ROUNDS / 2], times[ROUNDS - 1]);
    }
}

async fn allow_again(wide: &Wide) {
    let digest = async || wide.payments.status().await["policy"]["digest"].clone();
    let before = digest().await;
    wide.mesh.write("policy.toml", &allowing(&["orders", "reports"]));
    eventually("the first policy again", async || (digest().await != before).then_some(())).await;
}
