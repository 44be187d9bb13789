//! HTTP/2 by hand on the listener of an outbound: what a client that uses a library cannot send.

use std::time::Duration;

use postern_sidecar::config::Http;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::shop::Shop;
use crate::sidecar::{PATIENCE, Sidecar};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

pub fn block(method: &str, path: &str) -> Vec<u8> {
    [(":method", method), (":scheme", "http"), (":path", path), (":authority", "payments")]
        .iter()
        .flat_map(|(name, value)| literal(name, value))
        .collect()
}

/// A field that no table keeps, its name shorter than 127 bytes (RFC 7541 §5.1, §6.2.2).
pub fn literal(name: &str, value: &str) -> Vec<u8> {
    let length = match u8::try_from(value.len()) {
        Ok(short) if short < 127 => vec![short],
        _ => {
            let rest = value.len() - 127;
            vec![127, u8::try_from(rest % 128).unwrap() | 128, u8::try_from(rest / 128).unwrap()]
        }
    };
    [&[0, u8::try_from(name.len()).unwrap()], name.as_bytes(), &length, value.as_bytes()].concat()
}

/// A connection that has said the preface.
pub async fn connected(sidecar: &Sidecar) -> TcpStream {
    let mut stream = TcpStream::connect(sidecar.outbound.unwrap()).await.unwrap();
    stream.write_all(&preface()).await.unwrap();
    stream
}

/// What a client says first.
pub fn preface() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &*frame(SETTINGS, 0, 0, &[])].concat()
}

/// The next frame of this kind; none at the connection's end.
pub async fn next(stream: &mut (impl AsyncRead + Unpin), wanted: u8) -> Option<Vec<u8>> {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).await.ok()?;
        if kind == wanted {
            return Some(payload);
        }
    }
}

async fn within_patience<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("never happened: {what}"))
}

async fn shop_in_a_hurry() -> Shop {
    let limits = Http { header_timeout: Duration::from_millis(50), ..Http::default() };
    Shop::with_orders(|spec| spec.http = limits).await
}

#[tokio::test]
async fn a_header_block_that_does_not_end_ends_the_connection_also_beside_a_request() {
    let shop = shop_in_a_hurry().await;
    let whole = block("GET", "/charges/7");
    for opening in [vec![], frame(HEADERS, END_HEADERS, 1, &block("POST", "/charge"))] {
        let mut stream = connected(&shop.orders).await;
        stream.write_all(&[opening, frame(HEADERS, 0, 3, &whole)].concat()).await.unwrap();
        let ended = within_patience("the connection ends", next(&mut stream, GOAWAY)).await;
        assert_eq!(ended, None, "its time is over, whatever else is under way");
    }
}

#[tokio::test]
async fn a_request_whose_head_drips_is_never_served() {
    let shop = shop_in_a_hurry().await;
    let mut stream = connected(&shop.orders).await;
    for byte in frame(HEADERS, END_HEADERS | END_STREAM, 1, &block("GET", "/charges/7")) {
        // Each byte is in time, the whole is not.
        tokio::time::sleep(Duration::from_millis(10)).await;
        if stream.write_all(&[byte]).await.is_err() {
            break;
        }
    }
    let answered = within_patience("the connection ends", next(&mut stream, HEADERS)).await;
    assert_eq!(answered, None);
}

#[tokio::test]
async fn a_request_whose_body_takes_its_time_is_served() {
    let shop = shop_in_a_hurry().await;
    let mut stream = connected(&shop.orders).await;
    stream.write_all(&frame(HEADERS, END_HEADERS, 1, &block("POST", "/charge"))).await.unwrap();
    // Longer than a header block may take.
    tokio::time::sleep(Duration::from_millis(200)).await;
    stream.write_all(&frame(DATA, END_STREAM, 1, b"hello")).await.unwrap();
    let told: Value = serde_json::from_slice(&next(&mut stream, DATA).await.unwrap()).unwrap();
    assert_eq!(told["body_bytes"], 5);
}

/// RFC 9113 §5.1.1: numbers only rise, and the last is 2^31 - 1.
#[tokio::test]
async fn after_the_last_stream_there_is_no_other() {
    let shop = Shop::new().await;
    let request = |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &block("GET", "/charges/7"));
    let mut stream = connected(&shop.orders).await;
    stream.write_all(&request((1 << 31) - 1)).await.unwrap();
    let told: Value = serde_json::from_slice(&next(&mut stream, DATA).await.unwrap()).unwrap();
    assert_eq!(told["target"], "/charges/7");
    stream.write_all(&request(1)).await.unwrap();
    let goaway = within_patience("the connection ends", next(&mut stream, GOAWAY)).await;
    assert!(goaway.is_some(), "a connection error");
}

/// Whoever was let through for one call is not let through for the next one on the same connection.
#[tokio::test]
async fn each_request_on_a_connection_is_decided_by_itself() {
    let shop = Shop::new().await;
    let mut stream = connected(&shop.orders).await;
    for (at, (path, status)) in
        [("/charges/7", 200), ("/admin", 403), ("/charges/8", 200)].into_iter().enumerate()
    {
        let id = u32::try_from(2 * at + 1).unwrap();
        let request = frame(HEADERS, END_HEADERS | END_STREAM, id, &block("GET", path));
        stream.write_all(&request).await.unwrap();
        let told: Value = serde_json::from_slice(&next(&mut stream, DATA).await.unwrap()).unwrap();
        assert_eq!(told["status"].as_u64().unwrap_or(200), status, "{path}: {told}");
    }
}
