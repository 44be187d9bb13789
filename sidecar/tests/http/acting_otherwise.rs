//! What else acts at once on live HTTP: a root that is removed, a service that enforces again, a change that comes
//! while a request is being decided.

use std::sync::Arc;

use time::OffsetDateTime;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::apps::{App, expect_reset};
use crate::authority::{Authority, Validity, id};
use crate::live::{ALL, Http2, Live, Switch, asked, policy, switched};
use crate::sidecar::eventually;

#[tokio::test]
async fn a_root_that_is_no_longer_trusted_takes_its_streams_and_sockets_with_it() {
    let live = Live::new().await;
    let mut socket = switched(live.orders.outbound.unwrap(), Switch::WebSocket).await;
    let mut stream = Http2::through(&live.orders).await.open("/charge").await;
    let mut idle = live.direct("orders", b"http/1.1").await;
    assert_eq!(asked(&mut idle, "POST /charge").await.unwrap(), 200);
    let other = Authority::new();
    let validity = Validity::of(time::Duration::hours(1), OffsetDateTime::now_utc());
    let svid = other.svid(&id("payments"), validity);
    live.payments.proxy.control.credentials.replace(svid, Arc::new(other.bundles())).unwrap();
    expect_reset(&mut socket).await;
    stream.expect_reset().await;
    asked(&mut idle, "POST /charge").await.unwrap_err();
    eventually("nothing of it is left", || (live.payments.live() == 0).then_some(())).await;
}

#[tokio::test]
async fn a_service_that_enforces_again_cuts_what_it_only_observed() {
    let live = Live::new().await;
    let observing = policy(Some(r#""POST /refund""#), None)
        .replace("[service.payments]", "[service.payments]\nmode = \"observe\"");
    live.payments.apply(&observing);
    let connection = Http2::through(&live.orders).await;
    let (mut charge, mut refund) = (connection.open("/charge").await, connection.open("/refund").await);
    let mut reports = Http2::through(&live.reports).await.open("/charge").await;
    live.payments.apply(&observing.replace("observe", "enforce"));
    charge.expect_reset().await;
    reports.expect_reset().await;
    refund.echoed().await.unwrap();
}

#[tokio::test]
async fn a_request_that_is_cut_before_its_answer_is_told_why_and_its_app_sees_it_broken() {
    let (seen, mut saw) = mpsc::channel(1);
    // Reads a request to its end, and never answers.
    let app = App::serve(move |mut stream: TcpStream| {
        let seen = seen.clone();
        async move {
            let mut request = Vec::new();
            while !request.ends_with(b"4\r\nword\r\n") {
                tokio::io::AsyncReadExt::read_buf(&mut stream, &mut request).await?;
            }
            seen.send(None).await.map_err(std::io::Error::other)?;
            let mut rest = Vec::new();
            // A reset or an end: what counts is that the last chunk never came.
            let _ended = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest).await;
            seen.send(Some(rest)).await.map_err(std::io::Error::other)
        }
    })
    .await;
    let live = Live::with(app).await;
    let mut stream = TcpStream::connect(live.orders.outbound.unwrap()).await.unwrap();
    let head = "POST /charge HTTP/1.1\r\nhost: payments\r\ntransfer-encoding: chunked\r\n\r\n4\r\nword\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut stream, head.as_bytes()).await.unwrap();
    assert_eq!(saw.recv().await.unwrap(), None, "the app has the first piece");
    live.payments.apply(&policy(Some(r#""POST /refund""#), None));
    let mut answer = Vec::new();
    while !answer.windows(9).any(|window| window == b"withdrawn") {
        assert_ne!(tokio::io::AsyncReadExt::read_buf(&mut stream, &mut answer).await.unwrap(), 0);
    }
    assert!(answer.starts_with(b"HTTP/1.1 403"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(saw.recv().await.unwrap(), Some(Vec::new()), "no last chunk");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_slips_between_a_decision_and_a_change() {
    let live = Live::new().await;
    let connection = Arc::new(Http2::through(&live.orders).await);
    let refund_only = policy(Some(r#""POST /refund""#), None);
    for _ in 0..50 {
        live.payments.apply(&policy(Some(ALL), None));
        let callers: Vec<_> = (0..8)
            .map(|_| {
                let connection = connection.clone();
                // Opened or refused: it was decided before or after the change.
                tokio::spawn(async move { connection.post("/charge").await.map(|(_, stream)| stream) })
            })
            .collect();
        live.payments.apply(&refund_only);
        let mut streams = Vec::new();
        for caller in callers {
            streams.push(caller.await.unwrap());
        }
        eventually("every request is refused or cut", || (under_way(&live) == 0).then_some(())).await;
    }
    assert_eq!(live.payments.live(), 1, "their connection stays, for it may carry refunds");
}

fn under_way(live: &Live) -> u64 {
    let shown = live.payments.proxy.register.shown();
    let connections = shown["connections"].as_array().unwrap();
    connections.iter().map(|connection| connection["requests"].as_u64().unwrap()).sum()
}
