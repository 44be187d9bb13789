//! The CA may be away for as long as certificates live; when it is back, everything recovers without a restart,
//! also after expiry.

use postern_integration::load::{Load, Style};
use postern_integration::shop::Shop;
use postern_integration::{CaOptions, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn away_past_half_of_the_lifetime_fails_nothing() {
    let mut shop = Shop::start(CaOptions { svid_ttl: "20s", ..CaOptions::default() }).await;
    let load = Load::start(shop.orders_to_payments(), Style::FreshConnections, 4);
    shop.ca.stop().await;
    eventually("a renewal that failed for want of a CA", async || {
        let identity = shop.orders.status().await["identity"].clone();
        identity["last_error"]["reason"].as_str().map(|_| ())
    })
    .await;
    let before = rotations(&shop).await;
    shop.ca.restart().await;
    eventually("a rotation after the outage", async || (rotations(&shop).await > before).then_some(())).await;
    let outcome = load.stop().await;
    assert_eq!(outcome.failures, Vec::<String>::new(), "of {} requests", outcome.served);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn away_past_the_whole_lifetime_refuses_with_that_reason_and_then_recovers() {
    let mut shop = Shop::start(CaOptions { svid_ttl: "10s", ..CaOptions::default() }).await;
    shop.ca.stop().await;
    let reason = eventually("not ready for expiry", async || {
        let (status, body) = shop.orders.get("/ready").await.unwrap();
        (status == 503).then_some(body)
    })
    .await;
    assert!(reason.contains("expired"), "{reason}");
    assert!(request(&shop).await.is_err(), "an expired identity serves nobody");
    shop.orders.program.line_with(&["refused", "expired"]).await;

    shop.ca.restart().await;
    shop.orders.ready().await;
    shop.payments.ready().await;
    request(&shop).await.unwrap();
}

async fn rotations(shop: &Shop) -> u64 {
    shop.orders.status().await["identity"]["rotations"].as_u64().unwrap()
}

async fn request(shop: &Shop) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(shop.orders_to_payments()).await?;
    stream.write_all(b"x").await?;
    stream.read_exact(&mut [0; 1]).await.map(|_| ())
}
