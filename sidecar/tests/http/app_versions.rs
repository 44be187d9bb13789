//! Which HTTP an app speaks is found out, said by the configuration, or named in the refusal.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use postern_proto::policy::Protocol;
use postern_sidecar::config::AppHttp;
use postern_sidecar::metrics::Direction;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::apps::App;
use crate::authority::Authority;
use crate::live::{ALL, policy};
use crate::shop::{Seen, say, seen};
use crate::sidecar::{Sidecar, Spec, eventually};

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

/// Says nothing before it has seen that the other side speaks HTTP/2, and closes otherwise.
async fn http2_only_and_silent(stream: TcpStream) -> io::Result<()> {
    let mut first = [0; PREFACE.len()];
    loop {
        match stream.peek(&mut first).await? {
            PREFACE_BYTES if first == *PREFACE => return http2_only(stream).await,
            0 => return Ok(()),
            read if first[..read] == PREFACE[..read] => tokio::time::sleep(Duration::from_millis(1)).await,
            _ => return Ok(()),
        }
    }
}

const PREFACE_BYTES: usize = PREFACE.len();

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

    fn speaks(&self) -> Option<String> {
        let shown = self.payments.plane.upstreams.shown(Direction::Inbound, 0);
        shown["addresses"][0]["http"].as_str().map(str::to_owned)
    }
}

#[tokio::test]
async fn an_app_of_http_2_only_is_found_out_and_shown() {
    let pair = Pair::new(App::serve(http2_only).await, AppHttp::Auto).await;
    for _ in 0..3 {
        assert_eq!(pair.answered("POST /charge").await, "HTTP/2.0 4");
        assert_eq!(pair.speaks().as_deref(), Some("2"));
    }
    let pair = Pair::new(App::serve(http2_only_and_silent).await, AppHttp::Auto).await;
    assert_eq!(pair.answered("GET /socket").await, "HTTP/2.0 4");
    assert_eq!(pair.answered("POST /charge").await, "HTTP/2.0 4");
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
