//! A server that is not who is called hears nothing, whichever side is the foreign one.

use std::path::Path;

use postern_integration::certs::{TestCa, pem};
use postern_integration::{CaOptions, tls};

use crate::called::Payments;
use crate::calling::Orders;
use crate::papers::Papers;
use crate::program::{Foreign, Kind, Role};
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

/// Papers of `id` that believe another CA than the mesh's.
async fn distrusting(mesh: &postern_integration::Mesh, ca: &postern_integration::Ca, id: &str) -> Papers {
    let other = pem("CERTIFICATE", TestCa::new("shop.example").root());
    Papers::with_bundle(mesh, &tls::enrol(ca, id).await, &other)
}

#[tokio::test]
async fn as_documented_a_foreign_client_does_not_speak_to_a_sidecar_of_another_ca() {
    let payments = Payments::start(CaOptions::default()).await;
    let papers = distrusting(&payments.mesh, &payments.ca, "orders").await;
    for kind in Kind::here() {
        println!("{kind:?}");
        let caller = Foreign::start(kind, Role::Client, &papers, payments.places()).await;
        traffic::nothing_passes(caller.at.tcp).await;
        assert_eq!(payments.app.heard(), 0, "{kind:?}");
    }
    println!("{}", payments.sidecar.program.output());
}

#[tokio::test]
async fn a_foreign_server_that_does_not_believe_us_is_told_of_at_the_caller() {
    let orders = Orders::start().await;
    let papers = distrusting(&orders.mesh, &orders.ca, "payments").await;
    for kind in Kind::here() {
        println!("{kind:?}");
        let reached = orders.reach_holding(kind, &papers, |text| text).await;
        traffic::nothing_passes(reached.entry.tcp).await;
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        println!("{}", reached.sidecar.program.output());
        println!("{}", reached.server.program.output());
        assert_eq!(orders.app.heard(), 0, "{kind:?}");
    }
}

/// Those that compare identities, as the table of the document says.
#[tokio::test]
async fn envoy_and_go_speak_to_no_sidecar_but_that_of_the_service_they_call() {
    let payments = Payments::start_as("reports", CaOptions::default()).await;
    let papers = Papers::of(&payments.mesh, &payments.ca, "orders").await;
    for kind in Kind::here().filter(|kind| kind.compares_identities()) {
        println!("{kind:?}");
        let caller = Foreign::start(kind, Role::Client, &papers, payments.places()).await;
        traffic::nothing_passes(caller.at.tcp).await;
        assert_eq!(payments.app.heard(), 0, "{kind:?}");
    }
}

/// A sidecar without listeners keeps an SVID fresh, and the documented commands make PEM files of it.
#[tokio::test]
async fn the_documented_commands_make_papers_of_a_sidecars_state() {
    use postern_integration::{SidecarSpec, tools};
    use tokio::process::Command;
    if !tools::has("jq") || !tools::has("openssl") {
        return;
    }
    let mut payments = Payments::start(CaOptions::default()).await;
    let keeper = payments.mesh.sidecar(&payments.ca, &SidecarSpec::new("orders"));
    keeper.program.line_with(&["identity in place"]).await;
    let dir = payments.mesh.path().join("made");
    std::fs::create_dir(&dir).unwrap();
    let script = crate::documented::configuration("an SVID out of a sidecar's state", &dir, &[]);
    let script = script.replace("state/identity.json", "orders.state/identity.json");
    let mut shell = Command::new("bash");
    let ran = shell.args(["-euo", "pipefail", "-c", &script]).current_dir(payments.mesh.path()).output();
    let ran = ran.await.unwrap();
    assert!(ran.status.success(), "{ran:?}");
    assert_eq!(mode(&dir.join("orders.pem.key")), 0o600);
    let papers = Papers { dir };
    for kind in Kind::here() {
        println!("{kind:?}");
        let caller = Foreign::start(kind, Role::Client, &papers, payments.places()).await;
        traffic::bulk_passes(caller.at.tcp).await;
        let _of_the_bulk = payments.app.end().await;
    }
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}
