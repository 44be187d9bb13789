//! Upgrades: what means nothing here is ignored and the connection stays usable; what is carried is carried whole, with
//! the request's body before it and an end that is what it was.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::apps::App;
use crate::live::{Live, echoed_whole};

async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// Answers every request with the lower-case head that it got and offers other protocols, as some servers do.
async fn offering(status: &'static str) -> App {
    App::serve(move |mut stream: TcpStream| async move {
        let mut bytes = Vec::new();
        loop {
            let end = loop {
                if let Some(end) = bytes.windows(4).position(|four: &[u8]| four == b"\r\n\r\n") {
                    break end + 4;
                }
                if stream.read_buf(&mut bytes).await? == 0 {
                    return Ok(());
                }
            };
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let mut body = bytes.split_off(end);
            let whole = |body: &[u8]| {
                let chunked = head.contains("transfer-encoding: chunked");
                let length = head.contains("content-length: 3");
                (!chunked || body.ends_with(b"0\r\n\r\n")) && (!length || body.len() >= 3)
            };
            while !whole(&body) {
                stream.read_buf(&mut body).await?;
            }
            bytes.clear();
            let answer = format!(
                "HTTP/1.1 {status}\r\nupgrade: h2,h2c\r\nconnection: Upgrade, Keep-Alive\r\ncontent-length: {}\r\n\r\n{head}",
                head.len()
            );
            stream.write_all(answer.as_bytes()).await?;
        }
    })
    .await
}

#[tokio::test]
async fn an_offer_that_means_nothing_here_is_ignored_and_the_connection_stays_usable() {
    let live = Live::with(offering("200 OK").await).await;
    for direct in [false, true] {
        let mut own = TcpStream::connect(live.orders.outbound.unwrap()).await.unwrap();
        let mut peer = live.direct("orders", b"http/1.1").await;
        for offer in [
            "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n",
            "connection: Upgrade\r\nupgrade: TLS/1.2\r\n",
            "upgrade: websocket\r\n",
        ] {
            for body in [
                "GET /socket HTTP/1.1\r\n",
                "POST /charge HTTP/1.1\r\ncontent-length: 3\r\n",
                "POST /charge HTTP/1.1\r\ntransfer-encoding: chunked\r\n",
            ] {
                let rest = match body {
                    body if body.contains("length") => "abc",
                    body if body.contains("chunked") => "3\r\nabc\r\n0\r\n\r\n",
                    _ => "",
                };
                let request = format!("{body}host: payments\r\n{offer}\r\n{rest}");
                let (answer, told) = if direct {
                    peer.write_all(request.as_bytes()).await.unwrap();
                    answered(&mut peer).await
                } else {
                    own.write_all(request.as_bytes()).await.unwrap();
                    answered(&mut own).await
                };
                assert!(answer.starts_with("HTTP/1.1 200 "), "{request:?}: {answer}");
                assert!(!answer.to_lowercase().contains("upgrade"), "{request:?}: {answer}");
                assert!(!told.contains("upgrade") && !told.contains("http2-settings"), "{request:?}: {told}");
            }
        }
    }
}

/// The next answer: its head and its body, which has a length.
async fn answered(stream: &mut (impl AsyncRead + Unpin)) -> (String, String) {
    let head = head(stream).await;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    (head, String::from_utf8(body).unwrap())
}

#[tokio::test]
async fn an_app_that_demands_an_upgrade_is_heard() {
    let live = Live::with(offering("426 Upgrade Required").await).await;
    let mut own = TcpStream::connect(live.orders.outbound.unwrap()).await.unwrap();
    for offer in ["", "connection: upgrade\r\nupgrade: websocket\r\n"] {
        let request = format!("GET /socket HTTP/1.1\r\nhost: payments\r\n{offer}\r\n");
        own.write_all(request.as_bytes()).await.unwrap();
        assert!(answered(&mut own).await.0.starts_with("HTTP/1.1 426 "));
    }
}

/// Takes a request with its body, switches to `protocol`, speaks first, and gives back what it hears; its end follows the
/// client's. Tells what it got before it switched.
async fn switching(protocol: &'static str, told: mpsc::Sender<(String, String)>) -> App {
    App::serve(move |mut stream: TcpStream| {
        let told = told.clone();
        async move {
            let head = head(&mut stream).await;
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
            stream.read_exact(&mut body).await?;
            told.send((head, String::from_utf8(body).unwrap())).await.map_err(std::io::Error::other)?;
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {protocol}\r\n\r\nfirst"
            );
            stream.write_all(answer.as_bytes()).await?;
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await?;
            write.shutdown().await
        }
    })
    .await
}

#[tokio::test]
async fn an_upgrade_is_carried_with_its_body_before_it_and_half_closes() {
    for (request, offer, protocol) in [
        ("POST /charge HTTP/1.1\r\ncontent-length: 29\r\n", "tcp", "tcp"),
        ("POST /charge HTTP/1.1\r\ncontent-length: 29\r\n", "SPDY/3.1", "SPDY/3.1"),
        ("GET /socket HTTP/1.1\r\n", "websocket, foo", "foo"),
        ("GET /socket HTTP/1.1\r\n", "h2c, websocket", "websocket"),
    ] {
        let (tell, mut told) = mpsc::channel(1);
        let live = Live::with(switching(protocol, tell).await).await;
        let mut stream = TcpStream::connect(live.orders.outbound.unwrap()).await.unwrap();
        let body = if request.starts_with("POST") { "{\"Detach\":false,\"Tty\":false}\n" } else { "" };
        let request =
            format!("{request}host: payments\r\nconnection: upgrade\r\nupgrade: {offer}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = head(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{offer}: {answer}");
        assert!(answer.contains(&format!("upgrade: {protocol}\r\n")), "{offer}: {answer}");
        let (told_head, told_body) = told.recv().await.unwrap();
        assert_eq!(told_body, body, "{told_head}");
        assert!(!told_head.contains("h2c"), "{told_head}");
        let mut first = [0; 5];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"first");
        echoed_whole(&mut stream).await;
    }
}

#[tokio::test]
async fn an_app_that_switches_to_what_was_not_offered_is_not_followed() {
    let (tell, _told) = mpsc::channel(10);
    let live = Live::with(switching("h2c", tell).await).await;
    let mut stream = TcpStream::connect(live.orders.outbound.unwrap()).await.unwrap();
    let request =
        "GET /socket HTTP/1.1\r\nhost: payments\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 502 "));
}
