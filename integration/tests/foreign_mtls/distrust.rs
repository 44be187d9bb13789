//! A foreign program that does not believe a sidecar, or calls another, tells it so and hears nothing of its app.

use postern_integration::certs::{TestCa, pem};
use postern_integration::{Ca, CaOptions, Mesh, eventually, tls};

use crate::called::Payments;
use crate::calling::Orders;
use crate::papers::Papers;
use crate::program::{Foreign, Kind, Role};
use crate::traffic;

/// Papers of `id` that believe another CA than the mesh's.
async fn distrusting(mesh: &Mesh, ca: &Ca, id: &str) -> Papers {
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
        let sidecar = &payments.sidecar.program;
        let told = || sidecar.lines_with(&["refused", "peer_alert"]);
        let before = told();
        traffic::nothing_passes(caller.at.tcp).await;
        eventually("the alert in our log", async || (told() > before).then_some(())).await;
        assert_eq!(payments.app.heard(), 0, "{kind:?}");
    }
}

#[tokio::test]
async fn a_foreign_server_that_does_not_believe_us_is_told_of_at_the_caller() {
    let orders = Orders::start().await;
    let papers = distrusting(&orders.mesh, &orders.ca, "payments").await;
    for kind in Kind::here() {
        println!("{kind:?}");
        let reached = orders.reach_holding(kind, &papers, |text| text).await;
        traffic::nothing_passes(reached.entry.tcp).await;
        let (sidecar, server) = (&reached.sidecar.program, &reached.server.program);
        match kind {
            // It tells nobody but its own log.
            Kind::Nginx => server.line_with(&["client SSL certificate verify error"]).await,
            Kind::Haproxy | Kind::Envoy => sidecar.line_with(&["refused", "unknown_ca"]).await,
            Kind::Go => sidecar.line_with(&["refused", "certificate_refused"]).await,
        };
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
