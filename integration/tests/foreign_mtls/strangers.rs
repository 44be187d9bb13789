//! A foreign client that may not call, or is nobody we know, is refused: its alert and our log say why, and the app
//! hears nothing.

use postern_integration::certs::TestCa;
use postern_integration::{CaOptions, tls};
use time::{Duration, OffsetDateTime};

use crate::called::Payments;
use crate::papers::Papers;
use crate::program::{Foreign, Kind, Role};
use crate::traffic;

/// Each kind with these papers is refused with that alert, and our log has all the `words`.
async fn each_is_refused(payments: &Payments, papers: &Papers, alert: &str, words: &[&str]) {
    for kind in Kind::here() {
        let caller = Foreign::start(kind, Role::Client, papers, payments.places()).await;
        is_refused(payments, kind, &caller, alert, words).await;
    }
}

async fn is_refused(payments: &Payments, kind: Kind, caller: &Foreign, alert: &str, words: &[&str]) {
    println!("{kind:?}");
    let sidecar = &payments.sidecar.program;
    let before = sidecar.lines_with(words);
    traffic::nothing_passes(caller.at.tcp).await;
    // The others do not log what they are told.
    if matches!(kind, Kind::Nginx | Kind::Go) {
        caller.program.line_with(&[alert]).await;
    }
    sidecar.line_with(words).await;
    postern_integration::eventually(&format!("{kind:?}: {words:?}, told again"), async || {
        (sidecar.lines_with(words) > before).then_some(())
    })
    .await;
    assert_eq!(payments.app.heard(), 0, "{kind:?}: the app heard something");
}

#[tokio::test]
async fn who_is_not_on_the_allow_list_is_refused_by_name() {
    let payments = Payments::start(CaOptions::default()).await;
    let papers = Papers::of(&payments.mesh, &payments.ca, "reports").await;
    let words = ["refused", "spiffe://shop.example/reports", "no rule matches"];
    each_is_refused(&payments, &papers, "access denied", &words).await;
}

#[tokio::test]
async fn a_certificate_of_another_trust_domain_is_refused() {
    let payments = Payments::start(CaOptions::default()).await;
    let stranger = TestCa::new("other.example").svid("spiffe://other.example/orders");
    let papers = Papers::with(&payments.mesh, &payments.ca, &stranger);
    let words = ["refused", "unknown_trust_domain", "other.example"];
    each_is_refused(&payments, &papers, "unknown", &words).await;
}

#[tokio::test]
async fn the_right_name_of_another_ca_is_refused() {
    let payments = Payments::start(CaOptions::default()).await;
    let stranger = TestCa::new("shop.example").svid("spiffe://shop.example/orders");
    let papers = Papers::with(&payments.mesh, &payments.ca, &stranger);
    each_is_refused(&payments, &papers, "unknown", &["refused", "unknown_issuer"]).await;
}

#[tokio::test]
async fn a_client_without_certificate_is_refused() {
    let payments = Payments::start(CaOptions::default()).await;
    let papers = Papers::of(&payments.mesh, &payments.ca, "orders").await;
    for kind in Kind::here() {
        let places = payments.places();
        let caller = Foreign::start_with(kind, Role::Client, &papers, places, without_certificate).await;
        is_refused(&payments, kind, &caller, "certificate required", &["refused", "no_certificate"]).await;
    }
}

/// The configuration of a client that shows nothing.
fn without_certificate(text: String) -> String {
    let names_one = |line: &&str| line.contains("orders.pem");
    let changed = |line: &str| match line.split_once(" crt ") {
        Some((before, after)) => {
            Some(format!("{before} {}\n", after.split_once(' ').map_or("", |(_, options)| options)))
        }
        None => (!names_one(&line)).then(|| format!("{line}\n")),
    };
    text.lines().filter_map(changed).collect()
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let payments = Payments::start(CaOptions { svid_ttl: "10s", ..CaOptions::default() }).await;
    let svid = tls::enrol(&payments.ca, "orders").await;
    let papers = Papers::with(&payments.mesh, &payments.ca, &svid);
    let left = svid.verified().not_after() + Duration::seconds(1) - OffsetDateTime::now_utc();
    // Time itself is what is tested.
    tokio::time::sleep(left.try_into().unwrap()).await;
    each_is_refused(&payments, &papers, "certificate", &["refused", "reason=\"expired\""]).await;
}
