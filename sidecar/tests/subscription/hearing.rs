//! Policy from the CA: what acts, what is acknowledged, what is refused.

use std::time::{Duration, Instant};

use postern_proto::wire::v1::sidecar_update::Update;
use postern_proto::wire::v1::{PolicySlice, SliceService};
use postern_sidecar::config::IdentitySource;
use postern_sidecar::control::policy_store::PolicySource;
use postern_sidecar::control::subscription::SubscriptionState;
use time::OffsetDateTime;

use crate::apps::{App, echoed, expect_reset};
use crate::authority::{Validity, id};
use crate::shop::{NOBODY, Shop, echoing, is_served, text_of};
use crate::sidecar::{POLICY, Spec};

#[tokio::test]
async fn a_policy_acts_at_once_and_is_acknowledged() {
    let shop = Shop::new().await;
    let payments = shop.payments().await;
    let (orders, reports) = (shop.caller("orders", &payments), shop.caller("reports", &payments));
    payments.until(|status| status.state == SubscriptionState::Connected).await;
    assert!(!is_served(&orders).await, "without a policy nobody is let in");
    payments.sidecar.refusal("no_policy").await;

    shop.ca.subscriptions().apply(1, POLICY);
    let told = shop.ca.subscriptions().acknowledged(1).await;
    assert_eq!((told.refused.as_str(), told.unenforceable.len()), ("", 0));
    let mut stream = echoing(&orders).await;
    assert!(!is_served(&reports).await);

    let withdrawn = Instant::now();
    shop.ca.subscriptions().apply(2, NOBODY);
    expect_reset(&mut stream).await;
    assert!(withdrawn.elapsed() < Duration::from_secs(1), "{:?}", withdrawn.elapsed());
    shop.ca.subscriptions().acknowledged(2).await;
    payments.stop().await;
}

#[tokio::test]
async fn the_status_says_where_the_policy_comes_from_and_refusals_how_to_ask_the_ca() {
    let shop = Shop::new().await;
    let payments = shop.payments().await;
    let reports = shop.caller("reports", &payments);
    shop.ca.subscriptions().apply(7, POLICY);
    shop.ca.subscriptions().acknowledged(7).await;
    let status = payments.sidecar.proxy.control.policy.status();
    assert_eq!(
        (status.source, status.version, status.file.as_deref()),
        (PolicySource::Ca, Some(7), Some("shop.toml"))
    );
    assert!(status.digest.is_some() && status.loaded_at.is_some() && status.last_error.is_none());
    assert!(!is_served(&reports).await);
    let told = payments.sidecar.refusal("denied").await;
    assert!(told["detail"].as_str().unwrap().contains("shop.toml:6"), "{told}");
    let explain = "postern-ca policy explain --live --from spiffe://shop.example/reports \
                   --to spiffe://shop.example/payments --port api";
    assert_eq!(told["explain"], explain);
    let text = text_of(&payments.sidecar.proxy);
    for sample in ["postern_policy_version 7", "postern_subscription_connected 1", "result=\"ok\"} 1"] {
        assert!(text.contains(sample), "{sample} in {text}");
    }
    payments.stop().await;
}

#[tokio::test]
async fn a_caller_learns_the_identities_of_the_services_it_calls_and_no_rules_of_theirs() {
    let shop = Shop::new().await;
    let payments = shop.payments().await;
    let mut spec = Spec::new(&shop.ca.authority, "reports").to(&[payments.sidecar.inbound.unwrap()]);
    spec.policy = None;
    spec.identity = IdentitySource::Ca { ca: shop.ca.host_port(), join_token: None, state_dir: None };
    let reports = shop.listening(spec).await;
    shop.ca.subscriptions().apply(1, POLICY);
    for stream in [1, 2] {
        let (from, hello) = shop.ca.subscriptions().hello(stream).await;
        let calls = if *from.id() == id("reports") { vec!["payments".to_owned()] } else { vec![] };
        assert_eq!(hello.services, calls);
        assert_eq!(
            hello.inbounds.iter().any(|port| port.name == "api" && port.protocol == "tcp"),
            calls.is_empty()
        );
        assert_eq!((hello.instance.len(), hello.own_policy_digest.as_str()), (32, ""));
    }
    crate::sidecar::eventually("both have it", || {
        let has =
            |proxy: &postern_sidecar::proxy::state::ProxyState| proxy.control.policy.current().is_some();
        (has(&reports.sidecar.proxy) && has(&payments.sidecar.proxy)).then_some(())
    })
    .await;
    assert!(!is_served(&reports.sidecar).await);
    let told = reports.sidecar.refusal("access_denied").await;
    assert_eq!(told["to"], "spiffe://shop.example/payments");
    let explain = "postern-ca policy explain --live --from spiffe://shop.example/reports --to payments";
    assert_eq!(told["explain"], explain);
    let detail = told["detail"].as_str().unwrap();
    assert!(
        detail.contains("refused us: ") && detail.contains("no rule matches"),
        "the called side says it: {told}"
    );
    assert!(!detail.contains("by the policy here"), "which has no rules of others: {told}");
    reports.stop().await;
    payments.stop().await;
}

/// What no sidecar of `payments` takes.
fn bad_slices() -> [PolicySlice; 3] {
    let policy = postern_proto::policy::Policy::parse("p", POLICY).unwrap();
    let good = policy.slice_for(&id("payments"), &["payments"], 2);
    let unreadable = SliceService { mode: "sometimes".to_owned(), ..good.own.clone().unwrap() };
    let other_domain = PolicySlice { trust_domain: "other.example".to_owned(), own: None, ..good.clone() };
    [
        PolicySlice { own: Some(unreadable), version: 2, ..good },
        PolicySlice { version: 3, ..policy.slice_for(&id("orders"), &["orders"], 3) },
        PolicySlice { version: 4, ..other_domain },
    ]
}

#[tokio::test]
async fn a_policy_that_is_not_understood_or_is_anothers_is_refused_and_told_and_the_last_good_stays() {
    let shop = Shop::new().await;
    let payments = shop.payments().await;
    let orders = shop.caller("orders", &payments);
    shop.ca.subscriptions().apply(1, POLICY);
    shop.ca.subscriptions().acknowledged(1).await;
    for (slice, why) in bad_slices().into_iter().zip(["sometimes", "not for this identity", "other.example"])
    {
        let version = slice.version;
        shop.ca.subscriptions().say(Some(Update::Policy(slice)));
        let told = shop.ca.subscriptions().acknowledged(version).await;
        assert!(told.refused.contains(why), "{why} in {}", told.refused);
        let status = payments.sidecar.proxy.control.policy.status();
        assert_eq!(status.version, Some(1));
        assert!(status.last_error.unwrap().contains(why));
    }
    shop.ca.subscriptions().say(None);
    assert!(is_served(&orders).await, "the last good one");
    shop.ca.subscriptions().apply(5, POLICY);
    shop.ca.subscriptions().acknowledged(5).await;
    assert!(payments.sidecar.proxy.control.policy.status().last_error.is_none());
    assert!(text_of(&payments.sidecar.proxy).contains("result=\"error\"} 3"));
    payments.stop().await;
}

#[tokio::test]
async fn a_ca_that_stores_no_policy_any_more_leaves_nobody_allowed() {
    let shop = Shop::new().await;
    let payments = shop.payments().await;
    let orders = shop.caller("orders", &payments);
    shop.ca.subscriptions().apply(1, POLICY);
    shop.ca.subscriptions().acknowledged(1).await;
    let mut stream = echoing(&orders).await;
    shop.ca.subscriptions().say(Some(Update::Policy(PolicySlice::default())));
    expect_reset(&mut stream).await;
    let status = payments.sidecar.proxy.control.policy.status();
    assert_eq!((status.version, status.digest), (Some(0), None));
    payments.stop().await;
    let again = shop.payments().await;
    assert_eq!(again.sidecar.proxy.control.policy.status().version, Some(0), "over a restart, too");
    again.stop().await;
}

#[tokio::test]
async fn what_cannot_be_enforced_is_told_and_refused() {
    let shop = Shop::new().await;
    let payments = shop.payments().await;
    let orders = shop.caller("orders", &payments);
    shop.ca.subscriptions().apply(1, &POLICY.replace("tcp", "http"));
    let told = shop.ca.subscriptions().acknowledged(1).await;
    assert_eq!(told.refused, "");
    assert!(told.unenforceable[0].contains("inbound \"api\" is refused whole"), "{:?}", told.unenforceable);
    assert_eq!(payments.sidecar.proxy.control.unenforceable(), told.unenforceable);
    assert!(!is_served(&orders).await);
    payments.stop().await;
}

#[tokio::test]
async fn an_own_file_wins_but_revocations_still_come() {
    let shop = Shop::new().await;
    let mut spec = shop.spec();
    spec.policy_file = Some("policy.toml".into());
    spec.policy = Some(POLICY);
    let payments = shop.listening(spec).await;
    let orders = shop.caller("orders", &payments);
    let (_, hello) = shop.ca.subscriptions().hello(1).await;
    assert_eq!(hello.own_policy_digest, payments.sidecar.proxy.control.policy.current().unwrap().digest());
    shop.ca.subscriptions().apply(9, NOBODY);
    let unasked = postern_proto::policy::Policy::parse("p", NOBODY).unwrap();
    let slice = unasked.slice_for(&id("payments"), &[] as &[&str], 9);
    shop.ca.subscriptions().say(Some(Update::Policy(slice)));
    let mut stream = echoing(&orders).await;
    shop.ca.subscriptions().revoke(&["spiffe://shop.example/orders"]);
    expect_reset(&mut stream).await;
    assert_eq!(payments.sidecar.proxy.control.policy.status().version, None);
    payments.stop().await;
}

#[tokio::test]
async fn a_new_certificate_opens_the_next_stream_before_the_old_one_is_given_up() {
    let shop = Shop::new().await;
    let payments = shop.payments().await;
    let orders = shop.caller("orders", &payments);
    shop.ca.subscriptions().apply(1, POLICY);
    shop.ca.subscriptions().acknowledged(1).await;
    let mut stream = echoing(&orders).await;
    let connected = payments.sidecar.proxy.control.subscription.subscribe();
    let validity = Validity::of(time::Duration::hours(2), OffsetDateTime::now_utc());
    let svid = shop.ca.authority.svid(&id("payments"), validity);
    let bundles = std::sync::Arc::new(shop.ca.authority.bundles());
    payments.sidecar.proxy.control.credentials.replace(svid, bundles).unwrap();
    let (second, hello) = shop.ca.subscriptions().hello(2).await;
    let (first, before) = shop.ca.subscriptions().hello(1).await;
    assert!(second.not_after() > first.not_after(), "the new certificate vouches for it");
    assert_eq!(hello.instance, before.instance, "one run of the program is one instance");
    let status = payments.until(|status| status.opened == 2).await;
    assert_eq!((status.state, status.generation), (SubscriptionState::Connected, 2));
    assert!(connected.borrow().last_error.is_none());
    shop.ca.subscriptions().apply(2, POLICY);
    shop.ca.subscriptions().acknowledged(2).await;
    echoed(&mut stream).await.unwrap();
    payments.stop().await;
}

#[tokio::test]
async fn a_sidecar_without_a_ca_does_not_subscribe() {
    let (authority, app) = (crate::authority::Authority::new(), App::echo().await);
    let alone = Spec::new(&authority, "payments").app(app.address).start(&authority);
    assert!(postern_sidecar::control::subscription::Subscription::new(alone.proxy.control.clone()).is_none());
    assert_eq!(alone.proxy.control.subscription.borrow().state, SubscriptionState::Off);
}
