//! Which HTTP an app speaks is found out, said by the configuration, or named in the refusal.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use postern_proto::policy::Protocol;
use postern_sidecar::config::AppHttp;
use postern_sidecar::observability::Direction;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};

use crate::apps::{App, reset};
use crate::authority::Authority;
use crate::live::{ALL, policy};
use crate::shop::{Seen, say, seen};
use crate::sidecar::{Sidecar, Spec, eventually};

/// As `sidecar/src/proxy/http/app.rs` has it.
const VERSION_PROBE_TIMEOUT: Duration = Duration::from_millis(500);
/// Bytes of a body of which the sidecar keeps nothing.
const MUCH: usize = 1024 * 1024;
const BAD_REQUEST: &str = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Answers with the version and the length of the body.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let version = request.version();
    let bytes = request.into_body().collect().await.map_or(0, |body| body.to_bytes().len());
    Ok(Response::new(Full::from(format!("{version:?} {bytes}"))))
}

async fn http2_only(stream: TcpStream) -> io::Result<()> {
    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder.serve_connection(TokioIo::new(stream), service_fn(answer)).await.map_err(io::Error::other)
}

async fn http1_only(stream: TcpStream) -> io::Result<()> {
    let builder = hyper::server::conn::http1::Builder::new();
    builder.serve_connection(TokioIo::new(stream), service_fn(answer)).await.map_err(io::Error::other)
}

/// What an app does when it is spoken to in the version that it does not speak. hyper, as Go and tonic do, says what it
/// speaks and closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Habit {
    Answers(&'static str),
    Closes,
    Resets,
    Waits,
}

/// Waits for the first bytes, and says whether they are the preface of HTTP/2.
pub async fn is_http2(stream: &TcpStream) -> io::Result<bool> {
    stream.readable().await?;
    let mut first = [0; PREFACE.len()];
    let read = stream.peek(&mut first).await?;
    // All of it is in the first segment.
    Ok(first[..read] == *PREFACE)
}

async fn refuses(mut stream: TcpStream, habit: Habit) -> io::Result<()> {
    match habit {
        Habit::Answers(answer) => stream.write_all(answer.as_bytes()).await,
        Habit::Closes => Ok(()),
        Habit::Resets => {
            reset(stream);
            Ok(())
        }
        Habit::Waits => stream.read_to_end(&mut Vec::new()).await.map(|_| ()),
    }
}

/// Says nothing before it has seen that the other side speaks HTTP/2.
async fn silent_http2(habit: Habit) -> App {
    App::serve(move |stream| async move {
        if is_http2(&stream).await? { http2_only(stream).await } else { refuses(stream, habit).await }
    })
    .await
}

/// Serves one connection after the other, and counts those that were not HTTP/1.1.
async fn one_at_a_time_http1(habit: Habit, probes: Arc<AtomicUsize>) -> App {
    let turn = Arc::new(Semaphore::new(1));
    App::serve(move |stream| {
        let (turn, probes) = (turn.clone(), probes.clone());
        async move {
            let _turn = turn.acquire().await.map_err(io::Error::other)?;
            if is_http2(&stream).await? {
                probes.fetch_add(1, Ordering::Relaxed);
                return refuses(stream, habit).await;
            }
            http1_only(stream).await
        }
    })
    .await
}

async fn both(stream: TcpStream) -> io::Result<()> {
    if is_http2(&stream).await? { http2_only(stream).await } else { http1_only(stream).await }
}

/// An app at one address that is exchanged for another while nobody looks.
struct Exchanged {
    speaks_http2: AtomicBool,
    /// Ends the connections of the one before.
    next: Notify,
}

impl Exchanged {
    async fn app(self: &Arc<Self>) -> App {
        let exchanged = self.clone();
        App::serve(move |stream| {
            let exchanged = exchanged.clone();
            async move {
                let served = async {
                    let http2 = is_http2(&stream).await?;
                    match exchanged.speaks_http2.load(Ordering::Relaxed) {
                        // Says what it speaks.
                        true => http2_only(stream).await,
                        false if http2 => refuses(stream, Habit::Closes).await,
                        false => http1_only(stream).await,
                    }
                };
                tokio::select! {
                    served = served => served,
                    () = exchanged.next.notified() => Ok(()),
                }
            }
        })
        .await
    }
}

struct Pair {
    payments: Sidecar,
    orders: Sidecar,
    _app: App,
}

impl Pair {
    async fn new(app: App, app_http: AppHttp) -> Self {
        let authority = Authority::new();
        let http = |mut spec: Spec| {
            (spec.protocol, spec.app_http) = (Protocol::Http, app_http);
            spec
        };
        let payments = http(Spec::new(&authority, "payments").app(app.address)).start(&authority);
        let orders = http(Spec::new(&authority, "orders").to(&[payments.inbound.unwrap()])).start(&authority);
        for sidecar in [&payments, &orders] {
            sidecar.apply(&policy(Some(ALL), None));
        }
        Self { payments, orders, _app: app }
    }

    async fn asks(&self, request: &str, body: &str) -> Seen {
        let head = format!("{request} HTTP/1.1\r\nhost: payments\r\nconnection: close\r\n");
        let length = body.len();
        seen(&say(&self.orders, format!("{head}content-length: {length}\r\n\r\n{body}").as_bytes()).await)
    }

    /// What a request with a body of four bytes is answered with.
    async fn answered(&self, request: &str) -> String {
        let seen = self.asks(request, "word").await;
        assert_eq!(seen.status(), 200, "{seen:?}");
        String::from_utf8(seen.body).unwrap()
    }

    async fn grpc(&self) -> Seen {
        self.asks("POST /shop.Charges/Chat HTTP/1.1\r\ncontent-type: application/grpc\r\nx: y", "").await
    }

    /// What is shown of the app's address.
    fn shown(&self) -> Value {
        self.payments.proxy.upstreams.shown(Direction::Inbound, 0)["addresses"][0].clone()
    }

    fn speaks(&self) -> Option<String> {
        self.shown()["http"].as_str().map(str::to_owned)
    }

    /// What a POST whose body is too long to be sent again is answered with.
    async fn answered_to_much(&self) -> String {
        let seen = self.asks("POST /charge", &"x".repeat(MUCH)).await;
        assert_eq!(seen.status(), 200, "{seen:?}");
        String::from_utf8(seen.body).unwrap()
    }
}

#[tokio::test]
async fn an_app_of_http_2_only_is_found_out_and_shown() {
    let pair = Pair::new(App::serve(http2_only).await, AppHttp::Auto).await;
    for _ in 0..3 {
        assert_eq!(pair.answered("POST /charge").await, "HTTP/2.0 4");
        assert_eq!(pair.speaks().as_deref(), Some("2"));
    }
}

#[tokio::test]
async fn no_first_request_is_lost_on_an_app_of_http_2_only_whatever_it_does_in_http_1() {
    let goes_away = "\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\x01";
    for habit in
        [Habit::Answers(goes_away), Habit::Answers(BAD_REQUEST), Habit::Closes, Habit::Resets, Habit::Waits]
    {
        let pair = Pair::new(silent_http2(habit).await, AppHttp::Auto).await;
        assert_eq!(pair.answered_to_much().await, format!("HTTP/2.0 {MUCH}"), "{habit:?}");
        let pair = Pair::new(silent_http2(habit).await, AppHttp::Auto).await;
        assert_eq!(pair.grpc().await.status(), 200, "{habit:?}");
        assert_eq!(pair.answered("POST /charge").await, "HTTP/2.0 4", "{habit:?}");
    }
    let pair = Pair::new(App::serve(http2_only).await, AppHttp::Auto).await;
    assert_eq!(pair.answered_to_much().await, format!("HTTP/2.0 {MUCH}"));
}

#[tokio::test]
async fn no_first_request_is_lost_on_an_app_of_http_1_only_whatever_it_does_in_http_2() {
    for habit in
        [Habit::Answers(BAD_REQUEST), Habit::Answers("?"), Habit::Closes, Habit::Resets, Habit::Waits]
    {
        let probes = Arc::<AtomicUsize>::default();
        let pair = Pair::new(one_at_a_time_http1(habit, probes.clone()).await, AppHttp::Auto).await;
        let began = Instant::now();
        assert_eq!(pair.answered_to_much().await, format!("HTTP/1.1 {MUCH}"), "{habit:?}");
        if habit == Habit::Waits {
            assert!(began.elapsed() >= VERSION_PROBE_TIMEOUT, "{:?}", began.elapsed());
        }
        for _ in 0..3 {
            assert_eq!(pair.answered("POST /charge").await, "HTTP/1.1 4", "{habit:?}");
        }
        assert_eq!(probes.load(Ordering::Relaxed), 1, "{habit:?}");
    }
}

#[tokio::test]
async fn requests_that_come_at_once_wait_for_one_probe() {
    let probes = Arc::<AtomicUsize>::default();
    let app = App::serve({
        let probes = probes.clone();
        move |stream| {
            let probes = probes.clone();
            async move {
                if is_http2(&stream).await? {
                    probes.fetch_add(1, Ordering::Relaxed);
                    return refuses(stream, Habit::Waits).await;
                }
                http1_only(stream).await
            }
        }
    })
    .await;
    let pair = Pair::new(app, AppHttp::Auto).await;
    let answers = join_all((0..150).map(|_| pair.answered("POST /charge"))).await;
    assert!(answers.iter().all(|answer| answer == "HTTP/1.1 4"), "{answers:?}");
    assert_eq!(probes.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_app_of_http_1_that_is_asked_in_grpc_first_is_found_out_too() {
    let probes = Arc::<AtomicUsize>::default();
    let app = one_at_a_time_http1(Habit::Answers(BAD_REQUEST), probes.clone()).await;
    let pair = Pair::new(app, AppHttp::Auto).await;
    assert!(pair.grpc().await.head.contains("gRPC needs HTTP/2"));
    assert_eq!(pair.answered_to_much().await, format!("HTTP/1.1 {MUCH}"));
    assert_eq!(probes.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_app_of_both_is_spoken_to_in_http_1_and_in_http_2_for_grpc() {
    for grpc_first in [false, true] {
        let pair = Pair::new(App::serve(both).await, AppHttp::Auto).await;
        if grpc_first {
            assert_eq!(pair.grpc().await.status(), 200);
        }
        assert_eq!(pair.answered_to_much().await, format!("HTTP/1.1 {MUCH}"));
        assert_eq!(pair.grpc().await.status(), 200);
        assert_eq!(pair.answered("POST /charge").await, "HTTP/1.1 4");
        assert_eq!(pair.speaks().as_deref(), Some("1.1"));
    }
}

#[tokio::test]
async fn no_request_is_lost_on_an_app_that_is_exchanged_unseen_for_one_that_speaks_otherwise() {
    let exchanged = Arc::new(Exchanged { speaks_http2: AtomicBool::new(false), next: Notify::new() });
    let pair = Pair::new(exchanged.app().await, AppHttp::Auto).await;
    for version in ["HTTP/1.1 4", "HTTP/2.0 4", "HTTP/1.1 4", "HTTP/2.0 4"] {
        assert_eq!(pair.answered("POST /charge").await, version);
        exchanged.speaks_http2.store(version == "HTTP/1.1 4", Ordering::Relaxed);
        exchanged.next.notify_waiters();
        eventually("its connections have ended", || (pair.shown()["in_flight"] == 0).then_some(())).await;
    }
}

#[tokio::test]
async fn an_app_of_http_1_is_spoken_to_in_it_and_shown() {
    let pair = Pair::new(App::serve(http1_only).await, AppHttp::Auto).await;
    assert_eq!(pair.speaks(), None);
    assert_eq!(pair.answered("POST /charge").await, "HTTP/1.1 4");
    assert_eq!(pair.speaks().as_deref(), Some("1.1"));
}

#[tokio::test]
async fn an_app_that_is_replaced_by_one_that_speaks_otherwise_is_found_out_again() {
    let first = App::serve(http2_only).await;
    let at: SocketAddr = first.address;
    let mut pair = Pair::new(first, AppHttp::Auto).await;
    for version in ["HTTP/2.0 4", "HTTP/1.1 4", "HTTP/2.0 4"] {
        assert_eq!(pair.answered("POST /charge").await, version);
        pair._app = App::serve_at("127.0.0.1:0", http1_only).await;
        // While nobody is there, a request is told so.
        assert_eq!(pair.asks("POST /charge", "").await.status(), 503);
        let next_is_http1 = version == "HTTP/2.0 4";
        let listener = eventually("its port is free", || {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            socket.bind(at).ok().map(|()| socket)
        });
        drop(listener.await);
        pair._app = match next_is_http1 {
            true => App::serve_at(&at.to_string(), http1_only).await,
            false => App::serve_at(&at.to_string(), http2_only).await,
        };
    }
}

#[tokio::test]
async fn grpc_to_an_app_of_http_1_is_refused_in_words_that_say_what_to_do() {
    for app_http in [AppHttp::Auto, AppHttp::Http1] {
        let pair = Pair::new(App::serve(http1_only).await, app_http).await;
        let refused = pair.grpc().await;
        assert!(refused.head.contains("grpc-status: 14"), "{refused:?}");
        assert!(refused.head.contains("gRPC needs HTTP/2"), "{refused:?}");
        assert!(refused.head.contains("have the app serve HTTP/2 without TLS"), "{refused:?}");
    }
}

#[tokio::test]
async fn an_app_that_does_not_speak_what_is_configured_is_an_answer_that_names_the_key() {
    let pair = Pair::new(App::serve(http2_only).await, AppHttp::Http1).await;
    let refused = pair.asks("POST /charge", "word").await;
    assert_eq!((refused.status(), &refused.json()["type"]), (502, &"urn:postern:app_http".into()));
    assert!(refused.json()["detail"].as_str().unwrap().contains("app_http = \"2\""), "{refused:?}");
    let pair = Pair::new(App::serve(http1_only).await, AppHttp::Http2).await;
    let refused = pair.asks("POST /charge", "word").await;
    assert_eq!((refused.status(), &refused.json()["type"]), (502, &"urn:postern:app_http".into()));
    assert!(refused.json()["detail"].as_str().unwrap().contains("\"1.1\""), "{refused:?}");
}

#[tokio::test]
async fn what_is_configured_is_spoken() {
    let pair = Pair::new(App::serve(http2_only).await, AppHttp::Http2).await;
    assert_eq!(pair.answered("POST /charge").await, "HTTP/2.0 4");
    let pair = Pair::new(App::serve(http1_only).await, AppHttp::Http1).await;
    assert_eq!(pair.answered("POST /charge").await, "HTTP/1.1 4");
}

/// A server that goes away (GOAWAY, last stream 0) as soon as somebody is there.
#[tokio::test]
async fn an_app_that_goes_away_at_once_again_and_again_is_tried_a_few_times_only() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    let app = App::serve(move |mut stream: TcpStream| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move {
            let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
            let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            stream.write_all(&[&settings[..], &goaway[..]].concat()).await?;
            stream.read_to_end(&mut Vec::new()).await.map(|_| ())
        }
    })
    .await;
    let pair = Pair::new(app, AppHttp::Http2).await;
    let refused = pair.asks("POST /charge", "word").await;
    assert!([502, 503].contains(&refused.status()), "{refused:?}");
    let tried = connections.load(Ordering::Relaxed);
    assert!((1..=16).contains(&tried), "{tried}");
}
