//! WebSockets in both versions of HTTP (RFC 6455, RFC 8441), whichever each side speaks: between the sidecars each is a
//! stream of the connection that all requests share.

use std::future::poll_fn;
use std::io::ErrorKind;

use bytes::Bytes;
use h2::ext::Protocol;
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Request, StatusCode};
use postern_sidecar::config::AppHttp;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::apps::{App, echoed, expect_reset};
use crate::live::{Live, Switch, accept_of, echoed_whole, policy, switched};
use crate::sidecar::eventually;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// Answers a handshake with `answer`, in which `ACCEPT` stands for what it should be; then speaks first and echoes. Tells
/// the head that it got.
async fn answering(answer: &'static str, told: mpsc::Sender<String>) -> App {
    App::serve(move |mut stream: TcpStream| {
        let told = told.clone();
        async move {
            let head = head(&mut stream).await;
            let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: "));
            let answer = answer.replace("ACCEPT", &accept_of(key.unwrap_or_default()));
            told.send(head.clone()).await.map_err(std::io::Error::other)?;
            stream.write_all(answer.as_bytes()).await?;
            stream.write_all(b"first").await?;
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await?;
            write.shutdown().await
        }
    })
    .await
}

const SWITCHES: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                        Sec-WebSocket-Accept: ACCEPT\r\nSec-WebSocket-Protocol: chat\r\n\r\n";

/// An app's stream of HTTP/2 that has asked for a WebSocket.
struct Asked {
    status: StatusCode,
    headers: http::HeaderMap,
    send: SendStream<Bytes>,
    receive: RecvStream,
    _connection: JoinSet<()>,
}

impl Asked {
    async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        protocol: &'static str,
    ) -> Self {
        let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // Whatever ends it shows in its streams.
            let _ended = connection.await;
        });
        poll_fn(|cx| sender.poll_ready(cx)).await.unwrap();
        eventually("it takes extended CONNECT", || {
            sender.is_extended_connect_protocol_enabled().then_some(())
        })
        .await;
        let mut request = Request::builder().method(Method::CONNECT).uri("https://payments/socket");
        request = request.header("sec-websocket-version", "13").header("sec-websocket-protocol", "chat");
        let mut request = request.body(()).unwrap();
        request.extensions_mut().insert(Protocol::from_static(protocol));
        let (response, send) = sender.send_request(request, false).unwrap();
        let (parts, receive) = response.await.unwrap().into_parts();
        Self { status: parts.status, headers: parts.headers, send, receive, _connection: tasks }
    }

    async fn heard(&mut self, expected: &[u8]) {
        let mut heard = Vec::new();
        while heard.len() < expected.len() {
            let data = self.receive.data().await.unwrap().unwrap();
            self.receive.flow_control().release_capacity(data.len()).unwrap();
            heard.extend_from_slice(&data);
        }
        assert_eq!(heard, expected);
    }

    async fn end(mut self) {
        self.send.send_data(Bytes::new(), true).unwrap();
        while let Some(data) = self.receive.data().await {
            assert!(data.unwrap().is_empty(), "nothing but the end");
        }
    }
}

#[tokio::test]
async fn one_of_http_1_is_carried_on_the_shared_connection_and_half_closes() {
    let (tell, mut told) = mpsc::channel(1);
    let live = Live::with_http1(answering(SWITCHES, tell).await).await;
    let mut stream = TcpStream::connect(live.orders.outbound.unwrap()).await.unwrap();
    let request = Switch::WebSocket.request();
    // What comes with the request is not lost.
    stream.write_all(format!("{request}early").as_bytes()).await.unwrap();
    let answer = head(&mut stream).await.to_lowercase();
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
    assert!(
        answer.contains(&format!("sec-websocket-accept: {}\r\n", accept_of(KEY).to_lowercase())),
        "{answer}"
    );
    assert!(answer.contains("sec-websocket-protocol: chat\r\n"), "{answer}");
    let asked = told.recv().await.unwrap();
    assert!(asked.starts_with("GET /socket HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains("sec-websocket-version: 13\r\n"), "{asked}");
    assert!(!asked.contains(KEY), "each hop of HTTP/1.1 has a key of its own (RFC 8441 §5): {asked}");
    let mut first = [0; 10];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"firstearly");
    assert_eq!((live.orders.live(), live.payments.live()), (1, 1));
    let _second = switched_first(&live).await;
    assert_eq!((live.orders.live(), live.payments.live()), (1, 1), "it shares the connection");
    echoed_whole(&mut stream).await;
}

#[tokio::test]
async fn one_of_http_2_is_carried_to_an_app_of_http_1() {
    for direct in [false, true] {
        let (tell, mut told) = mpsc::channel(1);
        let live = Live::with_http1(answering(SWITCHES, tell).await).await;
        let mut asked = if direct {
            Asked::over(live.direct("orders", b"h2").await, "websocket").await
        } else {
            Asked::over(TcpStream::connect(live.orders.outbound.unwrap()).await.unwrap(), "websocket").await
        };
        assert_eq!(asked.status, 200);
        assert_eq!(asked.headers["sec-websocket-protocol"], "chat");
        for one_hop in ["sec-websocket-accept", "upgrade", "connection"] {
            assert!(!asked.headers.contains_key(one_hop), "{:?}", asked.headers);
        }
        let head = told.recv().await.unwrap();
        assert!(head.contains("upgrade: websocket\r\n") && head.contains("sec-websocket-key: "), "{head}");
        asked.heard(b"first").await;
        asked.send.send_data(Bytes::from_static(b"word"), false).unwrap();
        asked.heard(b"word").await;
        asked.end().await;
    }
}

/// Takes a WebSocket as a stream of HTTP/2 and echoes it; any other request it answers with an empty 200.
async fn echo_of_http_2() -> App {
    App::serve(async |stream: TcpStream| {
        let mut connection = h2::server::Builder::new()
            .enable_connect_protocol()
            .handshake::<_, Bytes>(stream)
            .await
            .map_err(std::io::Error::other)?;
        let mut streams = JoinSet::new();
        while let Some(accepted) = connection.accept().await {
            let (request, mut respond) = accepted.map_err(std::io::Error::other)?;
            let is_socket = request.extensions().get::<Protocol>().is_some();
            let Ok(mut send) = respond.send_response(http::Response::new(()), !is_socket) else { continue };
            let mut receive = request.into_body();
            streams.spawn(async move {
                while let Some(Ok(data)) = receive.data().await {
                    receive.flow_control().release_capacity(data.len()).unwrap();
                    send.send_data(data, false).unwrap();
                }
                // Who was reset hears nothing.
                let _ended = send.send_data(Bytes::new(), true);
            });
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_app_that_takes_them_over_http_2_gets_them_so() {
    let live =
        Live::with_payments(echo_of_http_2().await, |payments| payments.app_http = AppHttp::Http2).await;
    let mut one = switched(live.orders.outbound.unwrap(), Switch::WebSocket).await;
    echoed(&mut one).await.unwrap();
    let stream = TcpStream::connect(live.orders.outbound.unwrap()).await.unwrap();
    let mut other = Asked::over(stream, "websocket").await;
    other.send.send_data(Bytes::from_static(b"word"), false).unwrap();
    other.heard(b"word").await;
    other.end().await;
    one.shutdown().await.unwrap();
    assert_eq!(one.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test]
async fn what_is_no_success_is_an_answer_like_any_other() {
    let not_found = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
    let plain = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let other_key = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                     sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    let other_protocol = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\
                          sec-websocket-accept: ACCEPT\r\n\r\n";
    // Over HTTP/2 a success would be a WebSocket.
    for (answer, status, over_http2) in
        [(not_found, 404, 404), (plain, 200, 502), (other_key, 502, 502), (other_protocol, 502, 502)]
    {
        let (tell, _told) = mpsc::channel(2);
        let live = Live::with_http1(answering(answer, tell).await).await;
        let mut stream = TcpStream::connect(live.orders.outbound.unwrap()).await.unwrap();
        stream.write_all(Switch::WebSocket.request().as_bytes()).await.unwrap();
        let told = head(&mut stream).await;
        assert!(told.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}: {told}");
        let stream = TcpStream::connect(live.orders.outbound.unwrap()).await.unwrap();
        assert_eq!(Asked::over(stream, "websocket").await.status, over_http2, "{answer}");
    }
}

#[tokio::test]
async fn the_policy_knows_it_as_a_get_and_other_protocols_are_not_carried() {
    let live = Live::new().await;
    let through = || async { TcpStream::connect(live.orders.outbound.unwrap()).await.unwrap() };
    assert_eq!(Asked::over(through().await, "connect-udp").await.status, 501);
    live.payments.apply(&policy(Some(r#""POST /socket""#), None));
    assert_eq!(Asked::over(through().await, "websocket").await.status, 403);
    let mut stream = through().await;
    stream.write_all(Switch::WebSocket.request().as_bytes()).await.unwrap();
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 403 "));
    live.payments.apply(&policy(Some(r#""GET /socket""#), None));
    let mut asked = Asked::over(through().await, "websocket").await;
    assert_eq!(asked.status, 200);
    live.payments.apply(&policy(None, None));
    let reset = asked.receive.data().await.unwrap().unwrap_err();
    assert!(reset.is_reset(), "{reset}");
}

#[tokio::test]
async fn a_reset_of_either_side_is_one_at_the_other() {
    // Takes one word, and breaks off.
    let breaking = App::serve(async |mut stream: TcpStream| {
        let head = head(&mut stream).await;
        let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap();
        stream.write_all(SWITCHES.replace("ACCEPT", &accept_of(key)).as_bytes()).await?;
        stream.read_exact(&mut [0; 4]).await?;
        stream.set_zero_linger()
    })
    .await;
    let live = Live::with(breaking).await;
    let mut one = TcpStream::connect(live.orders.outbound.unwrap()).await.unwrap();
    one.write_all(Switch::WebSocket.request().as_bytes()).await.unwrap();
    head(&mut one).await;
    one.write_all(b"word").await.unwrap();
    expect_reset(&mut one).await;
    let mut other = Asked::over(live.direct("orders", b"h2").await, "websocket").await;
    other.send.send_data(Bytes::from_static(b"word"), false).unwrap();
    let reset = other.receive.data().await.unwrap().unwrap_err();
    assert_eq!(reset.reason(), Some(Reason::CANCEL), "RFC 8441 §5");
    drop(live);

    let (tell, mut told) = mpsc::channel(1);
    let live = Live::with(hearing(tell).await).await;
    let one = switched_first(&live).await;
    one.set_zero_linger().unwrap();
    drop(one);
    assert_eq!(told.recv().await.unwrap(), Some(ErrorKind::ConnectionReset));
    let mut other = Asked::over(live.direct("orders", b"h2").await, "websocket").await;
    other.send.send_reset(Reason::CANCEL);
    assert_eq!(told.recv().await.unwrap(), Some(ErrorKind::ConnectionReset));
    let mut ends = switched_first(&live).await;
    ends.shutdown().await.unwrap();
    assert_eq!(told.recv().await.unwrap(), None, "a clean end is one");
}

/// Switches, and tells how what it hears ends.
async fn hearing(told: mpsc::Sender<Option<ErrorKind>>) -> App {
    App::serve(move |mut stream: TcpStream| {
        let told = told.clone();
        async move {
            let head = head(&mut stream).await;
            let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap();
            stream.write_all(SWITCHES.replace("ACCEPT", &accept_of(key)).as_bytes()).await?;
            let ended = stream.read(&mut [0; 1]).await.err().map(|error| error.kind());
            told.send(ended).await.map_err(std::io::Error::other)
        }
    })
    .await
}

async fn switched_first(live: &Live) -> TcpStream {
    let mut stream = TcpStream::connect(live.orders.outbound.unwrap()).await.unwrap();
    stream.write_all(Switch::WebSocket.request().as_bytes()).await.unwrap();
    head(&mut stream).await;
    stream
}

/// Answers 404 to whatever is no WebSocket and keeps the connection; tells each head that it gets.
async fn declining(told: mpsc::Sender<String>) -> App {
    App::serve(move |mut stream: TcpStream| {
        let told = told.clone();
        async move {
            loop {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await?);
                }
                told.send(String::from_utf8(head).unwrap()).await.map_err(std::io::Error::other)?;
                stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await?;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_handshake_that_claims_a_body_has_none_at_the_app() {
    let (tell, mut told) = mpsc::channel(4);
    let live = Live::with_http1(declining(tell).await).await;
    let (mut sender, connection) = h2::client::handshake(live.direct("orders", b"h2").await).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        // Whatever ends it shows in its streams.
        let _ended = connection.await;
    });
    eventually("it takes extended CONNECT", || sender.is_extended_connect_protocol_enabled().then_some(()))
        .await;
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri("https://payments/socket")
        .header("sec-websocket-version", "13")
        .header("content-length", "40")
        .header("expect", "100-continue")
        .body(())
        .unwrap();
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    let (response, _send) = sender.send_request(request, false).unwrap();
    assert_eq!(response.await.unwrap().status(), 404);
    let head = told.recv().await.unwrap();
    assert!(!head.contains("content-length") && !head.contains("expect"), "{head}");
    let mut http1 = TcpStream::connect(live.orders.outbound.unwrap()).await.unwrap();
    let claims = Switch::WebSocket.request().replace("host: payments", "host: payments\r\ncontent-length: 0");
    http1.write_all(claims.as_bytes()).await.unwrap();
    assert!(self::head(&mut http1).await.starts_with("HTTP/1.1 404 "));
    let head = told.recv().await.unwrap();
    assert!(!head.contains("content-length"), "{head}");
}
