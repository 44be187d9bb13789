//! SIGTERM under load: requests in flight finish and the sidecar exits with 0 within its deadline.

use std::time::{Duration, Instant};

use postern_integration::CaOptions;
use postern_integration::apps::App;
use postern_integration::shop::Shop;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

const SHUTDOWN: &str = "[shutdown]\ndrain_delay = \"100ms\"\ndrain_deadline = \"3s\"\n";

/// An app that answers a byte only when told.
async fn slow_app() -> (App, watch::Sender<bool>) {
    let (release, released) = watch::channel(false);
    let app = App::serve(move |mut stream| {
        let mut released = released.clone();
        async move {
            let byte = stream.read_u8().await?;
            let _ = released.wait_for(|go| *go).await;
            stream.write_u8(byte).await?;
            stream.shutdown().await
        }
    })
    .await;
    (app, release)
}

#[tokio::test]
async fn requests_in_flight_finish_before_the_sidecar_ends() {
    let (app, release) = slow_app().await;
    let mut shop = Shop::start_with(CaOptions::default(), app, SHUTDOWN).await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(shop.orders_to_payments()).await.unwrap();
        stream.write_u8(7).await.unwrap();
        streams.push(stream);
    }
    postern_integration::eventually("all in flight", async || {
        let status = shop.payments.status().await;
        (status["connections"]["live"].as_u64()? >= 20).then_some(())
    })
    .await;
    shop.payments.program.signal("TERM");
    shop.payments.program.line_with(&["draining"]).await;
    release.send(true).unwrap();
    for stream in &mut streams {
        assert_eq!(stream.read_u8().await.unwrap(), 7);
    }
    assert_eq!(shop.payments.program.exit().await.code(), Some(0));
}

#[tokio::test]
async fn what_does_not_finish_is_cut_at_the_deadline_and_the_exit_code_is_still_0() {
    let (app, _never) = slow_app().await;
    let mut shop = Shop::start_with(CaOptions::default(), app, SHUTDOWN).await;
    let mut stream = TcpStream::connect(shop.orders_to_payments()).await.unwrap();
    stream.write_u8(7).await.unwrap();
    postern_integration::eventually("in flight", async || {
        let status = shop.payments.status().await;
        (status["connections"]["live"].as_u64()? >= 1).then_some(())
    })
    .await;
    let started = Instant::now();
    shop.payments.program.signal("TERM");
    assert!(stream.read_u8().await.is_err());
    assert_eq!(shop.payments.program.exit().await.code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_second_sigterm_ends_it_at_once() {
    let (app, _never) = slow_app().await;
    let patient = "[shutdown]\ndrain_delay = \"10m\"\ndrain_deadline = \"10m\"\n";
    let mut shop = Shop::start_with(CaOptions::default(), app, patient).await;
    shop.payments.program.signal("TERM");
    shop.payments.program.line_with(&["not ready"]).await;
    let (status, _) = shop.payments.get("/ready").await.unwrap();
    assert_eq!(status, 503, "a sidecar about to end is not ready, though it still serves");
    shop.payments.program.signal("TERM");
    assert_eq!(shop.payments.program.exit().await.code(), Some(4));
}
