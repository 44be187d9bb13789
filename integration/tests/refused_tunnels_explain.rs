//! A refused TCP call is explained at the caller in the words of the called side, with the number under which its log
//! has it; and a call to the wrong port is refused as that.

use postern_integration::shop::Shop;
use postern_integration::{CaOptions, Sidecar, SidecarSpec, eventually, free_port, tls};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

async fn refused(address: std::net::SocketAddr) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"charge 12").await.unwrap();
    let got = stream.read(&mut [0; 16]).await;
    assert!(got.is_err(), "a refusal is a reset, never data or a clean end: {got:?}");
}

async fn refusal_of(sidecar: &Sidecar, reason: &str) -> Value {
    eventually(&format!("{reason} in /status of {}", sidecar.name), async || {
        let refusals = sidecar.status().await["refusals"].clone();
        refusals.as_array().unwrap().iter().find(|refusal| refusal["reason"] == reason).cloned()
    })
    .await
}

/// Calls at `caller`, and compares what both sides tell of it.
async fn explained(shop: &Shop, caller: &Sidecar, (theirs, ours): (&str, &str)) {
    refused(caller.outbounds[0]).await;
    let called = refusal_of(&shop.payments, theirs).await;
    let told = refusal_of(caller, ours).await;
    let instance = called["instance"].as_str().unwrap();
    assert!(instance.starts_with("urn:postern:request:"), "{instance}");
    assert_eq!(told["instance"], instance);
    let detail = called["detail"].as_str().unwrap();
    assert!(told["detail"].as_str().unwrap().contains(detail), "{told} without {detail}");
    let log = ["refused", ours, instance];
    caller.program.line_with(&log).await;
    shop.payments.program.line_with(&["refused", theirs, instance]).await;
    let labels = [format!("reason=\"{ours}\""), "direction=\"outbound\"".to_owned()];
    let labels: Vec<_> = labels.iter().map(String::as_str).collect();
    assert!(caller.metric("postern_refusals_total", &labels).await >= 1.0);
}

#[tokio::test]
async fn a_caller_that_no_rule_names_is_told_what_the_called_side_knows() {
    let shop = Shop::start(CaOptions::default()).await;
    explained(&shop, &shop.reports, ("denied", "access_denied")).await;
    let told = refusal_of(&shop.reports, "access_denied").await.to_string();
    assert!(told.contains("no rule") && told.contains("policy explain"), "{told}");
}

#[tokio::test]
async fn a_called_app_that_is_away_is_told_as_that() {
    let nowhere = std::net::SocketAddr::from(([127, 0, 0, 1], free_port()));
    let shop = Shop::start_at(CaOptions::default(), nowhere, "").await;
    explained(&shop, &shop.orders, ("app_unreachable", "app_unreachable")).await;
}

#[tokio::test]
async fn a_port_that_is_not_the_one_called_is_refused_whoever_answers() {
    let shop = Shop::start(CaOptions::default()).await;
    let (mine, plain) = (free_port(), free_port());
    let outbound = |port: u16, to| {
        format!(
            "[[outbound]]\nlisten = \"127.0.0.1:{port}\"\nservice = \"payments\"\nto = [\"{to}\"]\nprotocol = \"tcp\"\nport = \"admin\"\n"
        )
    };
    // The same identity, by a server that speaks no postern/1.
    let payments = tls::enrol(&shop.ca, "payments").await;
    let direct = tls::echo_server(&payments, shop.ca.bundles()).await;
    let extra = outbound(mine, shop.payments_inbound()) + &outbound(plain, direct.address);
    let spec = SidecarSpec::new("orders").second().policy(&shop.policy).extra(&extra);
    let mut caller = shop.mesh.sidecar(&shop.ca, &spec);
    caller.outbounds = [mine, plain].map(|port| ([127, 0, 0, 1], port).into()).to_vec();
    caller.ready().await;
    explained(&shop, &caller, ("wrong_port", "wrong_port")).await;
    refused(caller.outbounds[1]).await;
    let direct = direct.address.to_string();
    caller.program.line_with(&["refused", "wrong_port", &direct, "no postern/1"]).await;

    let mut stream = TcpStream::connect(shop.orders_to_payments()).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    stream.read_exact(&mut [0; 1]).await.expect("who demands no port is served");
}
