//! Interim answers pass where both sides of a sidecar speak HTTP/1.1: whole, in their order, before the answer, and in
//! bounds.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::apps::App;
use crate::live::Live;

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
