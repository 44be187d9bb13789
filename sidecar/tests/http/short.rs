//! A message that ends before it is whole is an error at the other side, whoever ends it, in whatever version and how;
//! and the access log says so.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use h2::Reason;
use postern_sidecar::config::{AccessLogConfig, AccessLogTarget, AppHttp, Http};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};

use crate::apps::{App, reset};
use crate::live::{Http2, Live, policy};
use crate::sidecar::{INBOUND, OUTBOUND, Sidecar, eventually};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Http1,
    Http2,
}

/// How one side ends what it was saying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Fin,
    Reset,
    Stream(Reason),
    GoAway(Reason),
}

const HALF: &[u8] = b"half";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n";
const LENGTH: &str = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf";
const UNTIL_CLOSE: &str = "HTTP/1.1 200 OK\r\n\r\nhalf";

/// Answers with these bytes, and ends the answer so when it is told.
async fn short_http1(answer: &'static str, how: How, now: Arc<Notify>) -> App {
    App::serve(move |mut stream: TcpStream| {
        let now = now.clone();
        async move {
            let mut request = Vec::new();
            while !request.windows(4).any(|four| four == b"\r\n\r\n") {
                if stream.read_buf(&mut request).await? == 0 {
                    return Ok(());
                }
            }
            stream.write_all(answer.as_bytes()).await?;
            now.notified().await;
            if how == How::Reset {
                reset(stream);
            }
            Ok(())
        }
    })
    .await
}

/// The same over HTTP/2.
async fn short_http2(how: How, now: Arc<Notify>) -> App {
    App::serve(move |stream: TcpStream| {
        let now = now.clone();
        async move {
            let mut connection = h2::server::handshake(stream).await.map_err(std::io::Error::other)?;
            let mut answers = Vec::new();
            loop {
                tokio::select! {
                    accepted = connection.accept() => {
                        let Some(Ok((_request, mut respond))) = accepted else {
                            if matches!(how, How::GoAway(_)) {
                                // What was said must not be lost with what was not read.
                                std::future::pending::<()>().await;
                            }
                            return Ok(());
                        };
                        let response = http::Response::builder().header("content-type", "application/grpc");
                        let mut body = respond.send_response(response.body(()).unwrap(), false).unwrap();
                        body.send_data(Bytes::from_static(HALF), false).unwrap();
                        answers.push((_request, body));
                    }
                    () = now.notified() => match how {
                        How::Stream(reason) => answers.iter_mut().for_each(|(_, body)| body.send_reset(reason)),
                        How::GoAway(reason) => connection.abrupt_shutdown(reason),
                        How::Fin | How::Reset => return Ok(()),
                    },
                }
            }
        }
    })
    .await
}

/// Asks, reads until half of the answer has come, lets it be ended, and returns whether it ended as an error.
async fn is_short(live: &Live, version: Version, path: &str, now: &Notify) -> bool {
    let short = short(live, version, path, now).await;
    short.is_some_and(|reason| reason != Some(Reason::NO_ERROR))
}

/// The same; returns the error, if it was one, with its code, where it has one.
async fn short(live: &Live, version: Version, path: &str, now: &Notify) -> Option<Option<Reason>> {
    let kind = if path == CHAT { "application/grpc" } else { "text/plain" };
    let mut stream = TcpStream::connect(live.orders.outbound.unwrap()).await.unwrap();
    match version {
        Version::Http1 => {
            let head = format!(
                "POST {path} HTTP/1.1\r\nhost: payments\r\ncontent-type: {kind}\r\ncontent-length: 0\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            while !answer.windows(4).any(|four| four == HALF) {
                assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
            }
            now.notify_one();
            let ended = stream.read_to_end(&mut answer).await;
            (ended.is_err() && !answer.ends_with(b"0\r\n\r\n")).then_some(None)
        }
        Version::Http2 => {
            let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
            let asked = async {
                let uri = format!("http://payments{path}");
                let request = http::Request::post(uri).header("content-type", kind).body(()).unwrap();
                let (response, _) = send.send_request(request, true).unwrap();
                let mut body = response.await.unwrap().into_body();
                assert_eq!(body.data().await.unwrap().unwrap(), HALF);
                now.notify_one();
                body.data().await.and_then(|data| data.err().map(|error| error.reason()))
            };
            tokio::select! {
                biased;
                short = asked => short,
                ended = connection => panic!("{ended:?}"),
            }
        }
    }
}

const CHARGE: &str = "/charge";
const CHAT: &str = "/shop.Charges/Chat";

#[tokio::test]
async fn a_short_answer_is_an_error_whoever_asked_and_however_it_ended() {
    for (answer, how) in [
        (CHUNKED, How::Fin),
        (CHUNKED, How::Reset),
        (LENGTH, How::Fin),
        (LENGTH, How::Reset),
        (UNTIL_CLOSE, How::Reset),
    ] {
        let now = Arc::<Notify>::default();
        let live = Live::with_http1(short_http1(answer, how, now.clone()).await).await;
        for version in [Version::Http1, Version::Http2] {
            assert!(is_short(&live, version, CHARGE, &now).await, "{answer:?} ended by {how:?}, {version:?}");
        }
    }
    for how in [
        How::Fin,
        How::Stream(Reason::NO_ERROR),
        How::Stream(Reason::CANCEL),
        How::Stream(Reason::INTERNAL_ERROR),
        How::GoAway(Reason::NO_ERROR),
        How::GoAway(Reason::ENHANCE_YOUR_CALM),
    ] {
        let now = Arc::<Notify>::default();
        let live = Live::with(short_http2(how, now.clone()).await).await;
        for version in [Version::Http1, Version::Http2] {
            assert!(is_short(&live, version, CHAT, &now).await, "HTTP/2 ended by {how:?}, {version:?}");
        }
    }
}

#[tokio::test]
async fn a_reset_passes_with_its_code() {
    // RFC 9113 §7.
    for reason in (0..=0xd).map(Reason::from) {
        let now = Arc::<Notify>::default();
        let live = Live::with(short_http2(How::Stream(reason), now.clone()).await).await;
        // That would be an end.
        let passed = if reason == Reason::NO_ERROR { Reason::CANCEL } else { reason };
        assert_eq!(short(&live, Version::Http2, CHAT, &now).await, Some(Some(passed)), "{reason:?}");
    }
}

/// What an app saw of a request's body.
#[derive(Debug, PartialEq, Eq)]
enum Saw {
    Half,
    Whole,
    Broken,
}

/// Tells how the bodies of its requests end, and answers nothing.
async fn listening(version: Version, saw: mpsc::Sender<Saw>) -> App {
    App::serve(move |mut stream: TcpStream| {
        let saw = saw.clone();
        async move {
            let tell = async |what| saw.send(what).await.map_err(std::io::Error::other);
            if version == Version::Http2 {
                let mut connection = h2::server::handshake(stream).await.map_err(std::io::Error::other)?;
                let Some(Ok((request, _respond))) = connection.accept().await else { return Ok(()) };
                let heard = async {
                    let mut body = request.into_body();
                    while let Some(data) = body.data().await {
                        tell(if data.is_ok() { Saw::Half } else { Saw::Broken }).await?;
                        if data.is_err() {
                            return Ok(());
                        }
                    }
                    tell(Saw::Whole).await
                };
                return tokio::select! {
                    biased;
                    heard = heard => heard,
                    _ = connection.accept() => Ok(()),
                };
            }
            let mut request = Vec::new();
            while !request.windows(4).any(|four| four == HALF) {
                if stream.read_buf(&mut request).await? == 0 {
                    return Ok(());
                }
            }
            tell(Saw::Half).await?;
            let ended = stream.read_to_end(&mut request).await;
            let whole = ended.is_ok() && request.ends_with(b"0\r\n\r\n");
            tell(if whole { Saw::Whole } else { Saw::Broken }).await
        }
    })
    .await
}

/// Sends half a body, waits until the app has it, and ends it.
async fn send_half(live: &Live, version: Version, path: &str, how: How, saw: &mut mpsc::Receiver<Saw>) {
    let kind = if path == CHAT { "application/grpc" } else { "text/plain" };
    let mut stream = TcpStream::connect(live.orders.outbound.unwrap()).await.unwrap();
    match version {
        Version::Http1 => {
            let head = format!(
                "POST {path} HTTP/1.1\r\nhost: payments\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n"
            );
            stream.write_all(format!("{head}4\r\nhalf\r\n").as_bytes()).await.unwrap();
            assert_eq!(saw.recv().await.unwrap(), Saw::Half);
            match how {
                How::Reset => reset(stream),
                How::Fin | How::Stream(_) | How::GoAway(_) => drop(stream),
            }
        }
        Version::Http2 => {
            let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
            let mut connection = Box::pin(connection);
            let uri = format!("http://payments{path}");
            let request = http::Request::post(uri).header("content-type", kind).body(()).unwrap();
            let (_response, mut body) = send.send_request(request, false).unwrap();
            body.send_data(Bytes::from_static(HALF), false).unwrap();
            tokio::select! {
                saw = saw.recv() => assert_eq!(saw.unwrap(), Saw::Half),
                ended = &mut connection => panic!("{ended:?}"),
            }
            if let How::Stream(reason) = how {
                body.send_reset(reason);
                tokio::select! {
                    saw = saw.recv() => assert_eq!(saw.unwrap(), Saw::Broken, "{version:?} ended by {how:?}"),
                    ended = connection => panic!("{ended:?}"),
                }
                return;
            }
        }
    }
    let rest = saw.recv().await.unwrap();
    assert_eq!(rest, Saw::Broken, "{version:?} ended by {how:?}");
}

#[tokio::test]
async fn a_short_request_is_an_error_at_the_app_however_it_ended() {
    for (app, path) in [(Version::Http1, CHARGE), (Version::Http2, CHAT)] {
        for (version, how) in [
            (Version::Http1, How::Fin),
            (Version::Http1, How::Reset),
            (Version::Http2, How::Fin),
            (Version::Http2, How::Stream(Reason::NO_ERROR)),
            (Version::Http2, How::Stream(Reason::CANCEL)),
            (Version::Http2, How::Stream(Reason::INTERNAL_ERROR)),
        ] {
            let (tell, mut saw) = mpsc::channel(4);
            let live = Live::with(listening(app, tell).await).await;
            send_half(&live, version, path, how, &mut saw).await;
        }
    }
}

/// Reads heads, and answers them when it is told.
async fn answering_late(now: Arc<Notify>) -> App {
    App::serve(move |mut stream: TcpStream| {
        let now = now.clone();
        async move {
            let mut request = Vec::new();
            loop {
                while !request.windows(4).any(|four| four == b"\r\n\r\n") {
                    if stream.read_buf(&mut request).await? == 0 {
                        return Ok(());
                    }
                }
                request.clear();
                now.notified().await;
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n")
                    .await?;
                now.notified().await;
                stream.write_all(b"5\r\nwhole\r\n0\r\n\r\n").await?;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_client_that_ends_its_direction_has_all_its_answers() {
    let now = Arc::<Notify>::default();
    let live = Live::with_http1(answering_late(now.clone()).await).await;
    let asked = "GET /socket HTTP/1.1\r\nhost: payments\r\n\r\n";
    for count in [1, 3] {
        let requests = asked.repeat(count);
        let whole = |answer: &[u8]| String::from_utf8_lossy(answer).matches("whole").count();
        let mut answer = Vec::new();
        let mut app = TcpStream::connect(live.orders.outbound.unwrap()).await.unwrap();
        app.write_all(requests.as_bytes()).await.unwrap();
        app.shutdown().await.unwrap();
        let answers = async {
            app.read_to_end(&mut answer).await.unwrap();
        };
        told_again_and_again(&now, answers).await;
        assert_eq!(whole(&answer), count, "of the own app: {}", String::from_utf8_lossy(&answer));

        answer.clear();
        let mut peer = live.direct("orders", b"http/1.1").await;
        peer.write_all(requests.as_bytes()).await.unwrap();
        // close_notify, and FIN behind it.
        peer.shutdown().await.unwrap();
        let answers = async {
            peer.read_to_end(&mut answer).await.unwrap();
        };
        told_again_and_again(&now, answers).await;
        assert_eq!(whole(&answer), count, "of a peer: {}", String::from_utf8_lossy(&answer));
    }
}

/// Lets the app go on until the answers are there.
async fn told_again_and_again(now: &Notify, answers: impl Future<Output = ()>) {
    tokio::pin!(answers);
    let mut go_on = tokio::time::interval(std::time::Duration::from_millis(20));
    loop {
        tokio::select! {
            () = &mut answers => return,
            _ = go_on.tick() => now.notify_one(),
        }
    }
}

#[tokio::test]
async fn a_client_that_is_reset_while_it_waits_ends_its_request() {
    let (tell, mut saw) = mpsc::channel(4);
    let limits = Http { header_timeout: std::time::Duration::from_millis(100), ..Http::default() };
    let live = Live::with_limits(listening(Version::Http1, tell).await, limits).await;
    let mut client = live.direct("orders", b"http/1.1").await;
    let request = "POST /charge HTTP/1.1\r\nhost: payments\r\ncontent-length: 4\r\n\r\nhalf";
    client.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(saw.recv().await.unwrap(), Saw::Half);
    reset(client.into_inner().0);
    assert_eq!(saw.recv().await.unwrap(), Saw::Broken);
}

/// How many requests this side has ended early.
fn aborted(sidecar: &Sidecar, listener: &str, by: &str) -> u64 {
    let series = format!("postern_http_requests_aborted_total{{{listener},ended_by=\"{by}\"}} ");
    let text = sidecar.proxy.control.metrics.text().unwrap();
    text.lines().find_map(|line| line.strip_prefix(&series)).map_or(0, |count| count.parse().unwrap())
}

/// What all have ended early, at the inbound and at the outbound: the caller, the called side, the sidecar.
fn all_aborted(live: &Live) -> [[u64; 3]; 2] {
    [
        ["caller", "app", "sidecar"].map(|by| aborted(&live.payments, INBOUND, by)),
        ["caller", "peer", "sidecar"].map(|by| aborted(&live.orders, OUTBOUND, by)),
    ]
}

#[tokio::test]
async fn requests_that_end_early_are_counted_by_the_side_that_ended_them() {
    let now = Arc::<Notify>::default();
    let live = Live::with(short_http2(How::Stream(Reason::CANCEL), now.clone()).await).await;
    short(&live, Version::Http2, CHAT, &now).await.unwrap();
    let counted = async |live: &Live, all: [[u64; 3]; 2]| {
        eventually(&format!("{all:?} are counted"), || (all_aborted(live) == all).then_some(())).await;
    };
    counted(&live, [[0, 1, 0], [0, 1, 0]]).await;

    let (tell, mut saw) = mpsc::channel(4);
    let live = Live::with(listening(Version::Http1, tell).await).await;
    send_half(&live, Version::Http2, CHARGE, How::Stream(Reason::CANCEL), &mut saw).await;
    counted(&live, [[1, 0, 0], [1, 0, 0]]).await;

    let live = Live::new().await;
    let client = Http2::through(&live.orders).await;
    client.open(CHARGE).await.end().await;
    let mut cut = client.open(CHARGE).await;
    live.payments.apply(&policy(None, None));
    cut.expect_reset().await;
    let refused = crate::shop::ask(&live.orders, "POST /charge HTTP/1.1\r\ncontent-length: 0").await;
    assert_eq!(refused.status(), 403);
    counted(&live, [[0, 0, 1], [0, 1, 0]]).await;
}

/// The one line of the log.
pub async fn line(log: &Path) -> Value {
    eventually("a line", || {
        let text = std::fs::read_to_string(log).ok()?;
        text.lines().next().map(|line| serde_json::from_str(line).unwrap())
    })
    .await
}

#[tokio::test]
async fn the_access_log_says_which_side_ended_a_request_and_with_what() {
    let dir = tempfile::tempdir().unwrap();
    let log = |name: &str| {
        let to = dir.path().join(name);
        (to.clone(), AccessLogConfig { to: AccessLogTarget::File(to), lines_waiting_max: 100 })
    };
    for (at, (answer, how, with)) in [
        (CHUNKED, How::Fin, "closed"),
        (CHUNKED, How::Reset, "reset"),
        (LENGTH, How::Fin, "closed"),
        (UNTIL_CLOSE, How::Fin, "fin"),
    ]
    .into_iter()
    .enumerate()
    {
        let (now, (path, to)) = (Arc::<Notify>::default(), log(&at.to_string()));
        let live = Live::with_payments(short_http1(answer, how, now.clone()).await, |payments| {
            (payments.access_log, payments.app_http) = (Some(to), AppHttp::Http1);
        })
        .await;
        is_short(&live, Version::Http2, CHARGE, &now).await;
        let line = line(&path).await;
        assert_eq!((&line["ended_by"], &line["ended_with"]), (&"app".into(), &with.into()), "{line}");
    }
    for (how, with) in [
        (How::Stream(Reason::NO_ERROR), "reset NO_ERROR"),
        (How::GoAway(Reason::ENHANCE_YOUR_CALM), "goaway ENHANCE_YOUR_CALM"),
        (How::Fin, "closed"),
    ] {
        let (now, (path, to)) = (Arc::<Notify>::default(), log(&format!("{how:?}")));
        let live = Live::logging(short_http2(how, now.clone()).await, to).await;
        is_short(&live, Version::Http2, CHAT, &now).await;
        let told = line(&path).await;
        assert_eq!((&told["ended_by"], &told["ended_with"]), (&"app".into(), &with.into()), "{told}");
    }

    let ((tell, mut saw), (path, to)) = (mpsc::channel(4), log("caller"));
    let live = Live::logging(listening(Version::Http1, tell).await, to).await;
    send_half(&live, Version::Http2, CHARGE, How::Stream(Reason::CANCEL), &mut saw).await;
    let told = line(&path).await;
    assert_eq!(
        (&told["ended_by"], &told["ended_with"]),
        (&"caller".into(), &"reset CANCEL".into()),
        "{told}"
    );

    let (path, to) = log("refused");
    let live = Live::logging(App::echo().await, to).await;
    live.payments.apply(&crate::live::policy(Some("\"GET /socket\""), None));
    let mut client = live.direct("orders", b"http/1.1").await;
    assert_eq!(crate::live::asked(&mut client, "POST /charge").await.unwrap(), 403);
    let told = line(&path).await;
    assert_eq!((&told["ended_by"], &told["ended_with"]), (&"sidecar".into(), &"fin".into()), "{told}");
}
