//! More requests at once than the other side allows on a connection: further connections, or an answer that says why not.

use std::time::Duration;

use http::StatusCode;
use postern_sidecar::config::Http;
use postern_sidecar::observability::Direction;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::apps::reset;
use crate::authority::Authority;
use crate::live::{ALL, Http2, Live, policy};
use crate::peers::{counting, orders};
use crate::shop::{ask, requests_under_way};
use crate::sidecar::{PATIENCE, Sidecar, eventually};

const HTTP2: &[&[u8]] = &[b"h2"];

/// A status that comes without waiting for any other request.
async fn asked(orders: &Sidecar) -> u16 {
    let asking = ask(orders, "POST /charge HTTP/1.1\r\ncontent-length: 0");
    tokio::time::timeout(PATIENCE, asking).await.expect("never silence").status()
}

#[tokio::test]
async fn streams_beyond_what_a_peer_allows_have_further_connections() {
    let authority = Authority::new();
    let (peer, count) = counting(&authority, HTTP2, 2).await;
    let orders = orders(&authority, |spec| spec.to(&[peer.address]));
    let client = Http2::through(&orders).await;
    let mut open = Vec::new();
    for _ in 0..7 {
        open.push(client.open("/charge").await);
    }
    assert_eq!(count.connections(), 4, "two on each");
    assert_eq!(asked(&orders).await, 200);
    for stream in &mut open {
        stream.echoed().await.unwrap();
    }
}

#[tokio::test]
async fn when_there_are_as_many_connections_as_may_be_the_answer_names_the_limit_at_once() {
    let authority = Authority::new();
    let (peer, count) = counting(&authority, HTTP2, 1).await;
    let limits = Http { http2_connections_max: 2, ..Http::default() };
    let orders = orders(&authority, |mut spec| {
        spec.http = limits;
        spec.to(&[peer.address])
    });
    let client = Http2::through(&orders).await;
    let (first, _second) = (client.open("/charge").await, client.open("/charge").await);
    let refused = ask(&orders, "POST /charge HTTP/1.1\r\ncontent-length: 0").await;
    assert_eq!(
        (refused.status(), &refused.json()["type"]),
        (503, &"urn:postern:http2_connections_max".into())
    );
    assert!(refused.json()["detail"].as_str().unwrap().contains("http2_connections_max = 2"), "{refused:?}");
    let grpc = "POST /shop.Charges/Chat HTTP/1.1\r\ncontent-type: application/grpc\r\ncontent-length: 0";
    let refused = ask(&orders, grpc).await;
    assert!(refused.head.contains("grpc-status: 14"), "UNAVAILABLE: {refused:?}");
    first.end().await;
    eventually("there is room", || (requests_under_way(&orders) == 1).then_some(())).await;
    assert_eq!(asked(&orders).await, 200);
    assert_eq!(count.connections(), 2);
}

#[tokio::test]
async fn a_peer_that_allows_no_stream_at_all_is_an_answer_too() {
    let authority = Authority::new();
    let (peer, _count) = counting(&authority, HTTP2, 0).await;
    let orders = orders(&authority, |spec| spec.to(&[peer.address]));
    let refused = ask(&orders, "POST /charge HTTP/1.1\r\ncontent-length: 0").await;
    assert_eq!((refused.status(), &refused.json()["type"]), (503, &"urn:postern:no_streams".into()));
}

#[tokio::test]
async fn between_two_sidecars_the_streams_that_the_called_one_allows_are_no_limit_to_all() {
    let limits = Http { streams_max: 2, ..Http::default() };
    let live = Live::with_limits(crate::apps::App::serve(crate::live::echo).await, limits).await;
    live.payments.apply(&policy(Some(ALL), None));
    let client = Http2::through(&live.orders).await;
    let mut open = Vec::new();
    for path in ["/charge", "/shop.Charges/Chat"].repeat(4) {
        let (status, stream) = client.post(path).await.unwrap();
        assert_eq!(status, StatusCode::OK);
        open.push(stream);
    }
    for stream in &mut open {
        stream.echoed().await.unwrap();
    }
}

#[tokio::test]
async fn requests_that_wait_for_a_connection_are_shown() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = Authority::new();
    let orders = orders(&authority, |mut spec| {
        spec.limits.handshake_timeout = Duration::from_secs(60);
        spec.to(&[silent.local_addr().unwrap()])
    });
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(orders.outbound.unwrap()).await.unwrap();
        stream.write_all(b"GET /charges/7 HTTP/1.1\r\nhost: payments\r\n\r\n").await.unwrap();
        waiting.push(stream);
    }
    let shown = || orders.proxy.upstreams.shown(Direction::Outbound, 0)["requests_waiting"].as_u64();
    eventually("three wait", || (shown() == Some(3)).then_some(())).await;
    orders.proxy.measure();
    let text = orders.proxy.control.metrics.text().unwrap();
    let line = "postern_http_requests_waiting{direction=\"outbound\",listener=\"payments\"} 3";
    assert!(text.contains(line), "{text}");
    waiting.into_iter().for_each(reset);
    eventually("nobody waits", || (shown() == Some(0)).then_some(())).await;
}
