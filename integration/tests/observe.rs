//! A service that only observes lets every authenticated peer in and says what it would have refused, call by call.

use std::net::SocketAddr;

use postern_integration::shop::{HTTP_POLICY, Shop};
use postern_integration::{CaOptions, eventually, web};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

async fn status(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("{request} HTTP/1.1\r\nhost: payments\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split(' ').nth(1).unwrap().to_owned()
}

#[tokio::test]
async fn each_call_that_no_rule_allows_is_let_in_and_its_kind_is_in_the_log() {
    let shop = Shop::start_http(CaOptions::default(), web::app().await, "").await;
    let reports = shop.reports_to_payments();
    assert_eq!(status(reports, "POST /charge").await, "403");
    shop.apply(&HTTP_POLICY.replace("[service.payments]", "[service.payments]\nmode = \"observe\"")).await;
    for _ in 0..3 {
        assert_eq!(status(reports, "POST /charge").await, "200");
    }
    assert_eq!(status(reports, "GET /charges/7").await, "200");
    let charge = ["observed", "spiffe://shop.example/reports", "POST", "/charge", "no rule matches"];
    let line = shop.payments.program.line_with(&charge).await;
    assert!(line.contains("INFO"), "{line}");
    // The same call again is counted, and reported in one line.
    let again = [&charge[..], &["observed: and 2 more like it", "repeated=2"]].concat();
    assert!(shop.payments.program.line_with(&again).await.contains("INFO"));
    shop.apply(HTTP_POLICY).await;
    assert_eq!(status(reports, "POST /charge").await, "403");
    eventually("both refusals", async || {
        (shop.payments.metric("postern_refusals_total", &["reason=\"denied\""]).await == 2.0).then_some(())
    })
    .await;
    assert_eq!(shop.payments.program.lines_with(&charge), 2, "{}", shop.payments.program.output());
}
