//! ALPN: a foreign server that knows none of ours, ignores it or insists on its own gets plain bytes; what a foreign
//! client offers to an inbound for bytes is ignored, and one for HTTP takes what it speaks.

use std::sync::Arc;

use postern_integration::{CaOptions, eventually, tls};
use postern_proto::mtls::{AuthorizeAny, PeerVerifier, client_config, server_name};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::called::Payments;
use crate::calling::{Orders, Reached};
use crate::program::Kind;
use crate::traffic::within;
use crate::{requests, traffic};

/// What a server of this kind is made to insist on, in the configuration of its listener for bytes.
fn insisting(kind: Kind, text: &str) -> String {
    const PROTOCOLS: &str = "h2,acme-tls/1";
    let port_of_bytes = "ssl_verify_depth 2;\n        proxy_pass";
    match kind {
        Kind::Nginx => {
            let alpn = "ssl_alpn h2 acme-tls/1;";
            text.replacen(port_of_bytes, &format!("{alpn} {port_of_bytes}"), 1)
        }
        Kind::Haproxy => text.replacen("TLSv1.3", &format!("TLSv1.3 alpn {PROTOCOLS}"), 1),
        Kind::Envoy => text.replace("[h2, http/1.1]", "[h2, acme-tls/1]"),
        Kind::Go => format!("{text}-alpn={PROTOCOLS}\n"),
    }
}

#[tokio::test]
async fn a_server_that_insists_on_other_protocols_still_gets_bytes() {
    let mut orders = Orders::start().await;
    for kind in Kind::here() {
        println!("{kind:?}");
        let insist = |text: String| {
            let changed = insisting(kind, &text);
            assert_ne!(changed, text);
            changed
        };
        let Reached { entry, server, .. } = &orders.reach_with(kind, "payments", insist).await;
        // haproxy and Envoy insist on less: they ignore what they do not know.
        if matches!(kind, Kind::Nginx | Kind::Go) {
            let svid = tls::enrol(&orders.ca, "orders").await;
            let offer: &[&[u8]] = &[b"postern/1"];
            let refused = tls::connect_speaking(server.at.tcp, Some(&svid), orders.ca.bundles(), offer).await;
            assert!(refused.unwrap_err().to_string().contains("NoApplicationProtocol"), "{kind:?}");
        }
        for _ in 0..3 {
            traffic::bulk_passes(entry.tcp).await;
            let _of_the_bulk = orders.app.end().await;
        }
        traffic::clean_end_passes(entry.tcp).await;
    }
}

#[tokio::test]
async fn a_web_server_without_h2_is_asked_over_http_1() {
    let orders = Orders::start().await;
    let only_http1 = |text: String| {
        text.replace(" http2;", ";").replace("alpn h2,http/1.1", "alpn http/1.1").replace("[h2, ", "[")
    };
    for kind in Kind::here().filter(|kind| *kind != Kind::Go) {
        println!("{kind:?}");
        let reached = orders.reach_with(kind, "payments", only_http1).await;
        requests::are_answered(reached.entry.http).await;
    }
}

#[tokio::test]
async fn a_web_server_without_alpn_is_asked_over_http_1() {
    let orders = Orders::start().await;
    let without = |text: String| {
        text.replace(" http2;", ";")
            .replace(" alpn h2,http/1.1", "")
            .replace("alpn_protocols: [h2, http/1.1]", "alpn_protocols: []")
    };
    for kind in Kind::here() {
        println!("{kind:?}");
        let reached = orders.reach_with(kind, "payments", without).await;
        requests::are_answered(reached.entry.http).await;
    }
}

/// What clients offer: each is a list of names.
const OFFERS: [&[&[u8]]; 8] = [
    &[],
    &[b"http/1.1"],
    &[b"h2"],
    &[b"h2", b"http/1.1"],
    &[b"acme-tls/1"],
    &[b"acme-tls/1", b"http/1.1"],
    &[b"\xff\0\n\x1b[31m"],
    &[&[b'x'; 255], &[0; 255]],
];

#[tokio::test]
async fn an_inbound_for_bytes_serves_whatever_protocols_a_client_offers_and_takes_none() {
    let payments = Payments::start(CaOptions::default()).await;
    let svid = tls::enrol(&payments.ca, "orders").await;
    for offer in OFFERS {
        let at = payments.places().tcp;
        let connected = tls::connect_speaking(at, Some(&svid), payments.ca.bundles(), offer).await;
        let mut stream = connected.unwrap_or_else(|error| panic!("{offer:?}: {error}"));
        traffic::greets_and_echoes(&mut stream).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), None, "{offer:?}");
    }
}

#[tokio::test]
async fn an_inbound_for_http_takes_what_it_speaks_and_refuses_a_client_that_speaks_nothing_of_it() {
    let payments = Payments::start(CaOptions::default()).await;
    let svid = tls::enrol(&payments.ca, "orders").await;
    for offer in OFFERS {
        let at = payments.places().http;
        let connected = tls::connect_speaking(at, Some(&svid), payments.ca.bundles(), offer).await;
        let spoken = offer.iter().find(|name| [&b"h2"[..], b"http/1.1"].contains(*name));
        if spoken.is_some() || offer.is_empty() {
            let stream = connected.unwrap_or_else(|error| panic!("{offer:?}: {error}"));
            assert_eq!(stream.get_ref().1.alpn_protocol(), spoken.copied(), "{offer:?}");
        } else {
            let error = connected.expect_err("no protocol in common").to_string();
            assert!(error.contains("NoApplicationProtocol"), "{offer:?}: {error}");
        }
    }
    payments.sidecar.program.line_with(&["refused", "handshake_failed"]).await;
    eventually("three refusals", async || {
        let count = payments.sidecar.metric("postern_refusals_total", &["handshake_failed"]).await;
        (count == 3.0).then_some(())
    })
    .await;
}

/// RFC 7301 §3.1: no name is empty, and the list is as long as it says.
#[tokio::test]
async fn an_offer_that_is_not_well_formed_is_refused_by_name() {
    const DECODE_ERROR: u8 = 50;
    let payments = Payments::start(CaOptions::default()).await;
    for at in [payments.places().tcp, payments.places().http] {
        for length in [0, 1, 255] {
            let mut stream = TcpStream::connect(at).await.unwrap();
            stream.write_all(&hello_with_name_length(&payments, length)).await.unwrap();
            let mut said = Vec::new();
            within("an alert", stream.read_to_end(&mut said)).await.unwrap();
            assert_eq!(said, [21, 3, 3, 0, 2, 2, DECODE_ERROR], "{length}");
        }
    }
    payments.sidecar.program.line_with(&["refused", "not_tls", "corrupt"]).await;
    eventually("six refusals", async || {
        let count = payments.sidecar.metric("postern_refusals_total", &["not_tls"]).await;
        (count == 6.0).then_some(())
    })
    .await;
}

/// A ClientHello whose only offer says that it has so many bytes, and has others.
fn hello_with_name_length(payments: &Payments, length: u8) -> Vec<u8> {
    const NAME: &[u8] = b"a name of some length";
    let judge = Arc::new(PeerVerifier::new(payments.ca.bundles(), Arc::new(AuthorizeAny)));
    let config = client_config(None, judge, &[NAME]).unwrap();
    let mut hello = Vec::new();
    let mut client = rustls::ClientConnection::new(config, server_name()).unwrap();
    client.write_tls(&mut hello).unwrap();
    let name = hello.windows(NAME.len()).position(|bytes| bytes == NAME).unwrap();
    hello[name - 1] = length;
    hello
}
