//! Bodies of any size pass whole and as they come; what is not taken is not held.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use postern_integration::shop::Shop;
use postern_integration::{CaOptions, PATIENCE, Sidecar, eventually, tools, web};
use ring::digest::{Context, SHA256};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;

const LARGE: usize = 100 * 1024 * 1024;
/// What a sidecar may grow by while a large body passes: its windows and buffers, and the allocator's slack.
const GROWTH_KIB_MAX: u64 = 32 * 1024;

async fn shop() -> Shop {
    Shop::start_http(CaOptions::default(), web::app().await, "").await
}

fn sha256(path: &Path) -> String {
    let mut sum = Context::new(&SHA256);
    sum.update(&std::fs::read(path).unwrap());
    format!("{:?}", sum.finish())
}

fn resident(shop: &Shop) -> [u64; 2] {
    [&shop.orders, &shop.payments].map(|sidecar: &Sidecar| sidecar.program.resident_kib())
}

/// The most that either sidecar grew while `during` was going on.
async fn growth(shop: &Shop, during: impl Future<Output = ()>) -> u64 {
    let (before, mut most) = (resident(shop), 0);
    let watching = async {
        loop {
            let grown =
                resident(shop).iter().zip(before).map(|(now, before)| now.saturating_sub(before)).max();
            most = most.max(grown.unwrap());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = during => {}
        () = watching => {}
    }
    most
}

#[tokio::test]
async fn a_hundred_mebibytes_pass_both_ways_and_are_not_held() {
    if !tools::has("curl") {
        return;
    }
    let shop = shop().await;
    let (sent, back) = (shop.mesh.path().join("sent"), shop.mesh.path().join("back"));
    let mut bytes = vec![0; LARGE];
    SystemRandom::new().fill(&mut bytes).unwrap();
    std::fs::write(&sent, &bytes).unwrap();
    let url = format!("http://{}/charges/echo", shop.orders_to_payments());
    for option in ["--http1.1", "--http2-prior-knowledge"] {
        let grown = growth(&shop, async {
            let mut curl = Command::new("curl");
            curl.args([option, "--silent", "--show-error", "--noproxy", "*", "--output"]);
            let status = curl.arg(&back).arg("--upload-file").arg(&sent).arg(&url).status().await.unwrap();
            assert!(status.success(), "{option}");
        })
        .await;
        assert_eq!(sha256(&back), sha256(&sent), "{option}");
        assert!(grown < GROWTH_KIB_MAX, "{option}: {grown} KiB");
    }
}

async fn asking(address: SocketAddr, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{request}\r\nhost: payments\r\n").as_bytes()).await.unwrap();
    stream
}

/// Waits until nothing moves any more: the same number of bytes is seen again and again.
async fn standstill(shop: &Shop) {
    let seen = Mutex::new(VecDeque::from([0; 10]));
    eventually("a standstill", async || {
        let now = shop.orders.sum_of_connections("bytes_to_app").await;
        let mut seen = seen.lock().unwrap();
        seen.pop_front();
        seen.push_back(now);
        (now > 0 && seen.iter().all(|before| *before == now)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_reader_that_stands_still_holds_up_the_writer_and_nobody_else() {
    let shop = shop().await;
    let request = format!("GET /charges/bytes/{LARGE} HTTP/1.1\r\nconnection: close");
    let mut slow = asking(shop.orders_to_payments(), &request).await;
    slow.write_all(b"\r\n").await.unwrap();
    let grown = growth(&shop, standstill(&shop)).await;
    let held_back = shop.orders.sum_of_connections("bytes_to_app").await;
    assert!(held_back < LARGE as u64 / 2, "{held_back} bytes were taken for nobody");
    assert!(grown < GROWTH_KIB_MAX, "{grown} KiB");

    let mut other = asking(shop.orders_to_payments(), "GET /charges/7 HTTP/1.1\r\nconnection: close").await;
    other.write_all(b"\r\n").await.unwrap();
    let mut answer = String::new();
    other.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    let mut whole = Vec::new();
    slow.read_to_end(&mut whole).await.unwrap();
    assert!(whole.len() > LARGE, "then it takes all of it: {}", whole.len());
    assert!(whole.ends_with(b"0\r\n\r\n"));
}

#[tokio::test]
async fn readers_that_stand_still_by_the_dozen_hold_up_nobody_else() {
    let shop = shop().await;
    let request = format!("GET /charges/bytes/{LARGE} HTTP/1.1");
    let mut slow = Vec::new();
    for _ in 0..40 {
        let mut stream = asking(shop.orders_to_payments(), &request).await;
        stream.write_all(b"\r\n").await.unwrap();
        slow.push(stream);
    }
    standstill(&shop).await;
    for _ in 0..10 {
        let request = "GET /charges/bytes/1000000 HTTP/1.1\r\nconnection: close";
        let mut other = asking(shop.orders_to_payments(), request).await;
        other.write_all(b"\r\n").await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, other.read_to_end(&mut answer)).await;
        read.expect("it is held up").unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200") && answer.ends_with(b"0\r\n\r\n"), "{}", answer.len());
    }
}

#[tokio::test]
async fn each_piece_of_a_slow_writer_is_passed_on_at_once() {
    let shop = shop().await;
    let mut stream = asking(shop.orders_to_payments(), "POST /charges/echo HTTP/1.1").await;
    stream.write_all(b"transfer-encoding: chunked\r\n\r\n").await.unwrap();
    let mut seen = Vec::new();
    for at in 0..50 {
        let piece = format!("piece {at:02}");
        stream.write_all(format!("8\r\n{piece}\r\n").as_bytes()).await.unwrap();
        // The next is sent only when this one is back.
        while !seen.windows(piece.len()).any(|window| window == piece.as_bytes()) {
            assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0);
        }
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    while !seen.ends_with(b"0\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn an_http_1_0_client_gets_a_body_of_unknown_length_up_to_its_end() {
    let shop = shop().await;
    for keep in ["", "connection: keep-alive\r\n"] {
        let mut stream = asking(shop.orders_to_payments(), "GET /charges/bytes/100000 HTTP/1.0").await;
        stream.write_all(format!("{keep}\r\n").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let head = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        let text = String::from_utf8_lossy(&answer[..head]).to_lowercase();
        assert!(text.starts_with("http/1.0 200") && !text.contains("chunked"), "{text}");
        assert_eq!(answer.len() - head - 4, 100_000);
    }
}
