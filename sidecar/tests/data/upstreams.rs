//! Among the addresses of a service those that work are used, and those that do not are told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use postern_sidecar::config::{HostPort, Limits};
use postern_sidecar::network::dial::ATTEMPTS_MAX;
use postern_sidecar::observability::Direction;
use postern_sidecar::observability::metrics::Metrics;
use postern_sidecar::proxy::upstream::attempt::NEXT_WITHIN;
use postern_sidecar::proxy::upstream::load_balancer::EJECT_AFTER;
use postern_sidecar::proxy::upstream::{UpstreamRegister, Upstreams};
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::apps::{App, echoed, expect_refused};
use crate::authority::Authority;
use crate::sidecar::{PATIENCE, Sidecar, Spec, eventually, host_port};

/// Nobody listens there.
fn dead() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Connecting there hangs: the queue is full, and nobody takes from it.
async fn hanging() -> (TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let (at, mut queued) = (listener.local_addr().unwrap(), Vec::new());
    while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(at)).await
    {
        queued.push(stream);
    }
    (listener, queued)
}

async fn call(sidecar: &Sidecar) -> TcpStream {
    TcpStream::connect(sidecar.outbound.unwrap()).await.unwrap()
}

async fn all_succeed(sidecar: &Sidecar, count: usize) {
    for _ in 0..count {
        echoed(&mut call(sidecar).await).await.unwrap();
    }
}

/// What `/status` shows of an address.
fn shown(sidecar: &Sidecar, direction: Direction, at: SocketAddr) -> Value {
    let shown = sidecar.proxy.upstreams.shown(direction, 0);
    let all = shown["addresses"].as_array().unwrap();
    all.iter().find(|one| one["address"] == at.to_string()).unwrap().clone()
}

fn is_ejected(sidecar: &Sidecar, at: SocketAddr) -> bool {
    shown(sidecar, Direction::Outbound, at)["ejected_for"].is_string()
}

fn hasty() -> Limits {
    let soon = Duration::from_millis(250);
    Limits { connect_timeout: soon, handshake_timeout: soon, ..Limits::default() }
}

#[tokio::test]
async fn with_one_dead_and_one_live_address_every_connection_succeeds_and_the_dead_one_is_ejected() {
    let (authority, app) = (Authority::new(), App::echo().await);
    let payments = Spec::new(&authority, "payments").app(app.address).start(&authority);
    let (dead, live) = (dead(), payments.inbound.unwrap());
    let orders = Spec::new(&authority, "orders").to(&[dead, live]).start(&authority);
    // Looked at after each connection: the first ejection is a short one.
    while !is_ejected(&orders, dead) {
        all_succeed(&orders, 1).await;
    }
    assert!(!is_ejected(&orders, live));
    assert_eq!(shown(&orders, Direction::Outbound, dead)["failures"], EJECT_AFTER);
    let text = orders.proxy.control.metrics.text().unwrap();
    assert!(text.contains("postern_upstream_ejections_total{direction=\"outbound\"} 1\n"), "{text}");
    assert!(text.contains("postern_upstream_failures_total{direction=\"outbound\"} 3\n"), "{text}");
    assert_eq!(orders.proxy.refusals.newest(), Value::Array(vec![]), "nobody was refused");
    orders.all_ended().await;
}

#[tokio::test]
async fn addresses_that_hang_in_connecting_or_handshake_speak_no_tls_or_are_someone_else_hinder_nobody() {
    let (authority, app) = (Authority::new(), App::echo().await);
    let payments = Spec::new(&authority, "payments").app(app.address).start(&authority);
    let reports = Spec::new(&authority, "reports").app(app.address).start(&authority);
    let (hanging, silent) = (hanging().await, App::serve(async |_held| std::future::pending().await).await);
    let rude =
        App::serve(async |stream: TcpStream| stream.try_write(b"HTTP/1.1 400\r\n\r\n").map(|_| ())).await;
    let bad =
        [hanging.0.local_addr().unwrap(), silent.address, rude.address, reports.inbound.unwrap(), dead()];
    let to = [&bad[..], &[payments.inbound.unwrap()]].concat();
    let mut spec = Spec::new(&authority, "orders").to(&to);
    spec.limits = hasty();
    let orders = spec.start(&authority);
    while !bad.iter().all(|&at| shown(&orders, Direction::Outbound, at)["failures"] != 0) {
        all_succeed(&orders, 1).await;
    }
    all_succeed(&orders, 10).await;
    let reasons = ["handshake_timeout", "handshake_failed", "wrong_identity"];
    for reason in reasons {
        orders.refusal(reason).await;
    }
}

/// Longer than any test waits.
fn patient() -> Limits {
    let late = Duration::from_secs(300);
    Limits { connect_timeout: late, handshake_timeout: late, ..Limits::default() }
}

#[tokio::test]
async fn silent_addresses_delay_nobody_until_their_timeouts_and_are_ejected() {
    let (authority, app) = (Authority::new(), App::echo().await);
    let payments = Spec::new(&authority, "payments").app(app.address).start(&authority);
    let (hanging, silent) = (hanging().await, App::serve(async |_held| std::future::pending().await).await);
    let bad = [hanging.0.local_addr().unwrap(), silent.address];
    let mut spec = Spec::new(&authority, "orders").to(&[&bad[..], &[payments.inbound.unwrap()]].concat());
    spec.limits = patient();
    let orders = spec.start(&authority);
    while !bad.iter().all(|&at| is_ejected(&orders, at)) {
        tokio::time::timeout(PATIENCE, all_succeed(&orders, 1)).await.expect("no timeout is waited for");
    }
    let in_flight = |at: SocketAddr| shown(&orders, Direction::Outbound, at)["in_flight"].as_u64().unwrap();
    assert_eq!(bad.map(in_flight), [0, 0], "an attempt that has lost is over");
    assert_eq!(orders.proxy.refusals.newest(), Value::Array(vec![]), "nobody was refused");
    orders.all_ended().await;
}

#[tokio::test]
async fn behind_localhost_an_app_of_either_family_is_one_instance_without_failures() {
    let authority = Authority::new();
    for own in ["127.0.0.1:0", "[::1]:0"] {
        let listener = TcpListener::bind(own).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut spec = Spec::new(&authority, "payments");
        spec.app = Some(HostPort { host: "localhost".to_owned(), port });
        let payments = spec.start(&authority);
        let orders = Spec::new(&authority, "orders").to(&[payments.inbound.unwrap()]).start(&authority);
        for _ in 0..EJECT_AFTER * 4 {
            let (mut caller, accepted) = tokio::join!(call(&orders), listener.accept());
            let (mut app, _) = accepted.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut app, b"x").await.unwrap();
            assert_eq!(caller.read_u8().await.unwrap(), b'x');
        }
        let shown = payments.proxy.upstreams.shown(Direction::Inbound, 0);
        let [one] = &shown["addresses"].as_array().unwrap()[..] else { panic!("one instance: {shown}") };
        assert_eq!(one["address"], listener.local_addr().unwrap().to_string());
        assert_eq!((&one["failures"], &one["ejected_for"]), (&0.into(), &Value::Null));
    }
}

#[tokio::test]
async fn when_all_addresses_are_dead_the_refusal_names_each_and_that_they_were_dead_before() {
    let authority = Authority::new();
    let to = [dead(), dead(), dead()];
    let orders = Spec::new(&authority, "orders").to(&to).start(&authority);
    for _ in 0..EJECT_AFTER {
        expect_refused(orders.outbound.unwrap()).await;
    }
    let told = orders.refusal("unreachable").await;
    let detail = told["detail"].as_str().unwrap();
    assert!(to.iter().all(|at| detail.contains(&format!("{at} cannot be reached"))), "{detail}");
    let ejected =
        async || eventually("ejected", || to.iter().all(|&at| is_ejected(&orders, at)).then_some(())).await;
    ejected().await;
    expect_refused(orders.outbound.unwrap()).await;
    let says_so = || {
        let newest = orders.proxy.refusals.newest()[0]["detail"].as_str().unwrap().to_owned();
        newest.contains("every address had failed again and again before").then_some(())
    };
    eventually("it is said", says_so).await;
}

#[tokio::test]
async fn two_live_addresses_share_the_connections_that_are_open() {
    let (authority, app) = (Authority::new(), App::echo().await);
    let payments = [(); 2].map(|()| Spec::new(&authority, "payments").app(app.address).start(&authority));
    let to = payments.each_ref().map(|sidecar| sidecar.inbound.unwrap());
    let orders = Spec::new(&authority, "orders").to(&to).start(&authority);
    let mut open = Vec::new();
    for _ in 0..60 {
        let mut stream = call(&orders).await;
        echoed(&mut stream).await.unwrap();
        open.push(stream);
    }
    let live = payments.each_ref().map(Sidecar::live);
    assert_eq!(live, [30, 30], "each new one goes where there are fewer");
    let in_flight = |at: SocketAddr| shown(&orders, Direction::Outbound, at)["in_flight"].as_u64().unwrap();
    assert_eq!(to.map(in_flight), [30, 30]);
    drop(open);
    eventually("none", || (to.map(in_flight) == [0, 0]).then_some(())).await;
}

#[tokio::test]
async fn an_app_that_flaps_is_served_whenever_it_is_there_and_told_whenever_it_is_not() {
    let authority = Authority::new();
    let at = dead();
    let payments = Spec::new(&authority, "payments").app(at).start(&authority);
    let orders = Spec::new(&authority, "orders").to(&[payments.inbound.unwrap()]).start(&authority);
    for round in 1..=5_u64 {
        for _ in 0..EJECT_AFTER + 1 {
            expect_refused(orders.outbound.unwrap()).await;
        }
        let is_told = || (payments.proxy.refusals.newest()[0]["count"] == round * 4).then_some(());
        eventually("it is told", is_told).await;
        let listener =
            postern_sidecar::proxy::listener::open(at, postern_sidecar::proxy::listener::Families::Own)
                .unwrap();
        let mut stream = call(&orders).await;
        let (mut served, _) = listener.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"word").await.unwrap();
        served.read_exact(&mut [0; 4]).await.unwrap();
        assert!(shown(&payments, Direction::Inbound, at)["ejected_for"].is_null(), "one success forgives");
    }
    let told = payments.refusal("app_unreachable").await;
    assert!(told["detail"].as_str().unwrap().contains(&at.to_string()), "{told}");
}

#[tokio::test]
async fn an_instance_that_can_serve_nobody_is_left_alone_though_its_handshakes_succeed() {
    let (authority, app) = (Authority::new(), App::echo().await);
    let mut spec = Spec::new(&authority, "payments").app(app.address);
    spec.svid = None;
    let (broken, payments) =
        (spec.start(&authority), Spec::new(&authority, "payments").app(app.address).start(&authority));
    let to = [broken.inbound.unwrap(), payments.inbound.unwrap()];
    let orders = Spec::new(&authority, "orders").to(&to).start(&authority);
    while !is_ejected(&orders, to[0]) {
        // Whether it is served depends on where it goes.
        let _either_way = echoed(&mut call(&orders).await).await;
    }
    orders.refusal("peer_failed").await;
    all_succeed(&orders, 20).await;
}

#[tokio::test]
async fn a_connection_that_is_cut_while_it_is_being_made_counts_nowhere() {
    let authority = Authority::new();
    let silent = App::serve(async |_held| std::future::pending().await).await;
    let orders = Spec::new(&authority, "orders").to(&[silent.address]).start(&authority);
    let stream = call(&orders).await;
    let in_flight = || shown(&orders, Direction::Outbound, silent.address)["in_flight"].as_u64().unwrap();
    eventually("one in flight", || (in_flight() == 1).then_some(())).await;
    orders.abort.cancel();
    eventually("none", || (in_flight() == 0).then_some(())).await;
    assert_eq!(shown(&orders, Direction::Outbound, silent.address)["failures"], 0);
    drop(stream);
}

fn upstreams(to: &[SocketAddr]) -> Arc<Upstreams> {
    let to: Vec<HostPort> = to.iter().copied().map(host_port).collect();
    let metrics = Arc::<Metrics>::default();
    let series = metrics.series.listener(Direction::Outbound, "payments");
    Upstreams::new(&to, series, Limits::default(), Default::default(), metrics)
}

#[tokio::test]
async fn a_connection_tries_a_bounded_number_of_addresses() {
    // All different, and nobody listens there.
    let to: Vec<_> =
        (1..=ATTEMPTS_MAX + 8).map(|port| format!("127.9.9.9:{port}").parse().unwrap()).collect();
    let unreached = upstreams(&to).connect().await.unwrap_err();
    assert_eq!((unreached.errors.len(), unreached.untried), (ATTEMPTS_MAX, 8));
    assert!(unreached.to_string().contains("; 8 more were not tried"), "{unreached}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_begins_with_no_further_address_after_a_while() {
    let upstreams = upstreams(&[dead(), dead()]);
    let mut attempt = upstreams.attempt();
    attempt.next().await.unwrap();
    tokio::time::advance(NEXT_WITHIN).await;
    assert!(attempt.next().await.is_none());
    assert_eq!(attempt.unreached(Vec::new()).untried, 1);
}

#[tokio::test]
async fn many_connections_at_once_to_a_dead_and_a_live_app_all_succeed() {
    let served = Arc::new(AtomicUsize::new(0));
    let counted = served.clone();
    let app = App::serve(move |mut stream: TcpStream| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move { stream.read(&mut [0]).await.map(|_| ()) }
    })
    .await;
    let upstreams = upstreams(&[dead(), app.address, dead()]);
    let register = UpstreamRegister::default();
    register.enter(0, &upstreams);
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..300 {
        let upstreams = upstreams.clone();
        all.spawn(async move { upstreams.connect().await.unwrap() });
    }
    let open = all.join_all().await;
    let shown = register.shown(Direction::Outbound, 0);
    let in_flight: Vec<_> =
        shown["addresses"].as_array().unwrap().iter().map(|one| one["in_flight"].as_u64().unwrap()).collect();
    assert_eq!(in_flight, [0, 0, 300], "{shown}");
    drop(open);
    eventually("served", || (served.load(Ordering::Relaxed) == 300).then_some(())).await;
}
