//! Interim answers pass in every version: whole, in their order, before the answer, and in bounds.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::apps::App;
use crate::live::Live;
use crate::shop::say;

/// The next head.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// Announces so many times, then answers `whole`.
async fn announcing(count: usize) -> App {
    App::serve(move |mut stream: TcpStream| async move {
        let mut request = Vec::new();
        loop {
            while !request.ends_with(b"\r\n\r\n") {
                if stream.read_buf(&mut request).await? == 0 {
                    return Ok(());
                }
            }
            request.clear();
            stream.write_all(b"HTTP/1.1 102 Processing\r\n\r\n").await?;
            for at in 0..count {
                let hints =
                    format!("HTTP/1.1 103 Early Hints\r\nlink: </{at}>\r\nconnection: x\r\nx: y\r\n\r\n");
                stream.write_all(hints.as_bytes()).await?;
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwhole").await?;
        }
    })
    .await
}

#[tokio::test]
async fn they_come_before_the_answer_also_to_pipelined_requests() {
    let live = Live::with(announcing(2).await).await;
    let mut client = live.direct("orders", b"http/1.1").await;
    client.write_all("GET /socket HTTP/1.1\r\nhost: payments\r\n\r\n".repeat(3).as_bytes()).await.unwrap();
    for _ in 0..3 {
        assert_eq!(head(&mut client).await, "HTTP/1.1 102 Processing\r\n\r\n");
        for at in 0..2 {
            assert_eq!(head(&mut client).await, format!("HTTP/1.1 103 Early Hints\r\nlink: </{at}>\r\n\r\n"));
        }
        assert!(head(&mut client).await.starts_with("HTTP/1.1 200 OK\r\n"));
        let mut body = [0; 5];
        client.read_exact(&mut body).await.unwrap();
        assert_eq!(&body, b"whole");
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_none_and_a_flood_is_bounded() {
    let live = Live::with(announcing(1_000).await).await;
    for (version, told) in [("1.0", 0), ("1.1", 16)] {
        let mut client = live.direct("orders", b"http/1.1").await;
        let request = format!("GET /socket HTTP/{version}\r\nhost: payments\r\nconnection: close\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer.matches("HTTP/1.1 10").count(), told, "{answer}");
        assert!(answer.ends_with("whole"), "{answer}");
    }
}

/// Asks over HTTP/2, and returns the interim answers and the answer.
async fn asked_over_http2(live: &Live, path: &str) -> (Vec<http::Response<()>>, Vec<u8>) {
    let kind = if path == "/charge" { "text/plain" } else { "application/grpc" };
    let stream = TcpStream::connect(live.orders.outbound.unwrap()).await.unwrap();
    let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
    let asked = async {
        let request = http::Request::post(format!("http://payments{path}")).header("content-type", kind);
        let (mut response, _) = send.send_request(request.body(()).unwrap(), true).unwrap();
        let mut interim = Vec::new();
        while let Some(told) = poll_fn(|cx| response.poll_informational(cx)).await {
            interim.push(told.unwrap());
        }
        let mut body = response.await.unwrap().into_body();
        let mut whole = Vec::new();
        while let Some(data) = body.data().await {
            whole.extend_from_slice(&data.unwrap());
        }
        (interim, whole)
    };
    tokio::select! {
        biased;
        asked = asked => asked,
        ended = connection => panic!("{ended:?}"),
    }
}

/// Announces over HTTP/2, then answers.
async fn announcing_over_http2() -> App {
    App::serve(async |stream: TcpStream| {
        let mut connection = h2::server::handshake(stream).await.map_err(std::io::Error::other)?;
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            for at in 0..2 {
                let hints = http::Response::builder().status(103).header("link", format!("</{at}>"));
                respond.send_informational(hints.body(()).unwrap()).unwrap();
            }
            let answer = http::Response::builder().header("content-type", "application/grpc");
            let mut body = respond.send_response(answer.body(()).unwrap(), false).unwrap();
            body.send_data("whole".into(), true).unwrap();
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn they_pass_both_sidecars_in_every_version() {
    let hints = |told: &[http::Response<()>]| -> Vec<String> {
        let hints = told.iter().filter(|told| told.status() == 103);
        hints.map(|told| told.headers()["link"].to_str().unwrap().to_owned()).collect()
    };
    let live = Live::with(announcing(2).await).await;
    let (told, whole) = asked_over_http2(&live, "/charge").await;
    assert_eq!((hints(&told), whole.as_slice()), (vec!["</0>".to_owned(), "</1>".to_owned()], &b"whole"[..]));
    assert!(told.iter().all(|told| !told.headers().contains_key("x")), "{told:?}");
    let answer =
        say(&live.orders, b"GET /socket HTTP/1.1\r\nhost: payments\r\nconnection: close\r\n\r\n").await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </0>\r\n\r\n")
    );
    assert!(answer.ends_with("whole"), "{answer}");
    assert_eq!(live.orders.live(), 1, "over the connection that is there");

    let live = Live::with(announcing_over_http2().await).await;
    let (told, whole) = asked_over_http2(&live, "/shop.Charges/Chat").await;
    assert_eq!((hints(&told), whole.as_slice()), (vec!["</0>".to_owned(), "</1>".to_owned()], &b"whole"[..]));
    let request = b"POST /shop.Charges/Chat HTTP/1.1\r\nhost: payments\r\ncontent-type: application/grpc\r\n\
                    content-length: 0\r\nconnection: close\r\n\r\n";
    let answer = String::from_utf8(say(&live.orders, request).await).unwrap();
    assert_eq!(answer.matches("HTTP/1.1 103 ").count(), 2, "{answer}");
}

/// An app that asks for bodies, or refuses them unseen.
async fn asking(accepts: bool) -> App {
    App::serve(move |mut stream: TcpStream| async move {
        loop {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                if stream.read_buf(&mut request).await? == 0 {
                    return Ok(());
                }
            }
            if !accepts {
                stream.write_all(b"HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\n\r\n").await?;
                return Ok(());
            }
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
            let mut body = [0; 4];
            stream.read_exact(&mut body).await?;
            assert_eq!(&body, b"word");
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwhole").await?;
        }
    })
    .await
}

#[tokio::test]
async fn a_body_is_asked_for_by_the_app_over_the_connection_that_all_share() {
    let request =
        b"POST /charge HTTP/1.1\r\nhost: payments\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n";
    let live = Live::with(asking(true).await).await;
    let mut own = TcpStream::connect(live.orders.outbound.unwrap()).await.unwrap();
    for _ in 0..2 {
        own.write_all(request).await.unwrap();
        assert_eq!(head(&mut own).await, "HTTP/1.1 100 Continue\r\n\r\n");
        own.write_all(b"word").await.unwrap();
        assert!(head(&mut own).await.starts_with("HTTP/1.1 200 OK\r\n"), "asked once");
        own.read_exact(&mut [0; 5]).await.unwrap();
    }
    assert_eq!(live.orders.live(), 1, "one connection to the peer");

    let live = Live::with(asking(false).await).await;
    let mut own = TcpStream::connect(live.orders.outbound.unwrap()).await.unwrap();
    own.write_all(request).await.unwrap();
    assert!(head(&mut own).await.starts_with("HTTP/1.1 417 "));
}

/// An app that answers in the same breath in which it asks for the body.
async fn hasty() -> App {
    App::serve(async |mut stream: TcpStream| {
        head(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n")
            .await?;
        let mut body = [0; 4];
        stream.read_exact(&mut body).await?;
        stream.write_all(&body).await
    })
    .await
}

#[tokio::test]
async fn an_answer_behind_100_continue_waits_until_its_client_has_heard_that() {
    let live = Live::with(hasty().await).await;
    let asked = async |mut send: h2::client::SendRequest<Bytes>, says_body_first: bool| {
        let request = http::Request::post("http://payments/charge").header("expect", "100-continue");
        let request = request.header("content-length", "4").body(()).unwrap();
        let (mut response, mut body) = send.send_request(request, false).unwrap();
        if says_body_first {
            body.send_data("word".into(), true).unwrap();
            return (response.await.unwrap(), false);
        }
        let told = poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
        assert_eq!(told.status(), 100);
        // Nothing comes before the body, for a while.
        let early = tokio::time::timeout(Duration::from_millis(100), &mut response).await;
        let is_early = early.is_ok();
        let response = match early {
            Ok(response) => response.unwrap(),
            Err(_) => {
                body.send_data("word".into(), true).unwrap();
                response.await.unwrap()
            }
        };
        (response, is_early)
    };
    for says_body_first in [false, true] {
        let stream = TcpStream::connect(live.orders.outbound.unwrap()).await.unwrap();
        let (send, connection) = h2::client::handshake(stream).await.unwrap();
        let answered = async {
            let (response, is_early) = asked(send, says_body_first).await;
            assert!(!is_early, "an answer before the body");
            assert_eq!(response.status(), 200);
            assert_eq!(response.into_body().data().await.unwrap().unwrap(), "word");
        };
        tokio::select! {
            biased;
            () = answered => {}
            ended = connection => panic!("{ended:?}"),
        }
    }
}

#[tokio::test]
async fn who_has_no_body_after_100_continue_is_answered_all_the_same() {
    let refusing = App::serve(async |mut stream: TcpStream| {
        head(&mut stream).await;
        let answer =
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer).await?;
        std::future::pending().await
    })
    .await;
    let live = Live::with(refusing).await;
    let stream = TcpStream::connect(live.orders.outbound.unwrap()).await.unwrap();
    let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
    let answered = async {
        let request =
            http::Request::post("http://payments/charge").header("content-length", "4").body(()).unwrap();
        let (response, _body) = send.send_request(request, false).unwrap();
        assert_eq!(response.await.unwrap().status(), 413);
    };
    tokio::select! {
        biased;
        () = answered => {}
        ended = connection => panic!("{ended:?}"),
    }
}
