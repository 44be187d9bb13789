//! A rule that ends takes its live connections with it, and those of no other rule.

use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_sidecar::proxy::state::EXPIRY_LOOK_INTERVAL;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::apps::{echoed, expect_reset};
use crate::clock::SetClock;
use crate::shop::{Shop, echoing, is_served};

fn policy(expires: &str) -> String {
    format!(
        "trust_domain = \"shop.example\"\n[service.payments]\n[[service.payments.allow]]\nfrom = [\"orders\"]\n\
         [[service.payments.allow]]\nfrom = [\"reports\"]\nexpires = {expires}\n[service.orders]\n[service.reports]\n"
    )
}

#[tokio::test]
async fn an_expired_rule_cuts_its_connections_at_its_end() {
    let shop = Shop::new().await;
    let payments = shop.payments().await;
    let (orders, reports) = (shop.caller("orders", &payments), shop.caller("reports", &payments));
    let end = OffsetDateTime::now_utc() + Duration::from_millis(1_500);
    shop.ca.subscriptions().apply(1, &policy(&end.format(&Rfc3339).unwrap()));
    shop.ca.subscriptions().acknowledged(1).await;
    let (mut stays, mut ends) = (echoing(&orders).await, echoing(&reports).await);
    expect_reset(&mut ends).await;
    let late = OffsetDateTime::now_utc() - end;
    assert!(late >= time::Duration::ZERO && late < time::Duration::milliseconds(500), "{late}");
    echoed(&mut stays).await.unwrap();
    assert!(!is_served(&reports).await);
    payments.stop().await;
}

#[tokio::test]
async fn a_clock_that_jumps_over_the_end_of_a_rule_cuts_its_connections_within_a_look() {
    let shop = Shop::new().await;
    let clock = Arc::<SetClock>::default();
    let mut spec = shop.spec();
    spec.clock = clock.clone();
    let payments = shop.listening(spec).await;
    let (orders, reports) = (shop.caller("orders", &payments), shop.caller("reports", &payments));
    let end = OffsetDateTime::now_utc() + Duration::from_secs(600);
    shop.ca.subscriptions().apply(1, &policy(&end.format(&Rfc3339).unwrap()));
    shop.ca.subscriptions().acknowledged(1).await;
    let (mut stays, mut ends) = (echoing(&orders).await, echoing(&reports).await);
    let jumped = Instant::now();
    clock.set_wrong_by(time::Duration::seconds(900));
    expect_reset(&mut ends).await;
    assert!(jumped.elapsed() < EXPIRY_LOOK_INTERVAL + Duration::from_millis(500), "{:?}", jumped.elapsed());
    echoed(&mut stays).await.unwrap();

    clock.set_wrong_by(time::Duration::ZERO);
    // Nothing tells of a clock that is set back but the next look at it.
    tokio::time::sleep(EXPIRY_LOOK_INTERVAL * 3 / 2).await;
    let mut again = echoing(&reports).await;
    clock.set_wrong_by(time::Duration::seconds(900));
    expect_reset(&mut again).await;
    payments.stop().await;
}
