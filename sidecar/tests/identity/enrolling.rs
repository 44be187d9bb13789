//! The first certificate, and its renewals.

use std::collections::HashSet;
use std::sync::Arc;

use time::Duration;

use crate::authority::{Authority, id};
use crate::fake_ca::{Behaviour, FakeCa, issue};
use crate::workload::Home;

async fn ca(life: Duration, home: &Home) -> FakeCa {
    let authority = Arc::new(Authority::new());
    FakeCa::start_with(authority.clone(), issue(&authority, life, home.clock())).await
}

#[tokio::test]
async fn a_join_token_brings_the_identity_it_names() {
    let home = Home::new();
    let ca = ca(Duration::hours(1), &home).await;
    home.put_token(&ca.token(&id("orders"), 1));
    let mut workload = home.start(&ca);
    let credentials = workload.until_enrolled().await;
    assert_eq!(*credentials.svid.id(), id("orders"));
    assert_eq!(*credentials.bundles, ca.authority.bundles());
    let status = workload.until(|status| status.next_attempt.is_some_and(|at| at > home_now(&home))).await;
    assert_eq!((status.generation, status.rotations, status.last_error), (1, 0, None));
    let next = status.next_attempt.unwrap() - home_now(&home);
    assert!(next > Duration::minutes(26) && next < Duration::minutes(34), "{next}");
    workload.stop().await;
}

fn home_now(home: &Home) -> time::OffsetDateTime {
    home.clock().now()
}

#[tokio::test]
async fn each_renewal_has_a_new_key_and_comes_at_half_life() {
    let home = Home::new();
    let ca = ca(Duration::seconds(3), &home).await;
    home.put_token(&ca.token(&id("orders"), 1));
    let started = std::time::Instant::now();
    let mut workload = home.start(&ca);
    workload.until(|status| status.rotations == 3).await;
    let elapsed = started.elapsed().as_secs_f64();
    assert!((3.0..9.0).contains(&elapsed), "three halves of up to three seconds took {elapsed} s");
    let asked = ca.asked();
    let keys: HashSet<_> = asked.iter().map(|asked| asked.public_key()).collect();
    assert_eq!(keys.len(), asked.len());
    assert_eq!(asked.iter().filter(|asked| asked.token.is_some()).count(), 1, "one enrolment, then renewals");
    assert_eq!(workload.status().failures, 0);
}

#[tokio::test]
async fn a_signing_request_names_nobody() {
    use x509_parser::prelude::{FromDer as _, X509CertificationRequest};
    let home = Home::new();
    let ca = ca(Duration::hours(1), &home).await;
    home.put_token(&ca.token(&id("orders"), 1));
    home.start(&ca).until_enrolled().await;
    let csr = &ca.asked()[0].csr;
    let (_, request) = X509CertificationRequest::from_der(csr).unwrap();
    assert_eq!(request.certification_request_info.subject.iter().count(), 0);
    assert!(request.requested_extensions().is_none_or(|mut extensions| extensions.next().is_none()));
}

#[tokio::test]
async fn a_token_is_waited_for_and_read_anew_at_each_attempt() {
    let home = Home::new();
    let ca = ca(Duration::hours(1), &home).await;
    let mut workload = home.start(&ca);
    let error = workload.until_error().await;
    assert_eq!(error.code, "join_token");
    assert!(error.reason.contains("cannot be read"), "{error:?}");
    home.put_token(&ca.token(&id("orders"), 1));
    workload.until_enrolled().await;
    assert_eq!(workload.status().last_error, None);
}

#[tokio::test]
async fn a_token_of_another_ca_is_not_shown_to_this_one() {
    let home = Home::new();
    let ca = ca(Duration::hours(1), &home).await;
    let other = FakeCa::start(Behaviour::Away).await;
    home.put_token(&other.token(&id("orders"), 1));
    let mut workload = home.start(&ca);
    let error = workload.until_error().await;
    assert_eq!(error.code, "ca_distrusted");
    assert!(error.reason.contains("pin") && error.reason.contains(&ca.authority.pin().to_hex()), "{error:?}");
    assert!(ca.asked().is_empty());
}

#[tokio::test]
async fn told_to_end_the_task_ends_also_during_an_attempt() {
    let home = Home::new();
    let ca = FakeCa::start(Behaviour::HangInHandshake).await;
    home.put_token(&ca.token(&id("orders"), 1));
    home.start(&ca).stop().await;
}
