//! A request keeps its key until it is answered: only so can a CA whose answer was lost answer it again.

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use time::Duration;

use crate::authority::id;
use crate::fake_ca::{Behaviour, FakeCa};
use crate::workload::Home;

const LIFE: Duration = Duration::seconds(4);
const GRACE: std::time::Duration = std::time::Duration::from_secs(3 * 86_400);

fn kept_key(home: &Home) -> PathBuf {
    home.state().join("unanswered.json")
}

/// The keys of all requests from the `from`th on.
fn keys(ca: &FakeCa, from: usize) -> HashSet<Vec<u8>> {
    ca.asked().iter().skip(from).map(|asked| asked.public_key()).collect()
}

#[tokio::test]
async fn an_enrolment_keeps_its_key_over_failures_and_restarts_until_it_is_answered() {
    let home = Home::new();
    let ca = FakeCa::start(Behaviour::HangInRequest).await;
    home.put_token(&ca.token(&id("orders"), 1));
    for _ in 0..2 {
        let mut workload = home.start(&ca);
        workload.until(|status| status.failures >= 2).await;
        workload.stop().await;
    }
    assert_eq!(std::fs::metadata(kept_key(&home)).unwrap().permissions().mode() & 0o7777, 0o600);
    ca.behave(ca.issue_for(LIFE, home.clock()));
    let mut workload = home.start(&ca);
    workload.until_enrolled().await;
    let asked = ca.asked().len();
    assert!(asked >= 5, "{asked}");
    assert_eq!(keys(&ca, 0).len(), 1);

    workload.until(|status| status.rotations == 2).await;
    workload.stop().await;
    assert_eq!(keys(&ca, asked - 1).len(), 3, "each answered request had a key of its own");
    assert!(!kept_key(&home).exists());
}

#[tokio::test]
async fn a_renewal_keeps_its_key_over_expiry_and_a_restart_until_it_is_answered() {
    let home = Home::new();
    let ca = FakeCa::start(Behaviour::Away).await;
    ca.behave(ca.issue_for(LIFE, home.clock()));
    ca.renew_expired_for(GRACE);
    home.put_token(&ca.token(&id("orders"), 1));
    let mut workload = home.start(&ca);
    workload.until_enrolled().await;
    ca.behave(Behaviour::HangInRequest);
    workload.until(|status| status.failures >= 1).await;
    let expired = |status: &postern_sidecar::identity::IdentityStatus| {
        status.last_error.as_ref().is_some_and(|e| e.at > status.not_after.unwrap() + Duration::SECOND)
    };
    workload.until(expired).await;
    workload.stop().await;
    let mut workload = home.start(&ca);
    workload.until(|status| status.failures >= 1).await;
    ca.behave(ca.issue_for(LIFE, home.clock()));
    workload.until(|status| status.rotations == 1).await;
    assert_eq!(keys(&ca, 1).len(), 1, "one key for all that was not answered");
    assert_eq!(keys(&ca, 0).len(), 2);
}

#[tokio::test]
async fn a_kept_key_that_is_unusable_or_of_another_identity_is_replaced() {
    let damages: [fn(String) -> String; 4] = [
        |text| text[..text.len() / 2].to_owned(),
        |text| text.replace("\"key\":\"", "\"key\":\"AAAA"),
        |text| text.replace("\"version\":1", "\"version\":2"),
        |text| text.replace("/orders", "/payments"),
    ];
    for damage in damages {
        let home = Home::new();
        let ca = FakeCa::start(Behaviour::HangInRequest).await;
        home.put_token(&ca.token(&id("orders"), 1));
        let mut workload = home.start(&ca);
        workload.until(|status| status.failures >= 1).await;
        workload.stop().await;
        let text = std::fs::read_to_string(kept_key(&home)).unwrap();
        let damaged = damage(text.clone());
        assert_ne!(damaged, text);
        std::fs::write(kept_key(&home), damaged).unwrap();
        ca.behave(ca.issue_for(Duration::hours(1), home.clock()));
        let mut workload = home.start(&ca);
        workload.until_enrolled().await;
        workload.stop().await;
        assert_eq!(keys(&ca, 0).len(), 2);
    }
}

#[tokio::test]
async fn the_key_of_the_identity_at_hand_is_not_asked_for_again() {
    let home = Home::new();
    let ca = FakeCa::start(Behaviour::HangInRequest).await;
    home.put_token(&ca.token(&id("orders"), 1));
    let mut workload = home.start(&ca);
    workload.until(|status| status.failures >= 1).await;
    workload.stop().await;
    let unanswered = std::fs::read(kept_key(&home)).unwrap();
    ca.behave(ca.issue_for(LIFE, home.clock()));
    let mut workload = home.start(&ca);
    workload.until_enrolled().await;
    workload.stop().await;
    // Killed after the answer was kept, and before the key of the request was removed.
    std::fs::write(kept_key(&home), unanswered).unwrap();
    let asked = ca.asked().len();
    let mut workload = home.start(&ca);
    workload.until(|status| status.rotations == 1).await;
    assert_eq!(keys(&ca, asked - 1).len(), 2);
}
