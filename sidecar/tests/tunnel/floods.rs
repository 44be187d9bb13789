//! Peers that keep the rules and mean no good: too much, too slow, or nothing at all. Each costs only itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use postern_sidecar::proxy::connections::ANSWER_TIMEOUT;
use postern_sidecar::proxy::tunnel::Frame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::apps::{App, echoed, expect_reset};
use crate::authority::Authority;
use crate::sidecar::{PATIENCE, Sidecar, Spec, eventually};
use crate::stranger::{self, Caller, data, encoded, open, reset};

const FLOOD_LEASES: u32 = 1_500;
/// While a neighbour's word goes there and back, the flood gets no further than this: far more than in fair turns, and far
/// less than if the neighbour had to wait for the flood.
const LEASES_DURING_AN_ECHO_MAX: u32 = FLOOD_LEASES / 5;
/// Sent to a lease that was refused, each piece so much later than the last. They are taken for 5 s (docs/WIRE.md, Limits);
/// the rest is what sockets hold.
const WASTE_INTERVAL: Duration = Duration::from_millis(100);
const WASTE_BYTES_MAX: usize = 64 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_opened_and_reset_as_fast_as_possible_do_not_hold_up_a_neighbour() {
    let (authority, app) = (Authority::new(), App::echo().await);
    let payments = Spec::new(&authority, "payments").app(app.address).start(&authority);
    let to = payments.inbound.unwrap();
    let orders = Spec::new(&authority, "orders").to(&[to]).start(&authority);
    // Its tunnel is there when the flood comes.
    echoed(&mut TcpStream::connect(orders.outbound.unwrap()).await.unwrap()).await.unwrap();
    let mut caller = Caller::connect(&authority, "orders", to).await;
    let done = Arc::<AtomicU32>::default();
    let flooded = done.clone();
    let flood = tokio::spawn(async move {
        for lease in 1..=FLOOD_LEASES {
            caller.send(&[open(), data(b"word"), reset(lease)].concat()).await.unwrap();
            while !matches!(caller.frame().await.unwrap(), Frame::Reset { .. }) {}
            flooded.store(lease, Ordering::Relaxed);
        }
    });
    let mut meanwhile = Vec::new();
    while !flood.is_finished() {
        let before = done.load(Ordering::Relaxed);
        let mut neighbour = TcpStream::connect(orders.outbound.unwrap()).await.unwrap();
        echoed(&mut neighbour).await.unwrap();
        meanwhile.push(done.load(Ordering::Relaxed) - before);
    }
    flood.await.unwrap();
    meanwhile.sort_unstable();
    let (median, most) = (meanwhile[meanwhile.len() / 2], meanwhile[meanwhile.len() - 1]);
    println!(
        "of {FLOOD_LEASES} leases reset, during each of {} echoes: {median}, at most {most}",
        meanwhile.len()
    );
    assert!(most < LEASES_DURING_AN_ECHO_MAX, "{most}");
    eventually("nothing is left", || (payments.proxy.control.metrics.connections().1 == 0).then_some(()))
        .await;
}

/// A called side that says `bytes` after the word, and nothing more.
async fn silent(authority: Arc<Authority>, bytes: Vec<u8>, came: mpsc::Sender<()>) -> App {
    App::serve(move |tcp| {
        let (authority, bytes, came) = (authority.clone(), bytes.clone(), came.clone());
        async move {
            let mut tls = stranger::answer(&authority, "payments", tcp).await?;
            tls.read_exact(&mut [0; 12]).await?;
            tls.write_all(&bytes).await?;
            tls.flush().await?;
            came.send(()).await.unwrap();
            std::future::pending().await
        }
    })
    .await
}

async fn waiting(bytes: Vec<u8>) -> (TcpStream, Sidecar, App) {
    let authority = Arc::new(Authority::new());
    let (came, mut comes) = mpsc::channel(1);
    let called = silent(authority.clone(), bytes, came).await;
    let orders = Spec::new(&authority, "orders").to(&[called.address]).start(&authority);
    let mut app = TcpStream::connect(orders.outbound.unwrap()).await.unwrap();
    app.write_all(b"word").await.unwrap();
    comes.recv().await.unwrap();
    (app, orders, called)
}

async fn look_after(sidecar: &Sidecar, passed: Duration) {
    let proxy = &sidecar.proxy;
    let now = tokio::time::Instant::now() + passed;
    proxy.register.end_outlived(&proxy.control.config.limits, proxy.control.clock.now(), now).await;
}

#[tokio::test]
async fn an_open_that_is_never_answered_is_cut_in_time_and_its_app_reset() {
    let (mut app, orders, _called) = waiting(Vec::new()).await;
    look_after(&orders, Duration::ZERO).await;
    look_after(&orders, ANSWER_TIMEOUT - Duration::from_secs(5)).await;
    assert_eq!(orders.live(), 1);
    look_after(&orders, ANSWER_TIMEOUT + Duration::from_secs(1)).await;
    expect_reset(&mut app).await;
    let text = orders.proxy.control.metrics.text().unwrap();
    assert!(text.contains("postern_connections_terminated_total{reason=\"unanswered\"} 1"), "{text}");
    eventually("its place is free", || (orders.live() == 0).then_some(())).await;
}

#[tokio::test]
async fn one_that_was_answered_may_be_silent_for_longer() {
    let (mut app, orders, _called) = waiting([encoded(&Frame::Accept), data(b"word")].concat()).await;
    app.read_exact(&mut [0; 4]).await.unwrap();
    look_after(&orders, Duration::ZERO).await;
    look_after(&orders, ANSWER_TIMEOUT * 2).await;
    assert_eq!(orders.live(), 1);
    let idle = orders.proxy.control.config.limits.idle_timeout;
    look_after(&orders, idle * 2).await;
    expect_reset(&mut app).await;
}

#[tokio::test]
async fn data_for_a_refused_lease_is_not_taken_for_ever() {
    let (authority, app) = (Authority::new(), App::echo().await);
    let payments = Spec::new(&authority, "payments").app(app.address).start(&authority);
    let mut caller = Caller::connect(&authority, "reports", payments.inbound.unwrap()).await;
    caller.send(&open()).await.unwrap();
    assert!(matches!(caller.frame().await.unwrap(), Frame::Refuse(_)));
    let (chunk, mut sent) = (data(&[7; 60_000]), 0);
    tokio::time::pause();
    while caller.send(&chunk).await.is_ok() {
        sent += chunk.len();
        tokio::time::advance(WASTE_INTERVAL).await;
        assert!(sent < WASTE_BYTES_MAX, "it takes it for ever");
    }
    tokio::time::resume();
    println!("{sent} bytes for a refused lease");
    eventually("its place is free", || (payments.live() == 0).then_some(())).await;
}

#[tokio::test]
async fn peers_that_read_nothing_hold_up_only_their_own_leases() {
    let stuck = App::serve(async |stream: TcpStream| {
        let _unread = stream;
        std::future::pending().await
    })
    .await;
    let (authority, app) = (Authority::new(), App::echo().await);
    let slow = Spec::new(&authority, "payments").app(stuck.address).start(&authority);
    let fast = Spec::new(&authority, "payments").app(app.address).start(&authority);
    let to_slow = Spec::new(&authority, "orders").to(&[slow.inbound.unwrap()]).start(&authority);
    let mut full = Vec::new();
    for _ in 0..20 {
        let stream = TcpStream::connect(to_slow.outbound.unwrap()).await.unwrap();
        // Until nothing more is taken.
        let filled = async {
            loop {
                stream.writable().await.unwrap();
                let _would_block = stream.try_write(&[7; 60_000]);
            }
        };
        tokio::time::timeout(Duration::from_millis(100), filled).await.unwrap_err();
        full.push(stream);
    }
    assert_eq!(to_slow.live(), 20);
    let mut other = Caller::connect(&authority, "orders", fast.inbound.unwrap()).await;
    other.lease().await;
    let mut other = Caller::connect(&authority, "orders", slow.inbound.unwrap()).await;
    other.send(&[open(), data(b"word")].concat()).await.unwrap();
    assert_eq!(other.frame().await.unwrap(), Frame::Accept);
    // Where nothing moves in either direction, only time tells.
    let idle = to_slow.proxy.control.config.limits.idle_timeout;
    let looks = async {
        // What was under way when it was looked at has moved then, so it is looked at later and later.
        for times in 0.. {
            look_after(&to_slow, idle * 2 * times).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            if to_slow.live() == 0 {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, looks).await.expect("all places are free");
}
