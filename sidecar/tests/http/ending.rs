//! The end of a sidecar over HTTP: idle connections are closed, what is under way finishes, nothing new is taken.

use std::time::Duration;

use postern_sidecar::config::Http;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::apps::{App, echoed};
use crate::live::{Http2, Live, Switch, asked, switched};
use crate::sidecar::eventually;

#[tokio::test]
async fn an_idle_keep_alive_is_closed_cleanly() {
    let live = Live::new().await;
    let mut idle = live.direct("orders", b"http/1.1").await;
    assert_eq!(asked(&mut idle, "POST /charge").await.unwrap(), 200);
    live.payments.stop.cancel();
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0);
    live.payments.all_ended().await;
}

#[tokio::test]
async fn who_was_let_in_just_before_the_end_is_answered_once() {
    let live = Live::new().await;
    let mut one = live.direct("orders", b"http/1.1").await;
    let other = live.direct("orders", b"h2").await;
    eventually("both are in", || (live.payments.live() == 2).then_some(())).await;
    live.payments.stop.cancel();
    assert_eq!(asked(&mut one, "POST /charge").await.unwrap(), 200);
    assert_eq!(one.read(&mut [0; 1]).await.unwrap(), 0, "no second time");
    let mut stream = Http2::over(other).await.open("/charge").await;
    stream.echoed().await.unwrap();
    stream.end().await;
    live.payments.all_ended().await;
}

#[tokio::test]
async fn who_was_let_in_and_says_nothing_holds_up_the_end_for_header_timeout_only() {
    let limits = Http { header_timeout: Duration::from_millis(200), ..Http::default() };
    let live = Live::with_limits(App::serve(async |_| Ok(())).await, limits).await;
    let mut silent = live.direct("orders", b"http/1.1").await;
    eventually("it is in", || (live.payments.live() == 1).then_some(())).await;
    live.payments.stop.cancel();
    assert_eq!(silent.read(&mut [0; 1]).await.unwrap(), 0);
    live.payments.all_ended().await;
}

#[tokio::test]
async fn an_http_1_request_under_way_finishes_and_its_connection_with_it() {
    let live = Live::new().await;
    let mut stream = live.direct("orders", b"http/1.1").await;
    stream
        .write_all(b"POST /charge HTTP/1.1\r\nhost: payments\r\ncontent-length: 8\r\n\r\nword")
        .await
        .unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"word") {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
    }
    live.payments.stop.cancel();
    stream.write_all(b"done").await.unwrap();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.ends_with(b"done"), "{}", String::from_utf8_lossy(&answer));
    live.payments.all_ended().await;
}

#[tokio::test]
async fn an_http_2_connection_finishes_its_streams_and_takes_no_more() {
    let live = Live::new().await;
    let connection = Http2::over(live.direct("orders", b"h2").await).await;
    let mut stream = connection.open("/charge").await;
    live.payments.stop.cancel();
    stream.echoed().await.unwrap();
    connection.goaway().await;
    stream.echoed().await.unwrap();
    stream.end().await;
    live.payments.all_ended().await;
}

#[tokio::test]
async fn what_has_switched_goes_on_until_it_ends() {
    for switch in Switch::BOTH {
        let live = Live::new().await;
        let mut socket = switched(live.orders.outbound.unwrap(), switch).await;
        live.payments.stop.cancel();
        live.orders.stop.cancel();
        echoed(&mut socket).await.unwrap();
        socket.shutdown().await.unwrap();
        assert_eq!(socket.read(&mut [0; 1]).await.unwrap(), 0);
        live.orders.all_ended().await;
        live.payments.all_ended().await;
    }
}
