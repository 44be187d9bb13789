//! A scanner, or a balancer's health check, is a few lines of the log, and hides no denial of a known identity.

use std::net::SocketAddr;

use postern_integration::apps::App;
use postern_integration::shop::{POLICY, Shop};
use postern_integration::{CaOptions, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const PROBES: usize = 200;

/// Speaks no TLS, and waits until it is refused.
async fn probe(at: SocketAddr, said: &[u8]) {
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(said).await.unwrap();
    let mut answer = Vec::new();
    let _reset_or_answered = stream.read_to_end(&mut answer).await;
}

#[tokio::test]
async fn many_probes_are_one_line_and_a_report_and_all_are_counted() {
    let change = |spec: postern_integration::SidecarSpec| spec.extra("[log]\nrepeats_interval = \"1s\"\n");
    let shop = Shop::start_as(CaOptions::default(), App::echo().await, POLICY, change).await;
    let (payments, at) = (&shop.payments, shop.payments.inbounds[0]);
    for _ in 0..PROBES {
        probe(at, b"GET / HTTP/1.1\r\n\r\n").await;
    }
    let strangers = ["reason=\"not_tls\"", "peer=\"unknown\""];
    let counted = async || payments.metric("postern_refusals_total", &strangers).await;
    eventually("all are counted", async || (counted().await == PROBES as f64).then_some(())).await;
    payments.program.line_with(&["refused: and", "more like it", "not_tls"]).await;
    // One line at first and one for each second that it took; the time of a slow machine is in it.
    let lines = payments.program.lines_with(&["refused", "not_tls"]);
    assert!(lines < PROBES / 4, "{lines} lines: {}", payments.program.output());

    // A denial in the midst of it is in the log at once.
    let scanners: Vec<_> = (0..4)
        .map(|_| {
            tokio::spawn(async move {
                loop {
                    probe(at, b"SSH-2.0-scanner\r\n").await;
                }
            })
        })
        .collect();
    let mut denied = TcpStream::connect(shop.reports_to_payments()).await.unwrap();
    let mut nothing = [0; 1];
    denied.write_all(b"hello").await.unwrap();
    let _reset = denied.read(&mut nothing).await;
    payments.program.line_with(&["refused", "spiffe://shop.example/reports", "no rule matches"]).await;
    scanners.iter().for_each(|scanner| scanner.abort());
}
