//! Apps that misbehave: a broken response is never a clean end, and no response is another request's.

use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use postern_sidecar::config::Http;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::apps::{App, reset};
use crate::live::{ALL, Live, policy};
use crate::shop::{say, seen};

/// Reads one head.
async fn head(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// What the app does once it has answered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Closes,
    Resets,
    Waits,
}

/// Answers each request's head with these bytes.
async fn answering(bytes: Vec<u8>, then: Then) -> App {
    App::serve(move |mut stream| {
        let bytes = bytes.clone();
        async move {
            while head(&mut stream).await.is_ok() {
                stream.write_all(&bytes).await?;
                match then {
                    Then::Waits => {}
                    Then::Closes => return Ok(()),
                    Then::Resets => {
                        reset(stream);
                        return Ok(());
                    }
                }
            }
            Ok(())
        }
    })
    .await
}

/// A request through both sidecars over HTTP/2: its status and whole body, or why there is none.
async fn asked(live: &Live) -> Result<(u16, Vec<u8>), hyper::Error> {
    let stream = TokioIo::new(TcpStream::connect(live.orders.outbound.unwrap()).await.unwrap());
    let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (mut sender, connection) = builder.handshake(stream).await.unwrap();
    let asking = async {
        let request = http::Request::post("http://payments/charge").body(String::new()).unwrap();
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        Ok((status, response.into_body().collect().await?.to_bytes().to_vec()))
    };
    tokio::select! {
        answer = asking => answer,
        // It ends only with the sidecar.
        ended = connection => panic!("the connection ended: {ended:?}"),
    }
}

#[tokio::test]
async fn a_response_that_breaks_off_breaks_off_at_the_client() {
    let length = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf".to_vec();
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n".to_vec();
    let bad_chunk = [&*chunked, b"zz\r\n"].concat();
    let until_close = b"HTTP/1.1 200 OK\r\n\r\nhalf".to_vec();
    for (what, bytes, then) in [
        ("a length, closed", length.clone(), Then::Closes),
        ("a length, reset", length, Then::Resets),
        ("chunks, closed", chunked.clone(), Then::Closes),
        ("chunks, reset", chunked, Then::Resets),
        ("a chunk that is none", bad_chunk, Then::Waits),
        ("until the end, reset", until_close, Then::Resets),
    ] {
        let live = Live::with(answering(bytes, then).await).await;
        if let Ok((status, body)) = asked(&live).await {
            assert_eq!(status, 502, "{what}: {}", String::from_utf8_lossy(&body));
        }
        let request = b"POST /charge HTTP/1.1\r\nhost: payments\r\ncontent-length: 0\r\n\r\n";
        let answer = say(&live.orders, request).await;
        let text = String::from_utf8_lossy(&answer);
        assert!(text.starts_with("HTTP/1.1 502 ") || !text.ends_with("0\r\n\r\n"), "{what}: {text}");
        assert!(!text.contains("content-length: 4\r\n"), "{what}: {text}");
    }
}

#[tokio::test]
async fn a_response_that_is_not_http_is_a_502() {
    let big = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(1024 * 1024));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(10_000));
    for (what, bytes) in [
        ("not HTTP", "SSH-2.0-OpenSSH_9.2\r\n\r\n"),
        ("another version", "HTTP/9.9 200 OK\r\n\r\n"),
        ("no status", "HTTP/1.1 OK\r\n\r\n"),
        ("two lengths", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok!"),
        ("a signed length", "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok"),
        ("a length of 2^64", "HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551616\r\n\r\nok"),
        ("NUL in a value", "HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 2\r\n\r\nok"),
        ("a protocol nobody asked for", "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n"),
        ("one header of 1 MiB", &big),
        ("10,000 headers", &many),
    ] {
        let live = Live::with(answering(bytes.as_bytes().to_vec(), Then::Closes).await).await;
        let (status, body) = asked(&live).await.unwrap();
        assert_eq!(status, 502, "{what}: {}", String::from_utf8_lossy(&body));
    }
}

#[tokio::test]
async fn what_follows_a_response_is_no_other_requests_answer() {
    let twice =
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";
    let live = Live::with(answering(twice.to_vec(), Then::Waits).await).await;
    for _ in 0..20 {
        let (status, body) = asked(&live).await.unwrap();
        assert_eq!((status, &*body), (200, &b"ok"[..]), "{}", String::from_utf8_lossy(&body));
    }
}

/// The rest of a body whose answer came early must not be taken for the next request, nor its answer for that one's.
#[tokio::test]
async fn an_answer_before_the_body_spoils_no_later_request() {
    // It reads bodies as if they were requests: on a connection that was used again, answers would be out of step.
    let app = App::serve(async |mut stream: TcpStream| {
        loop {
            let answer = if head(&mut stream).await?.starts_with("POST /charge ") { "ok" } else { "no" };
            stream
                .write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{answer}").as_bytes())
                .await?;
        }
    })
    .await;
    let live = Live::with(app).await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n".repeat(2);
    let length = smuggled.len();
    let begun = format!("POST /charge HTTP/1.1\r\nhost: payments\r\ncontent-length: {length}\r\n\r\n");
    for _ in 0..20 {
        let mut client = TcpStream::connect(live.orders.outbound.unwrap()).await.unwrap();
        client.write_all(begun.as_bytes()).await.unwrap();
        head(&mut client).await.unwrap();
        // The sidecar may have closed already.
        let _closed = client.write_all(smuggled.as_bytes()).await;
        let (status, body) = asked(&live).await.unwrap();
        assert_eq!((status, &*body), (200, &b"ok"[..]), "{}", String::from_utf8_lossy(&body));
    }
}

#[tokio::test]
async fn responses_that_only_announce_themselves_end_after_their_time() {
    let app = App::serve(async |mut stream: TcpStream| {
        head(&mut stream).await?;
        loop {
            stream.write_all(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n").await?;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    let limits = Http { stream_idle_timeout: Duration::from_millis(100), ..Http::default() };
    let live = Live::with_limits(app, limits).await;
    live.payments.apply(&policy(Some(ALL), None));
    let request =
        b"POST /charge HTTP/1.1\r\nhost: payments\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let told = String::from_utf8(say(&live.orders, request).await).unwrap();
    assert!((1..=16).contains(&told.matches("HTTP/1.1 103 ").count()), "{told}");
    let answer = seen(told.split_at(told.rfind("HTTP/1.1 ").unwrap()).1.as_bytes());
    assert_eq!((answer.status(), &answer.json()["type"]), (504, &"urn:postern:stream_idle_timeout".into()));
}
