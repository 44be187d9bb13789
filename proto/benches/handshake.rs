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
use postern_proto::mtls::{AuthorizeAny, PeerVerifier, TlsIdentity};
use rustix::time::{ClockId, clock_gettime};
use support::{Authority, Pair};
use time::OffsetDateTime;

const RUNS: usize = 11;
const RUN: Duration = Duration::from_millis(200);
/// Between two looks at the clock.
const BATCH: u128 = 16;
/// By all threads together.
const JUDGEMENTS: usize = 3_200_000;
const THREADS: [usize; 3] = [1, 2, 16];

fn main() {
    let world = World::new();
    println!("{:<44} {:>10} {:>10} {:>10}", "µs of CPU", "median", "least", "most");
    judge_alone(&world);
    handshakes(&world);
    println!("\n{:<44} {:>10} {:>10}", "one remembered chain, judged by", "ns of CPU", "a second");
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
        black_box(bundles.verify_cached(black_box(chain), now).unwrap());
    });
    bundles.verify_cached(chain, now).unwrap().remember();
    measure("judge, remembered", || {
        black_box(bundles.verify_cached(black_box(chain), now).unwrap());
    });
}

fn handshakes(world: &World) {
    let identity = |svid: &Svid| TlsIdentity::new(svid).unwrap();
    let (client, server) = (identity(&world.orders), identity(&world.payments));
    let shake = |bundles: &Arc<TrustBundles>| {
        let judge = || Arc::new(PeerVerifier::new(bundles.clone(), Arc::new(AuthorizeAny)));
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
            let (start, mut rounds) = (cpu(ClockId::ThreadCPUTime), 0_u128);
            while cpu(ClockId::ThreadCPUTime) - start < RUN {
                (0..BATCH).for_each(|_| work());
                rounds += BATCH;
            }
            (cpu(ClockId::ThreadCPUTime) - start).as_nanos() / rounds
        })
        .collect();
    nanos.sort_unstable();
    let micros = |nanos: u128| format!("{}.{:02}", nanos / 1000, nanos % 1000 / 10);
    let (least, median, most) = (micros(nanos[0]), micros(nanos[RUNS / 2]), micros(nanos[RUNS - 1]));
    println!("{what:<44} {median:>10} {least:>10} {most:>10}");
}

/// What this thread, or this process, has used: others on the machine do not count.
fn cpu(clock: ClockId) -> Duration {
    let used = clock_gettime(clock);
    Duration::new(used.tv_sec.try_into().unwrap(), used.tv_nsec.try_into().unwrap())
}

/// On all threads together, so that waiting for each other would show.
fn at_once(world: &World, threads: usize) {
    let (bundles, chain, now) = (world.forgetful(), world.orders.chain(), OffsetDateTime::now_utc());
    bundles.verify_cached(chain, now).unwrap().remember();
    let ask = || {
        for _ in 0..JUDGEMENTS / threads {
            black_box(bundles.verify_cached(black_box(chain), now).unwrap());
        }
    };
    let (start, used) = (Instant::now(), cpu(ClockId::ProcessCPUTime));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(ask);
        }
    });
    let (used, took) = (cpu(ClockId::ProcessCPUTime) - used, start.elapsed());
    let nanos = used.as_nanos() / JUDGEMENTS as u128;
    let rate = JUDGEMENTS as u128 * 1000 / took.as_millis();
    println!("{:<44} {nanos:>10} {rate:>10}", format!("{threads} threads"));
}
