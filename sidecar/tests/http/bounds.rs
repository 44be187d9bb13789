//! What one caller may have under way, each bound reached.

use std::time::Duration;

use postern_sidecar::config::{Http, Limits, MaxAge};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::apps::App;
use crate::http2_frames::{END_HEADERS, HEADERS, block, frame, literal, preface};
use crate::live::{Live, echo};
use crate::shop::{Shop, ask};
use crate::sidecar::{Sidecar, eventually};

/// A request that is let through and does not end, on a connection of its own.
async fn unfinished(shop: &Shop) -> TcpStream {
    let mut stream = TcpStream::connect(shop.orders.outbound.unwrap()).await.unwrap();
    let request = b"POST /charge HTTP/1.1\r\nhost: payments\r\ncontent-length: 10\r\n\r\nhalf";
    stream.write_all(request).await.unwrap();
    stream
}

async fn under_way(sidecar: &Sidecar, count: u64) {
    let requests = || {
        let shown = sidecar.proxy.register.shown();
        let of_each = shown["connections"].as_array().unwrap().iter();
        of_each.map(|connection| connection["requests"].as_u64().unwrap()).sum::<u64>()
    };
    eventually(&format!("{count} requests under way"), || (requests() == count).then_some(())).await;
}

#[tokio::test]
async fn an_identity_with_all_under_way_that_it_may_is_told_so_and_others_are_served() {
    let limits = Http { requests_per_peer_max: 2, ..Http::default() };
    let shop = Shop::with(|spec| spec.http = limits).await;
    let (first, _second) = (unfinished(&shop).await, unfinished(&shop).await);
    under_way(&shop.payments, 2).await;

    let refused = ask(&shop.orders, "GET /charges/7 HTTP/1.1").await;
    assert_eq!(refused.status(), 429, "{refused:?}");
    assert_eq!(refused.json()["type"], "urn:postern:requests_per_peer_max", "{refused:?}");
    shop.payments.refusal("requests_per_peer_max").await;
    let grpc = "POST /charge HTTP/1.1\r\ncontent-type: application/grpc\r\ncontent-length: 0";
    let refused = ask(&shop.orders, grpc).await;
    assert!(refused.head.contains("grpc-status: 8"), "RESOURCE_EXHAUSTED: {refused:?}");
    assert_eq!(ask(&shop.reports, "GET /charges/7 HTTP/1.1").await.status(), 200);

    drop(first);
    under_way(&shop.payments, 1).await;
    assert_eq!(ask(&shop.orders, "GET /charges/7 HTTP/1.1").await.status(), 200);
}

/// 4,096 bytes of a table make each request 27 KB longer than what is sent of it: so many connections of 91 such requests
/// reach the bound, and one does not.
#[tokio::test]
async fn heads_that_gain_much_by_compression_are_bounded_over_all_connections_of_an_identity() {
    let default = Http::default();
    gains_too_much(default, 3).await;
    gains_too_much(Http { expanded_bytes_per_peer_max: 100_000, ..default }, 1).await;
}

async fn gains_too_much(limits: Http, connections: usize) {
    /// RFC 7541 §6.1, §6.2.1: a literal that is kept in the table, and the newest entry of it.
    const KEPT: u8 = 0x40;
    const NEWEST: u8 = 0x80 | 62;
    let live = Live::with_limits(App::serve(echo::<TcpStream>).await, limits).await;
    let mut open = Vec::new();
    for _ in 0..connections {
        let mut stream = live.direct("orders", b"h2").await;
        let mut field = literal("x", &"v".repeat(3_900));
        field[0] = KEPT;
        let first = [block("POST", "/charge"), field].concat();
        let next = [block("POST", "/charge"), vec![NEWEST; 7]].concat();
        let requests = std::iter::once(first).chain(std::iter::repeat_n(next, 90)).enumerate();
        let requests = requests
            .flat_map(|(at, block)| frame(HEADERS, END_HEADERS, u32::try_from(2 * at + 1).unwrap(), &block));
        stream.write_all(&[preface(), requests.collect()].concat()).await.unwrap();
        stream.flush().await.unwrap();
        open.push(stream);
    }
    live.payments.refusal("expanded_bytes_per_peer_max").await;
    drop(open);
    eventually("all are gone", || (live.payments.live() == 0).then_some(())).await;
    let mut orders = live.direct("orders", b"http/1.1").await;
    assert_eq!(crate::live::asked(&mut orders, "POST /charge").await.unwrap(), 200, "given back");
}

/// The times are looked at as often as the shortest of them asks for.
#[tokio::test]
async fn a_connection_that_is_old_enough_ends_in_order_and_the_next_request_has_another() {
    let age = MaxAge::After(Duration::from_millis(300));
    let shop = Shop::with(|spec| {
        spec.limits = Limits { max_connection_age: age, ..Limits::default() };
        spec.http = Http { header_timeout: Duration::from_millis(200), ..Http::default() };
    })
    .await;
    for _ in 0..2 {
        assert_eq!(ask(&shop.orders, "GET /charges/7 HTTP/1.1").await.status(), 200);
        eventually("it has ended", || (shop.payments.live() == 0).then_some(())).await;
    }
    assert_eq!(shop.payments.proxy.refusals.newest().as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn ten_thousand_pipelined_requests_are_each_decided_and_answered_in_order() {
    const REQUESTS: usize = 10_000;
    let live = Live::new().await;
    let (mut read, mut write) = tokio::io::split(live.direct("orders", b"http/1.1").await);
    let is_allowed = |at: &usize| at.is_multiple_of(100);
    let one = |at: usize| {
        let path = if is_allowed(&at) { "/charge" } else { "/admin" };
        let end = if at + 1 == REQUESTS { "connection: close\r\n" } else { "" };
        let word = format!("word{at:04}");
        format!("POST {path} HTTP/1.1\r\nhost: payments\r\ncontent-length: 8\r\n{end}\r\n{word}")
    };
    let requests: String = (0..REQUESTS).map(one).collect();
    let mut answer = Vec::new();
    let (sent, received) = tokio::join!(write.write_all(requests.as_bytes()), read.read_to_end(&mut answer));
    sent.unwrap();
    received.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let statuses = answer.split("HTTP/1.1 ").skip(1).map(|one| &one[..3]);
    assert!(statuses.eq((0..REQUESTS).map(|at| if is_allowed(&at) { "200" } else { "403" })));
    let words = answer.split("\r\n\r\nword").skip(1).map(|rest| rest[..4].parse::<usize>().unwrap());
    assert!(words.eq((0..REQUESTS).filter(is_allowed)));
}
