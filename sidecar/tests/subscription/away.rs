//! A CA that is away takes nothing with it: the last good policy stays, also over a restart.

use std::os::unix::fs::PermissionsExt as _;

use postern_sidecar::control::subscription::SubscriptionState;

use crate::apps::echoed;
use crate::authority::id;
use crate::shop::{NOBODY, Shop, echoing, is_served};
use crate::sidecar::POLICY;

#[tokio::test]
async fn the_last_good_policy_outlives_the_ca_and_the_next_one_comes_when_it_is_back() {
    let shop = Shop::new().await;
    let payments = shop.payments().await;
    let orders = shop.caller("orders", &payments);
    shop.ca.subscriptions().apply(1, POLICY);
    shop.ca.subscriptions().acknowledged(1).await;
    let mut stream = echoing(&orders).await;
    shop.away();
    let lost = payments.until(|status| status.state == SubscriptionState::Disconnected).await;
    assert!(lost.last_error.is_some() && lost.next_attempt.is_some());
    echoed(&mut stream).await.unwrap();
    assert!(is_served(&orders).await);
    let text = crate::shop::text_of(&payments.sidecar.proxy);
    assert!(text.contains("postern_subscription_connected 0"));
    payments
        .until(|status| status.last_error.as_ref().is_some_and(|error| error.code == "ca_unreachable"))
        .await;

    shop.back();
    shop.ca.subscriptions().apply(2, POLICY);
    let back = payments.until(|status| status.state == SubscriptionState::Connected).await;
    assert!(back.last_error.is_none() && back.opened == 2);
    shop.ca.subscriptions().acknowledged(2).await;
    echoed(&mut stream).await.unwrap();
    payments.stop().await;
}

#[tokio::test]
async fn policy_and_revocations_outlive_a_restart_without_a_ca() {
    let shop = Shop::new().await;
    let before = shop.payments().await;
    shop.ca.subscriptions().apply(3, POLICY);
    shop.ca.subscriptions().acknowledged(3).await;
    shop.ca.subscriptions().revoke(&["spiffe://shop.example/reports"]);
    let proxy = before.sidecar.proxy.clone();
    crate::sidecar::eventually("it is revoked", || {
        proxy.control.revoked.contains(&id("reports")).then_some(())
    })
    .await;
    before.stop().await;
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&shop.kept()), mode(shop.kept().parent().unwrap())), (0o600, 0o700));

    shop.away();
    let payments = shop.payments().await;
    assert!(payments.sidecar.proxy.control.revoked.contains(&id("reports")));
    assert_eq!(payments.sidecar.proxy.control.policy.status().version, Some(3));
    assert!(is_served(&shop.caller("orders", &payments)).await);
    payments.stop().await;
}

#[tokio::test]
async fn a_policy_that_came_again_is_not_put_in_force_again() {
    let shop = Shop::new().await;
    let before = shop.payments().await;
    shop.ca.subscriptions().apply(3, POLICY);
    shop.ca.subscriptions().acknowledged(3).await;
    before.stop().await;
    let payments = shop.payments().await;
    let loaded_at = payments.sidecar.proxy.control.policy.status().loaded_at;
    payments.until(|status| status.state == SubscriptionState::Connected).await;
    shop.ca
        .subscriptions()
        .until("a second acknowledgement", |heard| (heard.stream == 2).then_some(()))
        .await;
    assert_eq!(payments.sidecar.proxy.control.policy.status().loaded_at, loaded_at);
    payments.stop().await;
}

#[tokio::test]
async fn a_damaged_file_is_set_aside_and_lets_nobody_in() {
    for damage in [&b"{"[..], b"{\"version\":9}", &[0xff; 100], b""] {
        let shop = Shop::new().await;
        shop.away();
        std::fs::create_dir_all(shop.kept().parent().unwrap()).unwrap();
        std::fs::write(shop.kept(), damage).unwrap();
        let payments = shop.payments().await;
        assert!(!shop.kept().exists());
        assert_eq!(std::fs::read(shop.kept().with_extension("json.damaged")).unwrap(), damage);
        assert!(!is_served(&shop.caller("orders", &payments)).await);
        payments.stop().await;
    }
}

#[tokio::test]
async fn an_own_file_is_not_overruled_by_what_was_kept_from_the_ca() {
    let shop = Shop::new().await;
    let before = shop.payments().await;
    shop.ca.subscriptions().apply(1, POLICY);
    shop.ca.subscriptions().acknowledged(1).await;
    before.stop().await;
    let mut spec = shop.spec();
    spec.policy_file = Some("policy.toml".into());
    spec.policy = Some(NOBODY);
    let payments = shop.listening(spec).await;
    assert!(!is_served(&shop.caller("orders", &payments)).await);
    payments.stop().await;
}
