//! Traffic notices nothing of restarts.

use postern_integration::apps::App;
use postern_integration::live::EchoStream;
use postern_integration::load::{Load, Outcome, Style};
use postern_integration::shop::{HTTP_POLICY, POLICY, Shop};
use postern_integration::{CaOptions, SidecarSpec, eventually, web};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::fixture::echo;

const RESTARTS: usize = 10;

/// Restarts both sidecars of the pair in turn, each time with some load more.
async fn restart_again_and_again(shop: &mut Shop, loads: Vec<Load>) -> Vec<Outcome> {
    for _ in 0..RESTARTS {
        let served = || loads.iter().map(Load::served).min().unwrap();
        let before = served();
        eventually("load", async || (served() > before + 5).then_some(())).await;
        for sidecar in [&mut shop.payments, &mut shop.orders] {
            let mut old = sidecar.succeed().await;
            assert_eq!(old.exit().await.code(), Some(0), "{}", old.output());
            assert_eq!(sidecar.get("/ready").await.unwrap().0, 200, "the new process answers");
        }
    }
    let mut outcomes = Vec::new();
    for load in loads {
        outcomes.push(load.stop().await);
    }
    outcomes
}

fn assert_none_failed(outcomes: Vec<Outcome>) {
    for Outcome { served, failures } in outcomes {
        assert_eq!(failures, Vec::<String>::new(), "of {served}");
        assert!(served > RESTARTS as u64, "{served}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_restarts_in_a_row_refuse_and_reset_no_new_tcp_connection() {
    let app = App::echo().await;
    let mut shop = Shop::start_as(CaOptions::default(), app, POLICY, |spec| spec.restartable()).await;
    let load = Load::start(shop.orders_to_payments(), Style::FreshConnections, 8);
    assert_none_failed(restart_again_and_again(&mut shop, vec![load]).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_restarts_in_a_row_fail_no_new_http_request() {
    let app = web::app().await;
    let change = |spec: SidecarSpec| spec.http().restartable();
    let mut shop = Shop::start_as(CaOptions::default(), app, HTTP_POLICY, change).await;
    let to = shop.orders_to_payments();
    let loads = vec![Load::start(to, Style::FreshHttp1, 8)];
    assert_none_failed(restart_again_and_again(&mut shop, loads).await);
}

#[tokio::test]
async fn open_connections_live_on_in_the_old_process_until_they_end() {
    let app = App::echo().await;
    let mut shop = Shop::start_as(CaOptions::default(), app, POLICY, |spec| spec.restartable()).await;
    let mut stream = TcpStream::connect(shop.orders_to_payments()).await.unwrap();
    echo(&mut stream, b"before").await;
    let mut old = [shop.payments.succeed().await, shop.orders.succeed().await];
    for old in &old {
        old.line_with(&["draining", "live=1"]).await;
    }
    echo(&mut stream, b"while both old processes drain").await;
    let mut fresh = TcpStream::connect(shop.orders_to_payments()).await.unwrap();
    echo(&mut fresh, b"through both new processes").await;
    assert_eq!(shop.payments.status().await["connections"]["live"], 1);
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0, "a clean end");
    for old in &mut old {
        assert_eq!(old.exit().await.code(), Some(0), "{}", old.output());
    }
    echo(&mut fresh, b"still there").await;
}

#[tokio::test]
async fn http_streams_live_on_in_the_old_process_until_they_end() {
    let change = |spec: SidecarSpec| spec.http().restartable();
    let mut shop = Shop::start_as(CaOptions::default(), web::app().await, HTTP_POLICY, change).await;
    let mut stream = EchoStream::open(shop.orders_to_payments()).await;
    stream.echo().await.unwrap();
    let mut old = [shop.payments.succeed().await, shop.orders.succeed().await];
    for old in &old {
        old.line_with(&["draining"]).await;
    }
    stream.echo().await.unwrap();
    stream.end().await;
    for old in &mut old {
        assert_eq!(old.exit().await.code(), Some(0), "{}", old.output());
    }
}

#[tokio::test]
async fn what_outlives_the_drain_deadline_is_cut() {
    let change = |spec: SidecarSpec| spec.restartable().extra("[shutdown]\ndrain_deadline = \"200ms\"\n");
    let mut shop = Shop::start_as(CaOptions::default(), App::echo().await, POLICY, change).await;
    let mut stream = TcpStream::connect(shop.orders_to_payments()).await.unwrap();
    echo(&mut stream, b"before").await;
    let mut old = shop.payments.succeed().await;
    assert!(stream.read_u8().await.is_err(), "a reset, not a clean end");
    assert_eq!(old.exit().await.code(), Some(0));
}

/// `[[outbound]]` is allowed 256 times.
#[tokio::test]
async fn as_many_listeners_as_are_allowed_are_taken_over() {
    let mut shop = crate::fixture::shop().await;
    let mut spec = SidecarSpec::new("orders").second().restartable().policy(&shop.policy);
    for _ in 0..256 {
        spec = spec.outbound("payments", shop.payments_inbound());
    }
    shop.reports = shop.mesh.sidecar(&shop.ca, &spec);
    shop.reports.ready().await;
    let mut old = shop.reports.succeed().await;
    assert_eq!(old.exit().await.code(), Some(0), "{}", old.output());
    old.line_with(&["listeners=257"]).await;
    for outbound in &shop.reports.outbounds {
        echo(&mut TcpStream::connect(outbound).await.unwrap(), b"through each").await;
    }
}
