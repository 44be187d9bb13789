//! Policy versions and revocations, as they are stored.

use super::tests::{ID, NOW, by_svid, by_token, open, record, token};
use super::*;

fn policy(text: &str) -> NewPolicy {
    NewPolicy {
        text: text.to_owned(),
        digest: format!("sha256:{text}"),
        file: "policy.toml".to_owned(),
        author: "ana".to_owned(),
        at: NOW,
        comment: "ticket 7".to_owned(),
    }
}

fn revocation(id: &str) -> Revoked {
    Revoked { id: id.to_owned(), reason: "stolen key".to_owned(), author: "ana".to_owned(), at: NOW }
}

async fn decisions(store: &Store) -> Vec<String> {
    let entries = store.audit_entries(0, 10_000).await.unwrap();
    assert!(matches!(store.audit_verify().await.unwrap(), AuditVerdict::Whole { .. }));
    entries.into_iter().map(|entry| entry.decision).collect()
}

fn number(applied: Result<Applied, ApplyError>) -> u64 {
    match applied.unwrap() {
        Applied::New(version) => version.number,
        Applied::Unchanged(version) => panic!("{version:?} is no new version"),
    }
}

#[tokio::test]
async fn each_applied_text_is_a_version_and_the_newest_is_in_force() {
    let (_dir, store, _writer) = open();
    assert_eq!(store.policy(None).await.unwrap(), None);
    for (text, version) in [("a", 1), ("b", 2), ("a", 3)] {
        assert_eq!(number(store.apply_policy(policy(text), None).await), version);
    }
    let in_force = store.policy(None).await.unwrap().unwrap();
    assert_eq!((in_force.version.number, in_force.text.as_str()), (3, "a"));
    assert_eq!(store.policy(Some(2)).await.unwrap().unwrap().text, "b");
    for none in [0, 4, u64::MAX] {
        assert_eq!(store.policy(Some(none)).await.unwrap(), None);
    }
    let history = store.policy_history(None, 2).await.unwrap();
    assert_eq!(history.iter().map(|version| version.number).collect::<Vec<_>>(), [3, 2]);
    let older = store.policy_history(Some(2), 2).await.unwrap();
    assert_eq!(older.iter().map(|version| version.number).collect::<Vec<_>>(), [1]);
    assert_eq!(decisions(&store).await, ["policy_applied"; 3]);
}

#[tokio::test]
async fn the_text_in_force_applied_again_makes_no_version_and_no_audit_row() {
    let (_dir, store, _writer) = open();
    store.apply_policy(policy("a"), None).await.unwrap();
    let again = NewPolicy { comment: "other words".to_owned(), ..policy("a") };
    let Applied::Unchanged(version) = store.apply_policy(again, Some(1)).await.unwrap() else { panic!() };
    assert_eq!((version.number, version.comment.as_str()), (1, "ticket 7"));
    assert_eq!(decisions(&store).await, ["policy_applied"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_twenty_who_expect_the_same_version_one_applies() {
    let (_dir, store, _writer) = open();
    store.apply_policy(policy("a"), Some(0)).await.unwrap();
    let mut callers = tokio::task::JoinSet::new();
    for at in 0..20 {
        let store = store.clone();
        callers.spawn(async move { store.apply_policy(policy(&format!("b{at}")), Some(1)).await });
    }
    let results = callers.join_all().await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    let lost =
        |result: &&Result<_, _>| matches!(result, Err(ApplyError::Conflict { current: 2, expected: 1 }));
    assert_eq!(results.iter().filter(lost).count(), 19);
    assert_eq!(store.policy_history(None, 100).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_revoked_identity_gets_nothing_until_it_is_restored_and_uses_nothing_up() {
    let (_dir, store, _writer) = open();
    store.create_token(token(2)).await.unwrap();
    store.commit(by_token(ID, NOW), record("a", "join_token")).await.unwrap();
    assert!(store.revoke(revocation(ID)).await.unwrap());
    let refused = |result: Result<(), CommitError>| match result.unwrap_err() {
        CommitError::Revoked { id, reason } => assert_eq!((id.as_str(), reason.as_str()), (ID, "stolen key")),
        other => panic!("{other}"),
    };
    refused(store.commit(by_token(ID, NOW), record("b", "join_token")).await);
    refused(store.commit(by_svid("a", false), record("b", "svid:a")).await);
    refused(store.check_token([7; 32], ID, NOW).await);
    refused(store.create_token(NewToken { hash: [8; 32], ..token(1) }).await);
    let unknown = store.check_token([9; 32], ID, NOW).await;
    assert!(matches!(unknown, Err(CommitError::UnknownToken)), "who proves nothing is told nothing");
    assert!(store.restore(ID.to_owned(), "ana".to_owned(), NOW).await.unwrap());
    store.commit(by_token(ID, NOW), record("b", "join_token")).await.unwrap();
    store.commit(by_svid("a", false), record("c", "svid:a")).await.unwrap();
    let said = ["token_created", "granted", "identity_revoked", "identity_restored", "granted", "granted"];
    assert_eq!(decisions(&store).await, said);
}

#[tokio::test]
async fn revoking_and_restoring_twice_changes_nothing_the_second_time() {
    let (_dir, store, _writer) = open();
    let other = "spiffe://shop.example/a";
    assert!(!store.restore(ID.to_owned(), "ana".to_owned(), NOW).await.unwrap());
    assert!(store.revoke(revocation(ID)).await.unwrap());
    let again = Revoked { reason: "other words".to_owned(), ..revocation(ID) };
    assert!(!store.revoke(again).await.unwrap());
    assert!(store.revoke(revocation(other)).await.unwrap());
    assert_eq!(store.revoked().await.unwrap(), [revocation(other), revocation(ID)]);
    assert_eq!(decisions(&store).await, ["identity_revoked"; 2]);
}

#[tokio::test]
async fn so_many_identities_can_be_revoked_and_one_more_is_refused() {
    let (_dir, store, _writer) = open();
    let mut callers = tokio::task::JoinSet::new();
    for at in 0..REVOKED_MAX {
        let store = store.clone();
        callers.spawn(async move { store.revoke(revocation(&format!("{ID}{at}"))).await.unwrap() });
    }
    assert!(callers.join_all().await.into_iter().all(|new| new));
    assert!(matches!(store.revoke(revocation(ID)).await, Err(CommitError::TooManyRevoked)));
    assert!(!store.revoke(revocation(&format!("{ID}7"))).await.unwrap());
    store.restore(format!("{ID}7"), "ana".to_owned(), NOW).await.unwrap();
    assert!(store.revoke(revocation(ID)).await.unwrap());
}

#[test]
fn as_many_of_the_longest_ids_as_can_be_revoked_fit_into_one_message() {
    // Each with its tag and a length of two octets.
    let longest = postern_proto::identity::SPIFFE_ID_BYTES_MAX + 3;
    assert!(REVOKED_MAX * longest < postern_proto::wire::SLICE_BYTES_MAX);
}

#[tokio::test]
async fn a_store_of_the_first_schema_keeps_its_rows_and_gets_the_new_tables() {
    let (dir, store, writer) = open();
    store.create_token(token(1)).await.unwrap();
    store.close().await.unwrap();
    writer.join();
    let path = dir.path().join("store.sqlite");
    super::repeat_tests::back_to_the_second_schema(&path);
    let old = rusqlite::Connection::open(&path).unwrap();
    old.execute_batch("DROP TABLE policy_versions; DROP TABLE revoked; PRAGMA user_version = 1").unwrap();
    let (store, _writer) = Store::open(&path).unwrap();
    store.check_token([7; 32], ID, NOW).await.unwrap();
    assert_eq!(number(store.apply_policy(policy("a"), None).await), 1);
    assert!(store.revoke(revocation(ID)).await.unwrap());
}
