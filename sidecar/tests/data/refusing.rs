//! A refusal is a reset for the app, and both sides can say who was refused, by whom and why.

use postern_sidecar::observability::Direction;
use tokio::net::TcpStream;

use crate::apps::{App, echoed, expect_refused};
use crate::authority::{Authority, id};
use crate::sidecar::{Sidecar, Spec};

async fn served(sidecar: &Sidecar) {
    echoed(&mut TcpStream::connect(sidecar.outbound.unwrap()).await.unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_caller_that_no_rule_names_is_told_who_it_called_why_not_and_what_to_type() {
    let (authority, app) = (Authority::new(), App::echo().await);
    let payments = Spec::new(&authority, "payments").app(app.address).start(&authority);
    let address = payments.inbound.unwrap();
    let reports = Spec::new(&authority, "reports").to(&[address]).start(&authority);
    expect_refused(reports.outbound.unwrap()).await;

    let told = payments.refusal("denied").await;
    assert_eq!(told["direction"], "inbound");
    assert_eq!(told["from"], "spiffe://shop.example/reports");
    assert_eq!(told["to"], "spiffe://shop.example/payments");
    assert_eq!((&told["service"], &told["port"]), (&"payments".into(), &"api".into()));
    assert!(told["detail"].as_str().unwrap().contains("policy.toml:6"), "the nearest rule: {told}");

    let told = reports.refusal("access_denied").await;
    assert_eq!(told["direction"], "outbound");
    assert_eq!(told["from"], "spiffe://shop.example/reports");
    assert_eq!(told["to"], "spiffe://shop.example/payments");
    assert_eq!((&told["service"], &told["address"]), (&"payments".into(), &address.to_string().into()));
    assert_eq!(
        told["explain"],
        "postern-ca policy explain policy.toml --from spiffe://shop.example/reports --to payments --port api"
    );
    let detail = told["detail"].as_str().unwrap();
    assert!(
        detail.contains("policy.toml:6") && detail.contains("sha256:"),
        "its own policy agrees: {detail}"
    );
    let text = reports.proxy.control.metrics.text().unwrap();
    let sample = "postern_refusals_total{direction=\"outbound\",peer=\"spiffe://shop.example/reports\",\
                  service=\"payments\",reason=\"access_denied\"} 1";
    assert!(text.contains(sample), "{text}");
}

#[tokio::test]
async fn a_hundred_refused_callers_all_learn_that_it_was_the_policy() {
    let (authority, app) = (Authority::new(), App::echo().await);
    let payments = Spec::new(&authority, "payments").app(app.address).start(&authority);
    let reports = Spec::new(&authority, "reports").to(&[payments.inbound.unwrap()]).start(&authority);
    for _ in 0..100 {
        expect_refused(reports.outbound.unwrap()).await;
    }
    assert_eq!(payments.refusal("denied").await["count"], 100);
    assert_eq!(reports.refusal("access_denied").await["count"], 100);
}

#[tokio::test]
async fn without_a_policy_everybody_is_refused() {
    let (authority, app) = (Authority::new(), App::echo().await);
    let mut spec = Spec::new(&authority, "payments").app(app.address);
    spec.policy = None;
    let payments = spec.start(&authority);
    let orders = Spec::new(&authority, "orders").to(&[payments.inbound.unwrap()]).start(&authority);
    expect_refused(orders.outbound.unwrap()).await;
    payments.refusal("no_policy").await;
    orders.refusal("access_denied").await;
}

#[tokio::test]
async fn a_valid_certificate_of_another_service_is_not_the_service_that_was_called() {
    let (authority, app) = (Authority::new(), App::echo().await);
    let reports = Spec::new(&authority, "reports").app(app.address).start(&authority);
    let orders = Spec::new(&authority, "orders").to(&[reports.inbound.unwrap()]).start(&authority);
    expect_refused(orders.outbound.unwrap()).await;
    let told = orders.refusal("wrong_identity").await;
    let detail = told["detail"].as_str().unwrap();
    assert!(detail.contains("spiffe://shop.example/reports"), "{detail}");
    assert_eq!(told["address"], reports.inbound.unwrap().to_string());
    let told = reports.refusal("peer_alert").await;
    assert!(told["detail"].as_str().unwrap().contains("AccessDenied"), "the other side learns it: {told}");
}

#[tokio::test]
async fn the_next_address_is_tried_when_the_first_is_dead_or_is_someone_else() {
    let (authority, app) = (Authority::new(), App::echo().await);
    let payments = Spec::new(&authority, "payments").app(app.address).start(&authority);
    let reports = Spec::new(&authority, "reports").app(app.address).start(&authority);
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let to = [dead, reports.inbound.unwrap(), payments.inbound.unwrap()];
    let orders = Spec::new(&authority, "orders").to(&to).start(&authority);
    let is_told = || orders.proxy.refusals.newest().to_string().contains("wrong_identity");
    while !is_told() {
        served(&orders).await;
    }
}

#[tokio::test]
async fn an_exact_id_is_demanded_without_the_policy() {
    let (authority, app) = (Authority::new(), App::echo().await);
    let payments = Spec::new(&authority, "payments").app(app.address).start(&authority);
    let mut spec = Spec::new(&authority, "orders").to(&[payments.inbound.unwrap()]).expecting(id("payments"));
    spec.policy = None;
    let orders = spec.start(&authority);
    served(&orders).await;
}

#[tokio::test]
async fn without_an_identity_nobody_is_served_or_called_and_both_sides_say_so() {
    let (authority, app) = (Authority::new(), App::echo().await);
    let mut spec = Spec::new(&authority, "payments").app(app.address);
    let identity = spec.svid.take();
    let payments = spec.start(&authority);
    let orders = Spec::new(&authority, "orders").to(&[payments.inbound.unwrap()]).start(&authority);
    expect_refused(orders.outbound.unwrap()).await;
    payments.refusal("no_identity").await;
    let told = orders.refusal("peer_failed").await;
    assert!(told["detail"].as_str().unwrap().contains("InternalError"), "{told}");

    payments.proxy.control.credentials.replace(identity.unwrap(), authority.bundles().into()).unwrap();
    served(&orders).await;
}

#[tokio::test]
async fn an_app_that_is_down_is_a_reset_for_the_caller_and_told_where_it_is_down() {
    let authority = Authority::new();
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let payments = Spec::new(&authority, "payments").app(dead).start(&authority);
    let orders = Spec::new(&authority, "orders").to(&[payments.inbound.unwrap()]).start(&authority);
    expect_refused(orders.outbound.unwrap()).await;
    let told = payments.refusal("app_unreachable").await;
    assert_eq!(told["from"], "spiffe://shop.example/orders");
}

#[tokio::test]
async fn a_service_that_cannot_be_reached_is_named_with_its_address() {
    let authority = Authority::new();
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let orders = Spec::new(&authority, "orders").to(&[dead]).start(&authority);
    expect_refused(orders.outbound.unwrap()).await;
    let told = orders.refusal("unreachable").await;
    assert!(told["detail"].as_str().unwrap().contains(&dead.to_string()), "{told}");
    assert_eq!(told["direction"], serde_json::to_value(Direction::Outbound).unwrap());
}
