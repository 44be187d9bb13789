//! Readers who take nothing of what they asked for, one in every slot of a pool: others ride the same connections.

use postern_integration::shop::Shop;
use postern_integration::{CaOptions, web};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// More than the windows between here and there hold.
const BODY_BYTES: usize = 64 * 1024 * 1024;
/// As many as fill four shared connections up to where a further one is opened.
const SLOW: usize = 4 * 48;
/// What a request under way may hold at one sidecar: a stream's window, a connection's buffer, and its state in an
/// unoptimised build.
const HELD_KIB: u64 = 256 + 64 + 192;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_slow_reader_in_every_slot_others_are_served() {
    let shop = Shop::start_http(CaOptions::default(), web::app().await, "").await;
    for _ in 0..20 {
        served(&shop).await;
    }
    let before = [&shop.orders, &shop.payments].map(|sidecar| sidecar.program.resident_kib());
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        let mut stream = TcpStream::connect(shop.orders_to_payments()).await.unwrap();
        let request = format!("GET /charges/bytes/{BODY_BYTES} HTTP/1.1\r\nhost: payments\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        // It has begun, and goes no further.
        let mut head = [0; 15];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200 OK");
        slow.push(stream);
    }
    for _ in 0..20 {
        served(&shop).await;
    }
    for (sidecar, before) in [&shop.orders, &shop.payments].into_iter().zip(before) {
        let held = sidecar.program.resident_kib() - before;
        println!("{}: {held} KiB held for {SLOW} slow readers", sidecar.name);
        assert!(held < SLOW as u64 * HELD_KIB, "{}: {held} KiB held", sidecar.name);
    }
    drop(slow);
    served(&shop).await;
}

async fn served(shop: &Shop) {
    let mut stream = TcpStream::connect(shop.orders_to_payments()).await.unwrap();
    let request = b"GET /charges/bytes/100000 HTTP/1.1\r\nhost: payments\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(postern_integration::PATIENCE, stream.read_to_end(&mut answer)).await;
    read.expect("served in time").unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 OK") && answer.len() > 100_000, "{} bytes", answer.len());
}
