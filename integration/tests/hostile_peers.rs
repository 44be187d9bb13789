//! Who knocks at a sidecar's mTLS port without a right to is refused with a reason that is logged, and nobody else
//! notices.

use std::net::SocketAddr;

use postern_integration::apps::App;
use postern_integration::certs::TestCa;
use postern_integration::shop::Shop;
use postern_integration::tools::has;
use postern_integration::{CaOptions, eventually, tls};
use time::{Duration, OffsetDateTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Sends `bytes` and waits until the sidecar ends the connection.
async fn knock(address: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut rest = Vec::new();
    // Reset or end: either way it is over, and what matters is in the sidecar's log.
    let _ended = stream.read_to_end(&mut rest).await;
    let text = String::from_utf8_lossy(&rest);
    assert!(!text.contains("one request"), "nothing is served: {text:?}");
}

async fn served_meanwhile(shop: &Shop) {
    let mut stream = TcpStream::connect(shop.orders_to_payments()).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    stream.read_exact(&mut [0; 1]).await.unwrap();
}

#[tokio::test]
async fn bytes_that_are_no_tls_are_refused_by_name() {
    let shop = Shop::start(CaOptions::default()).await;
    let inbound = shop.payments_inbound();
    knock(inbound, b"GET / HTTP/1.1\r\nhost: payments\r\n\r\n").await;
    shop.payments.program.line_with(&["refused", "not_tls", "HTTP"]).await;
    knock(inbound, b"SSH-2.0-OpenSSH_9.2\r\n").await;
    knock(inbound, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    for seed in 0..200u32 {
        let noise: Vec<u8> =
            (0..512u32).map(|at| (seed.wrapping_mul(2_654_435_761) >> (at % 24)) as u8).collect();
        knock(inbound, &noise).await;
    }
    assert!(shop.payments.metric("postern_refusals_total", &["not_tls"]).await >= 3.0);
    served_meanwhile(&shop).await;
}

#[tokio::test]
async fn every_certificate_that_is_not_good_enough_is_refused_with_its_reason() {
    let shop = Shop::start(CaOptions::default()).await;
    let (inbound, bundles) = (shop.payments_inbound(), shop.ca.bundles());
    let try_with = async |svid: Option<&postern_proto::identity::Svid>| {
        let mut stream = tls::connect(inbound, svid, bundles.clone()).await.unwrap();
        tls::echo_once(&mut stream).await.unwrap_err().to_string()
    };

    let error = try_with(None).await;
    assert!(error.contains("CertificateRequired"), "{error}");
    shop.payments.program.line_with(&["refused", "no_certificate"]).await;

    let stranger = TestCa::new("shop.example").svid("spiffe://shop.example/orders");
    let error = try_with(Some(&stranger)).await;
    assert!(error.contains("UnknownCA"), "{error}");

    let other_domain = TestCa::new("other.example").svid("spiffe://other.example/orders");
    try_with(Some(&other_domain)).await;
    shop.payments.program.line_with(&["refused", "unknown_trust_domain"]).await;

    let reports = tls::enrol(&shop.ca, "reports").await;
    let error = try_with(Some(&reports)).await;
    assert!(error.contains("AccessDenied"), "{error}");

    let orders = tls::enrol(&shop.ca, "orders").await;
    let mut good = tls::connect(inbound, Some(&orders), bundles.clone()).await.unwrap();
    tls::echo_once(&mut good).await.unwrap();
}

#[tokio::test]
async fn an_expired_certificate_is_refused_as_expired() {
    let shop = Shop::start(CaOptions { svid_ttl: "10s", ..CaOptions::default() }).await;
    let orders = tls::enrol(&shop.ca, "orders").await;
    let left = orders.verified().not_after() + Duration::seconds(1) - OffsetDateTime::now_utc();
    // Time itself is what is tested.
    tokio::time::sleep(left.try_into().unwrap()).await;
    let mut stream = tls::connect(shop.payments_inbound(), Some(&orders), shop.ca.bundles()).await.unwrap();
    let error = tls::echo_once(&mut stream).await.unwrap_err().to_string();
    assert!(error.contains("CertificateExpired"), "{error}");
    shop.payments.program.line_with(&["refused", "reason=\"expired\""]).await;
}

#[tokio::test]
async fn tls_1_2_is_refused_as_such() {
    if !has("openssl") {
        return;
    }
    let shop = Shop::start(CaOptions::default()).await;
    let output = std::process::Command::new("openssl")
        .args(["s_client", "-tls1_2", "-connect", &shop.payments_inbound().to_string()])
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("protocol version"), "{said}");
    shop.payments.program.line_with(&["refused", "tls_version"]).await;
}

#[tokio::test]
async fn a_client_hello_in_single_bytes_and_data_right_behind_the_handshake_are_served() {
    let shop = Shop::start(CaOptions::default()).await;
    let orders = tls::enrol(&shop.ca, "orders").await;
    // The client's first flight through a relay that passes on one byte at a time.
    let inbound = shop.payments_inbound();
    let dripping = App::serve(move |mut near| async move {
        let mut far = TcpStream::connect(inbound).await?;
        far.set_nodelay(true)?;
        let (mut near_read, mut near_write) = near.split();
        let (mut far_read, mut far_write) = far.split();
        let drip = async {
            while let Ok(byte) = near_read.read_u8().await {
                far_write.write_u8(byte).await?;
            }
            far_write.shutdown().await
        };
        let back = async { tokio::io::copy(&mut far_read, &mut near_write).await.map(|_| ()) };
        tokio::try_join!(drip, back).map(|_| ())
    })
    .await;
    let mut stream = tls::connect(dripping.address, Some(&orders), shop.ca.bundles()).await.unwrap();
    tls::echo_once(&mut stream).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_stalled_handshakes_are_bounded_and_others_are_served() {
    const STALLED: usize = 5_000;
    let shop = Shop::start(CaOptions::default()).await;
    served_meanwhile(&shop).await;
    let before = shop.payments.program.resident_kib();
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        // The start of a TLS record that never ends.
        let mut stream = TcpStream::connect(shop.payments_inbound()).await.unwrap();
        let _may_be_evicted_already = stream.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00]).await;
        stalled.push(stream);
    }
    for _ in 0..20 {
        served_meanwhile(&shop).await;
    }
    eventually("evictions are counted", async || {
        let evicted = shop.payments.metric("postern_refusals_total", &["handshakes_pending"]).await;
        (evicted > 0.0).then_some(())
    })
    .await;
    let grown = shop.payments.program.resident_kib().saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB more for {STALLED} stalled handshakes");
}
