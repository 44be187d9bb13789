//! The CA away, past half and past all of a certificate's life, and a clock that jumps: recovered without a restart.

use std::sync::Arc;

use postern_sidecar::clock::SystemClock;
use time::Duration;
use tonic::Status;

use crate::authority::{Authority, id};
use crate::fake_ca::{Behaviour, FakeCa, issue};
use crate::workload::{Home, Workload};

const GRACE: std::time::Duration = std::time::Duration::from_secs(3 * 86_400);

async fn enrolled(home: &Home, life: Duration) -> (FakeCa, Workload) {
    let authority = Arc::new(Authority::new());
    let ca = FakeCa::start_with(authority.clone(), issue(&authority, life, home.clock())).await;
    home.put_token(&ca.token(&id("orders"), 1));
    let mut workload = home.start(&ca);
    workload.until_enrolled().await;
    (ca, workload)
}

#[tokio::test]
async fn past_half_of_the_life_the_certificate_is_kept_and_then_renewed() {
    let home = Home::new();
    let (ca, mut workload) = enrolled(&home, Duration::seconds(8)).await;
    ca.behave(Behaviour::Away);
    let status = workload.until(|status| status.failures >= 2).await;
    assert!(status.not_after.unwrap() > home.clock().now(), "still valid");
    assert_eq!(status.generation, 1);
    ca.behave(ca.issue_for(Duration::seconds(8), home.clock()));
    let status = workload.until(|status| status.rotations == 1).await;
    assert_eq!(status.last_error, None);
}

#[tokio::test]
async fn past_all_of_the_life_it_renews_with_the_expired_certificate() {
    let home = Home::new();
    let (ca, mut workload) = enrolled(&home, Duration::seconds(2)).await;
    ca.behave(Behaviour::Away);
    let clock = home.clock();
    workload
        .until(|status| {
            status.last_error.as_ref().is_some_and(|e| e.at > status.not_after.unwrap() + Duration::SECOND)
        })
        .await;
    assert!(workload.store.current().unwrap().svid.verified().not_after() < clock.now());
    ca.renew_expired_for(GRACE);
    ca.behave(ca.issue_for(Duration::hours(1), clock));
    workload.until(|status| status.rotations == 1).await;
    assert_eq!(ca.asked().iter().filter(|asked| asked.token.is_some()).count(), 1);
}

#[tokio::test]
async fn past_the_grace_only_a_fresh_token_helps_and_the_used_one_is_not_shown_again() {
    let home = Home::new();
    let (ca, mut workload) = enrolled(&home, Duration::seconds(2)).await;
    ca.behave(Behaviour::Away);
    workload
        .until(|status| {
            status.last_error.as_ref().is_some_and(|e| e.at > status.not_after.unwrap() + Duration::SECOND)
        })
        .await;
    ca.behave(ca.issue_for(Duration::hours(1), home.clock()));
    let refused = |status: &postern_sidecar::identity::IdentityStatus| {
        status.last_error.as_ref().is_some_and(|error| error.reason.contains("used already"))
    };
    let error = workload.until(refused).await.last_error.unwrap();
    assert_eq!(error.code, "ca_refused", "{}", error.reason);
    home.put_token(&ca.token(&id("orders"), 2));
    workload.until(|status| status.rotations == 1 && status.last_error.is_none()).await;
    let enrolments: Vec<_> = ca.asked().into_iter().filter_map(|asked| asked.token).collect();
    assert_eq!(enrolments, [ca.token(&id("orders"), 1), ca.token(&id("orders"), 2)]);
}

#[tokio::test]
async fn a_renewal_refused_as_permission_denied_takes_a_fresh_token_of_the_same_identity_only() {
    let home = Home::new();
    let (ca, mut workload) = enrolled(&home, Duration::seconds(4)).await;
    let good = ca.issue_for(Duration::seconds(4), home.clock());
    let Behaviour::Answer(good) = good else { unreachable!() };
    ca.behave(Behaviour::Answer(Arc::new(move |asked| match &asked.token {
        Some(_) => good(asked),
        None => Err(Status::permission_denied("revoked")),
    })));
    home.put_token(&ca.token(&id("payments"), 2));
    let error = workload.until_error().await;
    assert!(error.reason.contains("revoked") && error.reason.contains("/payments"), "{error:?}");
    home.put_token(&ca.token(&id("orders"), 3));
    let status = workload.until(|status| status.rotations == 1).await;
    assert_eq!(status.id, Some(id("orders")));
}

#[tokio::test]
async fn a_ca_that_lost_its_root_is_believed_again_by_a_fresh_token() {
    let home = Home::new();
    let (ca, mut workload) = enrolled(&home, Duration::seconds(4)).await;
    let rebuilt = Arc::new(Authority::new());
    let new = FakeCa::start_with(rebuilt.clone(), issue(&rebuilt, Duration::seconds(4), home.clock())).await;
    workload.stop().await;
    home.put_token(&ca.token(&id("orders"), 1));
    workload = home.start(&new);
    let error = workload.until_error().await;
    assert_eq!(error.code, "ca_distrusted");
    home.put_token(&new.token(&id("orders"), 2));
    workload.until(|status| status.rotations == 1).await;
    assert_eq!(*workload.store.current().unwrap().bundles, rebuilt.bundles());
}

#[tokio::test]
async fn a_day_that_passes_in_sleep_ends_with_a_fresh_certificate() {
    let home = Home::new();
    let (ca, mut workload) = enrolled(&home, Duration::seconds(60)).await;
    ca.renew_expired_for(GRACE);
    home.clock.set_wrong_by(Duration::days(1));
    let forth = workload.until(|status| status.rotations == 1).await;
    assert!(forth.not_after.unwrap() > home.clock().now());
}

#[tokio::test]
async fn a_clock_a_day_ahead_of_the_ca_replaces_nothing_and_is_no_matter_once_it_is_right_again() {
    let home = Home::new();
    let (ca, mut workload) = enrolled(&home, Duration::seconds(60)).await;
    ca.behave(ca.issue_for(Duration::seconds(60), Arc::new(SystemClock)));
    home.clock.set_wrong_by(Duration::days(1));
    let error = workload.until_error().await;
    assert!(error.code == "bad_answer" && error.reason.contains("expired"), "{error:?}");
    assert_eq!(workload.status().generation, 1);
    home.clock.set_wrong_by(Duration::ZERO);
    workload.until(|status| status.rotations == 1 && status.last_error.is_none()).await;
}

#[tokio::test]
async fn a_clock_a_day_behind_renews_at_once_and_never_waits_for_the_day() {
    let home = Home::new();
    let (ca, mut workload) = enrolled(&home, Duration::seconds(60)).await;
    ca.renew_expired_for(GRACE);
    home.clock.set_wrong_by(-Duration::days(1));
    let back = workload.until(|status| status.rotations == 1).await;
    assert!(back.not_after.unwrap() < home.clock().now() + Duration::minutes(2));
}

#[tokio::test]
async fn a_clock_set_back_during_an_outage_does_not_put_off_the_next_attempt() {
    let home = Home::new();
    let (ca, mut workload) = enrolled(&home, Duration::seconds(4)).await;
    ca.behave(Behaviour::Away);
    workload.until_error().await;
    home.clock.set_wrong_by(-Duration::days(1));
    let seen = ca.asked().len();
    ca.renew_expired_for(GRACE);
    ca.behave(ca.issue_for(Duration::hours(1), home.clock()));
    workload.until(|status| status.rotations == 1).await;
    assert!(ca.asked().len() > seen);
}
