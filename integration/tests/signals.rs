//! Signals at bad moments: under load, twice, while it drains; and a start after a kill or on a port that is taken.

use std::time::{Duration, Instant};

use postern_integration::apps::App;
use postern_integration::load::{Load, Style};
use postern_integration::shop::{POLICY_NOBODY, Shop};
use postern_integration::{CaOptions, Program, SidecarSpec, eventually, sidecar_binary};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const PATIENT: &str = "[shutdown]\ndrain_delay = \"10m\"\ndrain_deadline = \"10m\"\n";

/// An open connection from `orders` to `payments` that has carried something.
async fn open(shop: &Shop) -> TcpStream {
    let mut stream = TcpStream::connect(shop.orders_to_payments()).await.unwrap();
    echo(&mut stream).await.unwrap();
    stream
}

async fn echo(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"word").await?;
    stream.read_exact(&mut [0; 4]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_fails_nothing_while_it_is_not_ready_and_ends_with_0() {
    let shutdown = "[shutdown]\ndrain_delay = \"1s\"\ndrain_deadline = \"10s\"\n";
    let mut shop = Shop::start_with(CaOptions::default(), App::echo().await, shutdown).await;
    let loads = [Style::FreshConnections, Style::KeptConnections]
        .map(|style| Load::start(shop.orders_to_payments(), style, 8));
    let served = || loads.iter().map(Load::served).min().unwrap();
    eventually("load", async || (served() > 20).then_some(())).await;
    shop.payments.program.signal("TERM");
    shop.payments.program.line_with(&["not ready"]).await;
    let before = served();
    eventually("load while it is not ready", async || (served() > before + 20).then_some(())).await;
    for load in loads {
        let outcome = load.stop().await;
        assert_eq!(outcome.failures, Vec::<String>::new(), "of {}", outcome.served);
    }
    assert_eq!(shop.payments.program.exit().await.code(), Some(0));
}

#[tokio::test]
async fn a_second_sigterm_cuts_what_is_open_at_once_at_whichever_stage_and_ends_with_4() {
    for draining in [false, true] {
        let shutdown = if draining { PATIENT.replacen("10m", "0s", 1) } else { PATIENT.to_owned() };
        let mut shop = Shop::start_with(CaOptions::default(), App::echo().await, &shutdown).await;
        let mut stream = open(&shop).await;
        shop.payments.program.signal("TERM");
        shop.payments.program.line_with(&[if draining { "draining" } else { "not ready" }]).await;
        echo(&mut stream).await.unwrap();
        let told = Instant::now();
        shop.payments.program.signal("TERM");
        assert!(stream.read_u8().await.is_err(), "a reset");
        assert_eq!(shop.payments.program.exit().await.code(), Some(4));
        assert!(told.elapsed() < Duration::from_secs(20), "{:?}", told.elapsed());
    }
}

#[tokio::test]
async fn sighup_while_it_drains_is_heard_and_ends_nothing() {
    let log = tempfile::tempdir().unwrap();
    let path = log.path().join("access.log");
    let extra = format!(
        "[shutdown]\ndrain_delay = \"0s\"\ndrain_deadline = \"10m\"\n[access_log]\nto = \"{}\"\n",
        path.display()
    );
    let change = |spec: SidecarSpec| spec.extra(&extra);
    let policy = postern_integration::shop::POLICY;
    let mut shop = Shop::start_as(CaOptions::default(), App::echo().await, policy, change).await;
    let mut streams = [open(&shop).await, open(&shop).await];
    shop.payments.program.signal("TERM");
    shop.payments.program.line_with(&["draining", "live=2"]).await;
    std::fs::rename(&path, log.path().join("access.log.1")).unwrap();
    shop.payments.program.signal("HUP");
    shop.payments.program.line_with(&["access log opened anew"]).await;
    shop.payments.program.line_with(&["SIGHUP: looking at the policy file"]).await;
    let [first, second] = &mut streams;
    echo(first).await.unwrap();
    first.shutdown().await.unwrap();
    assert_eq!(first.read(&mut [0; 1]).await.unwrap(), 0, "a clean end");
    eventually("its line in the new file", async || {
        std::fs::read_to_string(&path).is_ok_and(|text| text.contains("\"inbound\"")).then_some(())
    })
    .await;
    // What is open while it drains is decided again, as ever.
    shop.mesh.write("policy.toml", POLICY_NOBODY);
    shop.payments.program.signal("HUP");
    assert!(second.read_u8().await.is_err(), "cut by the new policy");
    assert_eq!(shop.payments.program.exit().await.code(), Some(0));
}

#[tokio::test]
async fn after_a_kill_under_load_it_starts_again_on_the_same_ports_at_once() {
    let mut shop = Shop::start(CaOptions::default()).await;
    for _ in 0..3 {
        let mut streams = Vec::new();
        for _ in 0..20 {
            streams.push(open(&shop).await);
        }
        for sidecar in [&mut shop.payments, &mut shop.orders] {
            sidecar.program.kill().await;
            sidecar.restart();
        }
        for mut stream in streams {
            assert!(stream.read_u8().await.is_err(), "a reset, not a clean end");
        }
        shop.payments.ready().await;
        shop.orders.ready().await;
        open(&shop).await;
    }
}

#[tokio::test]
async fn on_a_port_that_is_taken_it_says_which_and_serves_nothing_until_the_port_is_free() {
    let mut shop = Shop::start(CaOptions::default()).await;
    shop.payments.program.kill().await;
    let taken = tokio::net::TcpListener::bind(shop.payments_inbound()).await.unwrap();
    let args = ["run".as_ref(), "--config".as_ref(), shop.payments.config.as_path()];
    let mut refused = Program::start("payments on a taken port", &sidecar_binary(), args);
    let address = shop.payments_inbound().to_string();
    refused.line_with(&["cannot listen on", &address, "inbound api"]).await;
    assert_eq!(refused.exit().await.code(), Some(1));
    drop(taken);
    shop.payments.restart();
    shop.payments.ready().await;
    open(&shop).await;
}
