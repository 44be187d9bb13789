//! What a handshake costs with its chains remembered and without: the judge alone, many threads at once, both sides whole.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark prints, and stops at what is wrong"
)]

#[path = "../tests/support/mtls.rs"]
mod support;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_proto::identity::{Svid, TrustBundles, verify};
use postern_proto::mtls::{Anyone, Judge, TlsIdentity};
use support::{Authority, Pair};
use time::OffsetDateTime;

const RUNS: usize = 11;
const RUN: Duration = Duration::from_millis(200);
const THREADS: [usize; 3] = [1, 2, 16];

fn main() {
    let world = World::new();
    println!("{:<44} {:>10} {:>10} {:>10}", "µs of wall time on one core", "median", "least", "most");
    judge_alone(&world);
    handshakes(&world);
    println!("\n{:<44} {:>10}", "judgements a second, one remembered chain", "");
    THREADS.into_iter().for_each(|threads| at_once(&world, threads));
}

/// root → issuer → leaf, as Postern issues them.
struct World {
    authority: Authority,
    orders: Svid,
    payments: Svid,
}

impl World {
    fn new() -> Self {
        let authority = Authority::new();
        let orders = authority.svid("/orders", time::Duration::ZERO);
        let payments = authority.svid("/payments", time::Duration::ZERO);
        Self { authority, orders, payments }
    }

    /// Bundles that remember nothing yet.
    fn forgetful(&self) -> Arc<TrustBundles> {
        self.authority.bundles()
    }
}

fn judge_alone(world: &World) {
    let (bundles, chain, now) = (world.forgetful(), world.orders.chain(), OffsetDateTime::now_utc());
    measure("verify", || {
        black_box(verify(black_box(chain), &bundles, now).unwrap());
    });
    measure("judge, not remembered", || {
        black_box(bundles.judge(black_box(chain), now).unwrap());
    });
    bundles.judge(chain, now).unwrap().remember();
    measure("judge, remembered", || {
        black_box(bundles.judge(black_box(chain), now).unwrap());
    });
}

fn handshakes(world: &World) {
    let identity = |svid: &Svid| TlsIdentity::new(svid).unwrap();
    let (client, server) = (identity(&world.orders), identity(&world.payments));
    let shake = |bundles: &Arc<TrustBundles>| {
        let judge = || Arc::new(Judge::new(bundles.clone(), Arc::new(Anyone)));
        let (client_judge, server_judge) = (judge(), judge());
        let pair = Pair { client: Some(client.clone()), server: server.clone(), client_judge, server_judge };
        black_box(pair.connect().unwrap());
    };
    let bundles = world.forgetful();
    // The same roots in a new value for each handshake, which costs little beside it: both sides verify.
    let forgotten = || Arc::new(bundles.iter().map(|bundle| bundle.as_ref().clone()).collect());
    measure("mTLS handshake, both sides, not remembered", || shake(&forgotten()));
    measure("mTLS handshake, both sides, remembered", || shake(&bundles));
    measure("bundles that are made for the former", || {
        black_box(forgotten());
    });
}

fn measure(what: &str, mut work: impl FnMut()) {
    let mut nanos: Vec<u128> = (0..RUNS)
        .map(|_| {
            let (start, mut rounds) = (Instant::now(), 0_u128);
            while start.elapsed() < RUN {
                work();
                rounds += 1;
            }
            start.elapsed().as_nanos() / rounds
        })
        .collect();
    nanos.sort_unstable();
    let micros = |nanos: u128| format!("{}.{:02}", nanos / 1000, nanos % 1000 / 10);
    let (least, median, most) = (micros(nanos[0]), micros(nanos[RUNS / 2]), micros(nanos[RUNS - 1]));
    println!("{what:<44} {median:>10} {least:>10} {most:>10}");
}

fn at_once(world: &World, threads: usize) {
    let (bundles, chain, now) = (world.forgetful(), world.orders.chain(), OffsetDateTime::now_utc());
    bundles.judge(chain, now).unwrap().remember();
    let bundles = &bundles;
    let start = Instant::now();
    let rounds: u64 = std::thread::scope(|scope| {
        let ask = || {
            let mut rounds = 0_u64;
            while start.elapsed() < RUN * 5 {
                black_box(bundles.judge(black_box(chain), now).unwrap());
                rounds += 1;
            }
            rounds
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    let rate = u128::from(rounds) * 1000 / start.elapsed().as_millis();
    println!("{:<44} {rate:>10}", format!("{threads} threads"));
}
