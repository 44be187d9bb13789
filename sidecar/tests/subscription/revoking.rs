//! A revoked identity is refused and cut at once, whoever holds it; restored, it is as before.

use std::time::{Duration, Instant};

use postern_sidecar::control::subscription::SubscriptionState;
use tonic::Status;

use crate::apps::{echoed, expect_reset};
use crate::authority::id;
use crate::shop::{Listening, Shop, echoing, is_served};
use crate::sidecar::{POLICY, eventually};

const ORDERS: &str = "spiffe://shop.example/orders";
const PAYMENTS: &str = "spiffe://shop.example/payments";

/// Both may call.
const BOTH: &str = "trust_domain = \"shop.example\"\n[service.payments]\n[[service.payments.allow]]\n\
    from = [\"orders\", \"reports\"]\n[service.orders]\n[service.reports]\n";

async fn open(policy: &str) -> (Shop, Listening) {
    let shop = Shop::new().await;
    let payments = shop.payments().await;
    shop.ca.subscriptions().apply(1, policy);
    shop.ca.subscriptions().acknowledged(1).await;
    (shop, payments)
}

#[tokio::test]
async fn a_revoked_peer_is_cut_at_once_and_refused_until_it_is_restored() {
    let (shop, payments) = open(BOTH).await;
    let (orders, reports) = (shop.caller("orders", &payments), shop.caller("reports", &payments));
    let (mut revoked, mut other) = (echoing(&orders).await, echoing(&reports).await);
    let since = Instant::now();
    shop.ca.subscriptions().revoke(&["no ID", ORDERS]);
    expect_reset(&mut revoked).await;
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    echoed(&mut other).await.unwrap();
    assert!(!is_served(&orders).await);
    let told = payments.sidecar.refusal("revoked").await;
    assert_eq!(told["from"], ORDERS);
    orders.refusal("certificate_revoked").await;
    shop.ca.subscriptions().revoke(&[]);
    eventually("it is restored", || {
        (!payments.sidecar.proxy.control.revoked.contains(&id("orders"))).then_some(())
    })
    .await;
    echoing(&orders).await;
    echoed(&mut other).await.unwrap();
    payments.stop().await;
}

#[tokio::test]
async fn a_revoked_service_is_not_called_any_more() {
    let (shop, payments) = open(POLICY).await;
    let orders = shop.caller("orders", &payments);
    let mut stream = echoing(&orders).await;
    orders.proxy.control.revoked.replace([id("payments")].into());
    expect_reset(&mut stream).await;
    assert!(!is_served(&orders).await);
    orders.refusal("revoked").await;
    payments.stop().await;
}

#[tokio::test]
async fn a_sidecar_whose_own_identity_is_revoked_serves_nobody() {
    let (shop, payments) = open(POLICY).await;
    let orders = shop.caller("orders", &payments);
    let mut stream = echoing(&orders).await;
    shop.ca.subscriptions().revoke(&[PAYMENTS]);
    expect_reset(&mut stream).await;
    assert!(!is_served(&orders).await);
    payments.sidecar.refusal("own_identity_revoked").await;
    orders.refusal("peer_failed").await;
    let denial = payments.sidecar.proxy.control.valid_credentials().unwrap_err();
    assert_eq!(denial.code, "own_identity_revoked", "so it is not ready either");
    shop.ca.subscriptions().revoke(&[]);
    eventually("it is restored", || payments.sidecar.proxy.control.valid_credentials().ok()).await;
    echoing(&orders).await;
    payments.stop().await;
}

#[tokio::test]
async fn a_sidecar_that_the_ca_refuses_to_talk_to_knows_that_it_is_revoked() {
    let (shop, payments) = open(POLICY).await;
    let orders = shop.caller("orders", &payments);
    let mut stream = echoing(&orders).await;
    shop.ca.subscriptions().refuse(Some(Status::permission_denied("revoked: stolen laptop")));
    expect_reset(&mut stream).await;
    assert!(!is_served(&orders).await);
    let status = payments.until(|status| status.state == SubscriptionState::Disconnected).await;
    assert!(status.last_error.unwrap().reason.contains("stolen laptop"));
    shop.ca.subscriptions().refuse(None);
    eventually("it is restored", || payments.sidecar.proxy.control.valid_credentials().ok()).await;
    echoing(&orders).await;
    payments.stop().await;
}
