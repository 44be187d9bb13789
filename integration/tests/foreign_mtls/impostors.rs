//! A foreign server that is not who a sidecar calls is refused before it hears a byte.

use postern_integration::certs::TestCa;

use crate::calling::Orders;
use crate::papers::Papers;
use crate::program::Kind;
use crate::{requests, traffic};

/// Servers with these papers are refused by the caller's sidecar, whose log has all the `words`.
async fn each_is_refused(orders: &Orders, papers: &Papers, words: &[&str]) {
    for kind in Kind::here() {
        println!("{kind:?}");
        let reached = orders.reach_holding(kind, papers, |text| text).await;
        traffic::nothing_passes(reached.entry.tcp).await;
        reached.sidecar.program.line_with(words).await;
        let answer = requests::ask(reached.entry.http, "GET", "/charges/7", 0).await;
        assert_eq!(answer.status, 503, "{kind:?}: {answer:?}");
        let word = words.last().unwrap();
        assert!(answer.text().contains(word), "{kind:?}: {word} is not in {answer:?}");
        assert_eq!(orders.app.heard(), 0, "{kind:?}: something arrived behind it");
    }
}

#[tokio::test]
async fn a_foreign_server_in_another_services_name_is_refused_before_it_hears_a_byte() {
    let orders = Orders::start().await;
    let papers = Papers::of(&orders.mesh, &orders.ca, "reports").await;
    let found = "expected spiffe://shop.example/payments, found spiffe://shop.example/reports";
    each_is_refused(&orders, &papers, &["refused", "wrong_identity", found]).await;
}

#[tokio::test]
async fn a_foreign_server_of_another_trust_domain_is_refused() {
    let orders = Orders::start().await;
    let stranger = TestCa::new("other.example").svid("spiffe://other.example/payments");
    let papers = Papers::with(&orders.mesh, &orders.ca, &stranger);
    each_is_refused(&orders, &papers, &["refused", "unknown_trust_domain"]).await;
}

#[tokio::test]
async fn a_foreign_server_with_the_right_name_of_another_ca_is_refused() {
    let orders = Orders::start().await;
    let stranger = TestCa::new("shop.example").svid("spiffe://shop.example/payments");
    let papers = Papers::with(&orders.mesh, &orders.ca, &stranger);
    each_is_refused(&orders, &papers, &["refused", "unknown_issuer"]).await;
}
