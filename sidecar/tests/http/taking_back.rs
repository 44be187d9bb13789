//! Requests that an app takes back are nobody else's end.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::apps::App;
use crate::live::{ALL, Live, policy};
use crate::shop::{requests_under_way, say_to};
use crate::sidecar::eventually;

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const END_HEADERS: u8 = 4;
/// As many as a sidecar allows on one connection.
const STREAMS: u32 = 100;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Unfinished POSTs, each taken back in the same breath (rapid reset).
fn taken_back(posts: u32) -> Vec<u8> {
    let string = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let fields = [(":method", "POST"), (":scheme", "http"), (":path", "/charge"), (":authority", "payments")];
    let block: Vec<_> =
        fields.iter().flat_map(|(name, value)| [vec![0], string(name), string(value)].concat()).collect();
    let begins = (0..posts).flat_map(|at| frame(HEADERS, END_HEADERS, 2 * at + 1, &block));
    let resets = (0..posts).flat_map(|at| frame(RST_STREAM, 0, 2 * at + 1, &8_u32.to_be_bytes()));
    let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &*frame(SETTINGS, 0, 0, &[])].concat();
    preface.into_iter().chain(begins).chain(resets).collect()
}

/// Answers a GET when it may, and a POST when it is whole.
async fn app(may_answer: Arc<Semaphore>) -> App {
    App::serve(move |stream: TcpStream| {
        let may_answer = may_answer.clone();
        let answer = service_fn(move |request: Request<Incoming>| {
            let may_answer = may_answer.clone();
            async move {
                match request.method() {
                    &Method::GET => may_answer.acquire().await.unwrap().forget(),
                    _ => drop(http_body_util::BodyExt::collect(request.into_body()).await),
                }
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("ok")))
            }
        });
        async move {
            let builder = auto::Builder::new(TokioExecutor::new());
            // What ends a connection is the client's to see.
            let _ended = builder.serve_connection(TokioIo::new(stream), answer).await;
            Ok(())
        }
    })
    .await
}

#[tokio::test]
async fn many_requests_taken_back_at_once_leave_those_of_others_alone() {
    const OTHERS: usize = 10;
    let may_answer = Arc::new(Semaphore::new(0));
    let live = Live::with(app(may_answer.clone()).await).await;
    live.payments.apply(&policy(Some(ALL), None));
    let at = live.orders.outbound.unwrap();
    for _ in 0..3 {
        let mut others = JoinSet::new();
        for _ in 0..OTHERS {
            let request = b"GET /socket HTTP/1.1\r\nhost: payments\r\nconnection: close\r\n\r\n";
            others.spawn(say_to(at, request));
        }
        eventually("they are under way", || {
            (requests_under_way(&live.orders) == OTHERS as u64).then_some(())
        })
        .await;
        let mut connections = Vec::new();
        for _ in 0..10 {
            let mut stream = TcpStream::connect(at).await.unwrap();
            stream.write_all(&taken_back(STREAMS)).await.unwrap();
            connections.push(stream);
        }
        // Each of their connections still serves.
        for stream in &mut connections {
            stream.write_all(&frame(6, 0, 0, &[7; 8])).await.unwrap();
            pong(stream).await;
        }
        may_answer.add_permits(OTHERS);
        while let Some(answer) = others.join_next().await {
            let answer = String::from_utf8(answer.unwrap()).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
    }
}

/// Reads until a PING is answered.
async fn pong(stream: &mut (impl tokio::io::AsyncRead + Unpin)) {
    use tokio::io::AsyncReadExt as _;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.expect("the connection lives");
        let [a, b, c, kind, flags, ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).await.unwrap();
        assert_ne!(kind, 7, "GOAWAY");
        if (kind, flags) == (6, 1) && payload == [7; 8] {
            return;
        }
    }
}

#[tokio::test]
async fn a_peer_that_takes_back_more_at_once_than_it_may_have_open_is_cut_off() {
    let live = Live::with(app(Arc::new(Semaphore::new(0))).await).await;
    let mut peer = live.direct("orders", b"h2").await;
    peer.write_all(&taken_back(3 * STREAMS)).await.unwrap();
    let mut answer = Vec::new();
    // A reset ends it as well as anything.
    let _ended = tokio::io::AsyncReadExt::read_to_end(&mut peer, &mut answer).await;
    eventually("its connection is closed", || (live.payments.live() == 0).then_some(())).await;
}
