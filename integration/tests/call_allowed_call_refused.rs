//! A call the policy allows goes through; one it does not is refused, and both sides say who, to whom and why.

use postern_integration::shop::Shop;
use postern_integration::{CaOptions, Sidecar, eventually, refused};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

#[tokio::test]
async fn orders_reaches_payments() {
    let shop = Shop::start(CaOptions::default()).await;
    let mut stream = TcpStream::connect(shop.orders_to_payments()).await.unwrap();
    stream.write_all(b"charge 12").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"charge 12");
}

#[tokio::test]
async fn reports_is_refused_and_both_sides_explain() {
    let shop = Shop::start(CaOptions::default()).await;
    refused::is_reset(shop.reports_to_payments(), b"charge 12").await;

    for sidecar in [&shop.payments, &shop.reports] {
        let refusal = refusal_of(sidecar).await;
        let text = refusal.to_string();
        for needed in ["spiffe://shop.example/reports", "payments"] {
            assert!(text.contains(needed), "{}: {needed} is missing in {text}", sidecar.name);
        }
        let log = ["refused", "spiffe://shop.example/reports", "payments"];
        sidecar.program.line_with(&log).await;
        assert!(sidecar.metric("postern_refusals_total", &["spiffe://shop.example/reports"]).await >= 1.0);
    }
    let caller = refusal_of(&shop.reports).await.to_string();
    assert!(caller.contains("policy explain"), "the caller is told what to type: {caller}");
}

async fn refusal_of(sidecar: &Sidecar) -> Value {
    eventually("a refusal in /status", async || sidecar.status().await["refusals"].get(0).cloned()).await
}
