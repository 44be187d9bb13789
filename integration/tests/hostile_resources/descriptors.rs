//! A sidecar whose peers have taken all its descriptors serves again when they let go.

use std::process::Command;

use postern_integration::shop::Shop;
use postern_integration::tools::has;
use postern_integration::{CaOptions, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Descriptors that it has beyond those that it holds at rest.
const SPARE: usize = 12;
const PEERS: usize = 60;

#[tokio::test]
async fn peers_that_took_all_descriptors_of_an_inbound_keep_nobody_out_once_they_are_gone() {
    if !has("prlimit") {
        return;
    }
    let shop = Shop::start(CaOptions::default()).await;
    served(&shop).await.unwrap();
    let pid = shop.payments.program.pid();
    let held = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let limit = format!("--nofile={0}:{0}", held + SPARE);
    let limited = Command::new("prlimit").args(["--pid", &pid.to_string(), &limit]).status();
    assert!(limited.unwrap().success());
    for _ in 0..3 {
        let mut peers = Vec::new();
        for _ in 0..PEERS {
            let mut peer = TcpStream::connect(shop.payments_inbound()).await.unwrap();
            // It may be refused already.
            let _refused = peer.write_all(&[22, 3, 1, 2, 0]).await;
            peers.push(peer);
        }
        drop(peers);
        eventually("somebody served again", async || served(&shop).await.ok()).await;
    }
    let (status, _) = shop.payments.get("/live").await.unwrap();
    assert_eq!(status, 200);
}

async fn served(shop: &Shop) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(shop.orders_to_payments()).await?;
    stream.write_all(b"x").await?;
    stream.read_exact(&mut [0; 1]).await.map(|_| ())
}
