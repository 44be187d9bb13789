//! A changed policy file cuts the connections it no longer allows, and only those; a broken one changes nothing.

use postern_integration::shop::{POLICY, POLICY_NOBODY, Shop};
use postern_integration::{CaOptions, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

async fn echoing(address: std::net::SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    echo(&mut stream).await.unwrap();
    stream
}

async fn echo(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"x").await?;
    stream.read_exact(&mut [0; 1]).await.map(|_| ())
}

#[tokio::test]
async fn a_withdrawn_permission_cuts_the_live_connection() {
    let shop = Shop::start(CaOptions::default()).await;
    let mut stream = echoing(shop.orders_to_payments()).await;
    shop.mesh.write("policy.toml", POLICY_NOBODY);
    let end = stream.read(&mut [0; 1]).await;
    assert!(end.is_err(), "cut means reset, not a clean end: {end:?}");
    shop.payments.program.line_with(&["cut", "spiffe://shop.example/orders"]).await;
}

#[tokio::test]
async fn a_permission_that_stays_keeps_its_connection() {
    let shop = Shop::start(CaOptions::default()).await;
    let mut stream = echoing(shop.orders_to_payments()).await;
    let digest = async || shop.payments.status().await["policy"]["digest"].clone();
    let before = digest().await;
    shop.mesh.write("policy.toml", &format!("{POLICY}\n[service.audit]\n"));
    eventually("the new policy", async || (digest().await != before).then_some(())).await;
    echo(&mut stream).await.unwrap();
}

#[tokio::test]
async fn a_broken_new_file_keeps_the_last_good_policy_and_says_so() {
    let shop = Shop::start(CaOptions::default()).await;
    let mut stream = echoing(shop.orders_to_payments()).await;
    shop.mesh.write("policy.toml", "trust_domain = \"shop.example\"\n[servce.payments]\n");
    shop.payments.program.line_with(&["policy.toml:2:2"]).await;
    let error = shop.payments.status().await["policy"]["last_error"].to_string();
    assert!(error.contains("servce"), "{error}");
    assert!(shop.payments.metric("postern_policy_reloads_total", &["error"]).await >= 1.0);
    echo(&mut stream).await.unwrap();
    echoing(shop.orders_to_payments()).await;
}
