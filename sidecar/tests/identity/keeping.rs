//! The state directory: an identity survives a restart while the CA is away.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use postern_sidecar::identity::state_dir::{StateDir, StateError};
use time::{Duration, OffsetDateTime};

use crate::authority::{Authority, Validity, id};
use crate::fake_ca::{Behaviour, FakeCa, issue};
use crate::workload::Home;

fn mode(path: &std::path::Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// A home whose state directory holds an identity of this life.
async fn kept(life: Duration) -> (Home, FakeCa) {
    let home = Home::new();
    let authority = Arc::new(Authority::new());
    let ca = FakeCa::start_with(authority.clone(), issue(&authority, life, home.clock())).await;
    home.put_token(&ca.token(&id("orders"), 1));
    let mut workload = home.start(&ca);
    workload.until_enrolled().await;
    workload.stop().await;
    ca.behave(Behaviour::Away);
    (home, ca)
}

#[tokio::test]
async fn key_chain_and_bundles_survive_a_restart_while_the_ca_is_away() {
    let (home, ca) = kept(Duration::hours(1)).await;
    assert_eq!((mode(&home.state()), mode(&home.state_file())), (0o700, 0o600));
    let mut workload = home.start(&ca);
    let credentials = workload.until_enrolled().await;
    assert_eq!(*credentials.svid.id(), id("orders"));
    assert_eq!(*credentials.bundles, ca.authority.bundles());
    assert_eq!(ca.asked().len(), 1, "nothing was asked but the first certificate");
}

#[tokio::test]
async fn what_a_join_token_bought_is_kept_before_anybody_builds_on_it() {
    let home = Home::new();
    let authority = Arc::new(Authority::new());
    let ca = FakeCa::start_with(authority.clone(), issue(&authority, Duration::hours(1), home.clock())).await;
    home.put_token(&ca.token(&id("orders"), 1));
    home.start(&ca).until_enrolled().await;
    assert!(home.state_file().exists(), "killed at this moment, it could not enrol again");
}

#[tokio::test]
async fn an_expired_one_is_kept_for_renewing() {
    let (home, ca) = kept(Duration::SECOND).await;
    home.clock.set_wrong_by(Duration::seconds(60));
    ca.renew_expired_for(std::time::Duration::from_secs(3600));
    ca.behave(ca.issue_for(Duration::hours(1), home.clock()));
    let mut workload = home.start(&ca);
    let status = workload.until(|status| status.rotations == 1).await;
    assert!(status.not_after.unwrap() > home.clock().now());
    assert_eq!(ca.asked().iter().filter(|asked| asked.token.is_some()).count(), 1, "no second enrolment");
}

#[tokio::test]
async fn a_damaged_one_is_set_aside_and_the_workload_enrols_anew() {
    let damages: [fn(String) -> String; 5] = [
        |text| text[..text.len() / 2].to_owned(),
        |_| String::new(),
        |text| text.replace("\"version\":1", "\"version\":2"),
        |text| text.replace("\"chain\":[\"MII", "\"chain\":[\"!!!"),
        |text| text.replace("\"chain\":[\"MII", "\"chain\":[\"MIJ"),
    ];
    for damage in damages {
        let (home, ca) = kept(Duration::hours(1)).await;
        let text = std::fs::read_to_string(home.state_file()).unwrap();
        let damaged = damage(text.clone());
        assert_ne!(damaged, text);
        std::fs::write(home.state_file(), &damaged).unwrap();
        ca.behave(ca.issue_for(Duration::hours(1), home.clock()));
        home.put_token(&ca.token(&id("orders"), 2));
        home.start(&ca).until_enrolled().await;
        let aside = std::fs::read_to_string(home.state().join("identity.json.damaged")).unwrap();
        assert_eq!(aside, damaged);
    }
}

#[tokio::test]
async fn a_key_of_another_certificate_is_set_aside() {
    let (home, ca) = kept(Duration::hours(1)).await;
    let (other, _) = kept(Duration::hours(1)).await;
    let key = |text: &str| text.split("\"key\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let text = std::fs::read_to_string(home.state_file()).unwrap();
    let others = std::fs::read_to_string(other.state_file()).unwrap();
    std::fs::write(home.state_file(), text.replace(&key(&text), &key(&others))).unwrap();
    let state = StateDir::new(home.state());
    let error = state.load(home.clock().now()).unwrap_err();
    assert!(matches!(error, StateError::Mismatched { .. }), "{error:?}");
    assert!(error.is_invalid_content());
    ca.behave(ca.issue_for(Duration::hours(1), home.clock()));
    home.put_token(&ca.token(&id("orders"), 2));
    home.start(&ca).until_enrolled().await;
}

#[tokio::test]
async fn a_state_directory_of_another_workload_is_not_taken_up() {
    let (home, ca) = kept(Duration::hours(1)).await;
    ca.behave(ca.issue_for(Duration::hours(1), home.clock()));
    home.put_token(&ca.token(&id("payments"), 2));
    let credentials = home.start(&ca).until_enrolled().await;
    assert_eq!(*credentials.svid.id(), id("payments"));
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_costs_the_restart_not_the_identity() {
    let home = Home::new();
    let authority = Arc::new(Authority::new());
    let ca = FakeCa::start_with(authority.clone(), issue(&authority, Duration::hours(1), home.clock())).await;
    std::fs::write(home.state(), "a file is in the way").unwrap();
    home.put_token(&ca.token(&id("orders"), 1));
    home.start(&ca).until_enrolled().await;
}

#[test]
fn others_lose_access_to_the_directory_and_a_shared_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let svid = authority.svid(&id("orders"), Validity::of(Duration::hours(1), OffsetDateTime::now_utc()));
    let state = |name: &str, bits: u32| {
        let path = dir.path().join(name);
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(bits)).unwrap();
        path
    };
    let open = state("open", 0o755);
    StateDir::new(open.clone()).save(&svid, &authority.bundles()).unwrap();
    assert_eq!(mode(&open), 0o700);
    let shared = StateDir::new(state("shared", 0o1777)).save(&svid, &authority.bundles());
    assert!(matches!(shared, Err(StateError::Shared { .. })));
}

#[test]
fn what_is_saved_is_loaded_again_and_left_overs_do_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let now = OffsetDateTime::now_utc();
    let svid = authority.svid(&id("orders"), Validity::of(Duration::hours(1), now));
    let state = StateDir::new(dir.path().join("a/b"));
    assert!(state.load(now).unwrap().is_none());
    state.save(&svid, &authority.bundles()).unwrap();
    std::fs::write(dir.path().join("a/b/identity.json.new"), "a crash left this").unwrap();
    state.save(&svid, &authority.bundles()).unwrap();
    let kept = state.load(now).unwrap().unwrap();
    assert_eq!((kept.svid.chain(), &kept.bundles), (svid.chain(), &authority.bundles()));
    assert_eq!(kept.svid.key().der(), svid.key().der());
    let names: Vec<_> =
        std::fs::read_dir(dir.path().join("a/b")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["identity.json"]);
}

#[test]
fn a_state_file_beyond_its_bound_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(dir.path().join("identity.json")).unwrap();
    file.set_len(postern_sidecar::identity::state_dir::STATE_BYTES_MAX + 1).unwrap();
    let error = StateDir::new(dir.path().to_owned()).load(OffsetDateTime::now_utc()).unwrap_err();
    assert!(matches!(error, StateError::TooLarge { .. }));
}
