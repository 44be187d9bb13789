//! How long HTTP lasts under a certificate or an age, and an upgraded connection on which nothing moves: each is cut with
//! its reason, and no other is.

use std::sync::Arc;
use std::time::Duration;

use postern_sidecar::config::{AccessLogConfig, AccessLogTarget, Limits, MaxAge};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::apps::{App, echoed, expect_reset};
use crate::clock::SetClock;
use crate::live::{Http2, Live, Switch, accept_of, asked, echo, switched};
use crate::short::line;
use crate::sidecar::{Sidecar, eventually};

const HOUR: Duration = Duration::from_secs(3600);

/// Looks at the times of `payments`, as it does itself, when so much time has passed.
async fn look_after(payments: &Sidecar, passed: Duration) {
    let proxy = &payments.proxy;
    proxy
        .register
        .end_outlived(&proxy.control.config.limits, proxy.control.clock.now(), Instant::now() + passed)
        .await;
}

/// An HTTP/1.1 answer that goes on.
async fn streaming(live: &Live) -> TcpStream {
    let mut stream = TcpStream::connect(live.orders.outbound.unwrap()).await.unwrap();
    let head = "POST /charge HTTP/1.1\r\nhost: payments\r\ntransfer-encoding: chunked\r\n\r\n4\r\nword\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"word\r\n") {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
    }
    stream
}

#[tokio::test]
async fn what_streams_is_reset_soon_after_its_connection_is_too_old() {
    for age in [MaxAge::Svid, MaxAge::After(HOUR)] {
        let clock = Arc::<SetClock>::default();
        let live = Live::with_payments(App::serve(echo).await, |payments| {
            payments.limits.max_connection_age = age;
            payments.clock = clock.clone();
        })
        .await;
        let mut http1 = streaming(&live).await;
        let mut http2 = Http2::through(&live.orders).await.open("/charge").await;
        let mut upgraded = switched(live.orders.outbound.unwrap(), Switch::Upgrade).await;
        let mut socket = switched(live.orders.outbound.unwrap(), Switch::WebSocket).await;
        look_after(&live.payments, Duration::ZERO).await;
        echoed(&mut upgraded).await.unwrap();
        echoed(&mut socket).await.unwrap();
        http2.echoed().await.unwrap();
        if age == MaxAge::Svid {
            clock.set_wrong_by(time::Duration::HOUR + time::Duration::seconds(2));
        }
        look_after(&live.payments, HOUR).await;
        look_after(&live.payments, HOUR + Duration::from_secs(3)).await;
        expect_reset(&mut http1).await;
        http2.expect_reset().await;
        expect_reset(&mut upgraded).await;
        expect_reset(&mut socket).await;
        eventually("nothing is left", || (live.payments.live() == 0).then_some(())).await;
        let text = live.payments.proxy.control.metrics.text().unwrap();
        assert!(text.contains("reason=\"max_connection_age\""), "{text}");
    }
}

#[tokio::test]
async fn a_request_under_way_has_time_to_finish_and_the_next_has_another_connection() {
    let live = Live::with_payments(App::serve(echo).await, |payments| {
        payments.limits.max_connection_age = MaxAge::After(HOUR);
    })
    .await;
    let mut one = live.direct("orders", b"http/1.1").await;
    assert_eq!(asked(&mut one, "POST /charge").await.unwrap(), 200);
    let other = Http2::over(live.direct("orders", b"h2").await).await;
    let mut stream = other.open("/charge").await;
    look_after(&live.payments, HOUR).await;
    assert_eq!(one.read(&mut [0; 1]).await.unwrap(), 0, "ended in order");
    other.goaway().await;
    stream.echoed().await.unwrap();
    stream.end().await;
}

#[tokio::test]
async fn the_caller_looks_at_the_age_of_its_connections_too() {
    let live = Live::with_orders(App::serve(echo).await, |orders| {
        orders.limits.max_connection_age = MaxAge::After(HOUR);
    })
    .await;
    let mut http2 = Http2::through(&live.orders).await.open("/charge").await;
    let mut socket = switched(live.orders.outbound.unwrap(), Switch::WebSocket).await;
    let mut upgraded = switched(live.orders.outbound.unwrap(), Switch::Upgrade).await;
    look_after(&live.orders, HOUR).await;
    http2.echoed().await.unwrap();
    look_after(&live.orders, HOUR + Duration::from_secs(3)).await;
    http2.expect_reset().await;
    expect_reset(&mut socket).await;
    expect_reset(&mut upgraded).await;
}

#[tokio::test]
async fn an_upgraded_connection_on_which_nothing_moves_is_cut_and_one_that_moves_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let short = Duration::from_secs(1);
    let idle = Limits { idle_timeout: short, ..Limits::default() };
    let half = Limits { half_closed_timeout: short, ..Limits::default() };
    for (switch, limits, half_closed, reason) in Switch::BOTH.into_iter().flat_map(|switch| {
        [(switch, idle, false, "idle_timeout"), (switch, half, true, "half_closed_timeout")]
    }) {
        let to = AccessLogConfig { to: AccessLogTarget::File(log.clone()), lines_waiting_max: 10 };
        let live = Live::with_payments(swallowing().await, |payments| {
            (payments.limits, payments.access_log) = (limits, Some(to));
        })
        .await;
        let mut quiet = upgraded(&live, switch).await;
        if half_closed {
            quiet.shutdown().await.unwrap();
        }
        let mut busy = upgraded(&live, switch).await;
        let moving = async {
            loop {
                tokio::time::sleep(short / 10).await;
                busy.write_all(b"word").await.unwrap();
            }
        };
        tokio::select! {
            () = expect_reset(&mut quiet) => {}
            () = moving => {}
        }
        let told = line(&log).await;
        assert_eq!((&told["reason"], &told["ended_with"]), (&reason.into(), &"cut".into()), "{told}");
        assert_eq!(told["ended_by"], "sidecar");
        std::fs::remove_file(&log).unwrap();
    }
}

/// Switches, and takes whatever comes.
async fn swallowing() -> App {
    App::serve(async |mut stream: TcpStream| {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            stream.read_buf(&mut request).await?;
        }
        let request = String::from_utf8(request).unwrap();
        let key = request.lines().find_map(|line| line.strip_prefix("sec-websocket-key: "));
        let accept = key.map(|key| format!("sec-websocket-accept: {}\r\n", accept_of(key)));
        let protocol = if key.is_some() { "websocket" } else { "echo" };
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {protocol}\r\n{}\r\n",
            accept.unwrap_or_default()
        );
        stream.write_all(head.as_bytes()).await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
        std::future::pending().await
    })
    .await
}

async fn upgraded(live: &Live, switch: Switch) -> TcpStream {
    let mut stream = TcpStream::connect(live.orders.outbound.unwrap()).await.unwrap();
    stream.write_all(switch.request().as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
    stream
}
