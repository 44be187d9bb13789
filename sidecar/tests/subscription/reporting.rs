//! Calls that no rule allows reach the CA, counted, also those of a time when it was away.

use std::collections::HashMap;

use postern_proto::wire::v1::CallReport;
use postern_proto::wire::v1::call_report::Outcome;
use postern_proto::wire::v1::sidecar_report::Report;
use postern_sidecar::control::call_counts::{CALLS_MAX, CALLS_OF_ONE_CALLER_MAX, UnallowedCall};
use postern_sidecar::control::subscription::SubscriptionState;
use time::OffsetDateTime;

use crate::authority::id;
use crate::fake_subscriptions::Subscriptions;
use crate::shop::{Shop, is_served};
use crate::sidecar::POLICY;

fn reported(told: &Subscriptions) -> (Vec<CallReport>, u64) {
    let reports = told.heard().into_iter().filter_map(|heard| match heard.report {
        Report::Calls(calls) => Some(calls),
        _ => None,
    });
    reports.fold((Vec::new(), 0), |(mut calls, lost), report| {
        calls.extend(report.calls);
        (calls, lost + report.lost)
    })
}

#[tokio::test]
async fn refused_and_observed_connections_are_counted_while_the_ca_is_away_and_told_when_it_is_back() {
    let shop = Shop::new().await;
    let payments = shop.payments().await;
    let reports = shop.caller("reports", &payments);
    shop.ca.subscriptions().apply(1, POLICY);
    shop.ca.subscriptions().acknowledged(1).await;
    shop.away();
    payments.until(|status| status.state == SubscriptionState::Disconnected).await;
    for _ in 0..3 {
        assert!(!is_served(&reports).await);
    }
    payments.sidecar.apply(&POLICY.replace("ports =", "mode = \"observe\"\nports ="));
    assert!(is_served(&reports).await);
    shop.back();
    shop.ca
        .subscriptions()
        .until("a report", |heard| matches!(heard.report, Report::Calls(_)).then_some(()))
        .await;
    payments.stop().await;
    let (calls, lost) = reported(shop.ca.subscriptions());
    let of: HashMap<_, _> = calls.iter().map(|call| (call.outcome(), call)).collect();
    let (refused, observed) = (of[&Outcome::Refused], of[&Outcome::Observed]);
    assert_eq!((calls.len(), refused.count, observed.count, lost), (2, 3, 1, 0));
    assert_eq!((refused.from.as_str(), refused.port.as_str()), ("spiffe://shop.example/reports", "api"));
    assert!(refused.gap.contains("shop.toml:6 does not name this caller"), "{}", refused.gap);
    assert!(refused.policy_digest.starts_with("sha256:") && refused.policy_digest != observed.policy_digest);
    assert!(refused.first <= refused.last && refused.first > 1_700_000_000);
    assert_eq!((refused.method.as_str(), refused.path.as_str()), ("", ""));
}

#[tokio::test]
async fn a_flood_is_told_in_bounded_reports_and_the_rest_as_a_number() {
    let shop = Shop::new().await;
    let payments = shop.payments().await;
    let counts = &payments.sidecar.proxy.control.call_counts;
    let asked = 30 * CALLS_OF_ONE_CALLER_MAX;
    for n in 0..asked {
        let from = id(&format!("caller-{}", n % 20));
        let path = format!("/{n}");
        let call = Some(("GET", path.as_str()));
        let (outcome, port, gap) = (Outcome::Refused, "api", "no rule matches");
        let seen = UnallowedCall { outcome, from: &from, port, call, gap, policy_digest: "sha256:0" };
        counts.record(seen, OffsetDateTime::now_utc());
    }
    payments.until(|status| status.state == SubscriptionState::Connected).await;
    // The subscription has run meanwhile: what it told made room.
    payments.stop().await;
    let (calls, lost) = reported(shop.ca.subscriptions());
    assert!(calls.len() <= asked && calls.len() >= CALLS_MAX, "{}", calls.len());
    assert_eq!(calls.len() + usize::try_from(lost).unwrap(), asked);
}
