//! A refused TCP call is explained at the caller in the words of the called side, with the number under which its log
//! has it; and a call to the wrong port is refused as that.

use postern_integration::shop::Shop;
use postern_integration::{CaOptions, Sidecar, SidecarSpec, eventually, free_port, refused, tls};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

async fn refusal_of(sidecar: &Sidecar, reason: &str) -> Value {
    eventually(&format!("{reason} in /status of {}", sidecar.name), async || {
        let refusals = sidecar.status().await["refusals"].clone();
        refusals.as_array().unwrap().iter().find(|refusal| refusal["reason"] == reason).cloned()
    })
    .await
}

/// Calls at `caller`, and compares what both sides tell of it.
async fn explained(shop: &Shop, caller: &Sidecar, (theirs, ours): (&str, &str)) {
    refused::is_reset(caller.outbounds[0], b"charge 12").await;
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
    refused::is_reset(caller.outbounds[1], b"charge 12").await;
    let direct = direct.address.to_string();
    caller.program.line_with(&["refused", "wrong_port", &direct, "no postern/1"]).await;

    let mut stream = TcpStream::connect(shop.orders_to_payments()).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    stream.read_exact(&mut [0; 1]).await.expect("who demands no port is served");
}

#[tokio::test]
async fn a_peer_that_breaks_the_rules_of_the_wire_is_refused_by_what_it_did() {
    let shop = Shop::start(CaOptions::default()).await;
    let (orders, bundles) = (tls::enrol(&shop.ca, "orders").await, shop.ca.bundles());
    let (open, news) = ([1, 0, 0, 0], [7, 0, 0, 1, 0]);
    let cases: [(&[u8], &[&str]); 5] = [
        (&[9, 0, 0, 0], &["tunnel_violation", "expected a frame's kind"]),
        (&[4, 0, 0, 1, b'x'], &["tunnel_violation", "outside of a lease"]),
        (&[open, open].concat(), &["tunnel_violation", "OPEN came while a lease was not over"]),
        (&[7, 0, 0, 1, 2], &["reauthentication_failed", "not asked for"]),
        (&news.repeat(31), &["reauthentication_failed", "more than 30 AUTH frames"]),
    ];
    for (bytes, told) in cases {
        let address = shop.payments_inbound();
        let speaking = tls::connect_speaking(address, Some(&orders), bundles.clone(), &[b"postern/1"]);
        let mut stream = speaking.await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let ended = stream.read_to_end(&mut Vec::new()).await;
        assert!(ended.is_err(), "{told:?}: no close_notify: {ended:?}");
        let of_orders = ["refused", "spiffe://shop.example/orders"];
        shop.payments.program.line_with(&[&of_orders[..], told].concat()).await;
        assert!(shop.payments.metric("postern_refusals_total", &told[..1]).await >= 1.0);
    }
    let mut stream = TcpStream::connect(shop.orders_to_payments()).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    stream.read_exact(&mut [0; 1]).await.expect("others are served");
}
