use super::*;

pub(super) const NOW: i64 = 1_000_000;
/// How long an expired certificate can be renewed.
pub(super) const GRACE: i64 = 7200;
pub(super) const ID: &str = "spiffe://shop.example/orders";

pub(super) fn token(uses: u32) -> NewToken {
    NewToken { hash: [7; 32], spiffe_id: ID.to_owned(), created_at: NOW, expires_at: NOW + 600, uses }
}

pub(super) fn record(serial: &str, attestation: &str) -> Record {
    Record {
        serial: serial.to_owned(),
        spiffe_id: ID.to_owned(),
        key_sha256: format!("key of {serial}"),
        attestation: attestation.to_owned(),
        not_before: NOW,
        not_after: NOW + 3600,
        issued_at: NOW,
        issuer: "01".to_owned(),
    }
}

pub(super) fn by_token(spiffe_id: &str, now: i64) -> Authorisation {
    let deadline = RepeatDeadline { now, grace: GRACE };
    Authorisation::Token { hash: [7; 32], spiffe_id: spiffe_id.to_owned(), deadline }
}

pub(super) fn by_svid(serial: &str, expired: bool) -> Authorisation {
    Authorisation::Svid { serial: serial.to_owned(), spiffe_id: ID.to_owned(), expired }
}

pub(super) fn open() -> (tempfile::TempDir, Store, WriterThread) {
    let dir = tempfile::tempdir().unwrap();
    let (store, writer) = Store::open(&dir.path().join("store.sqlite")).unwrap();
    (dir, store, writer)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_callers_one_redeems_a_token_of_one_use() {
    let (_dir, store, _writer) = open();
    store.create_token(token(1)).await.unwrap();
    let mut callers = tokio::task::JoinSet::new();
    for at in 0..100 {
        let store = store.clone();
        callers.spawn(async move {
            store.commit(by_token(ID, NOW), record(&format!("{at:x}"), "join_token")).await
        });
    }
    let results = callers.join_all().await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    let used_up = |result: &&Result<_, _>| matches!(result, Err(CommitError::TokenUsedUp));
    assert_eq!(results.iter().filter(used_up).count(), 99);
    assert_eq!(store.counts(NOW).await.unwrap(), Counts { issued: 1, valid: 1 });
}

#[tokio::test]
async fn each_way_a_token_fails_has_its_name_and_uses_nothing_up() {
    let (_dir, store, _writer) = open();
    let commit = async |authorisation| store.commit(authorisation, record("a", "join_token")).await;
    assert!(matches!(commit(by_token(ID, NOW)).await, Err(CommitError::UnknownToken)));
    store.create_token(token(1)).await.unwrap();
    let other = by_token("spiffe://shop.example/payments", NOW);
    assert!(matches!(commit(other).await, Err(CommitError::TokenOfAnotherId)));
    assert!(matches!(commit(by_token(ID, NOW + 600)).await, Err(CommitError::TokenExpired)));
    let check = async |now| store.check_token([7; 32], ID, now).await;
    assert!(matches!(check(NOW + 600).await, Err(CommitError::TokenExpired)));
    check(NOW + 599).await.unwrap();
    commit(by_token(ID, NOW + 599)).await.unwrap();
    assert!(matches!(check(NOW + 599).await, Err(CommitError::TokenUsedUp)), "a look ahead says the same");
}

#[tokio::test]
async fn a_renewed_certificate_is_on_record_and_an_expired_one_renews_once() {
    let (_dir, store, _writer) = open();
    assert!(matches!(
        store.commit(by_svid("a", false), record("b", "svid:a")).await,
        Err(CommitError::UnknownCertificate)
    ));
    store.create_token(token(1)).await.unwrap();
    store.commit(by_token(ID, NOW), record("a", "join_token")).await.unwrap();
    let same_key = Record { key_sha256: "key of a".to_owned(), ..record("b", "svid:a") };
    assert!(matches!(store.commit(by_svid("a", true), same_key).await, Err(CommitError::SameKey)));
    store.commit(by_svid("a", true), record("b", "svid:a")).await.unwrap();
    assert!(matches!(
        store.commit(by_svid("a", true), record("c", "svid:a")).await,
        Err(CommitError::Superseded)
    ));
    store.commit(by_svid("a", false), record("c", "svid:a")).await.unwrap();
}

#[tokio::test]
async fn what_was_committed_is_there_after_a_crash_and_pages_are_newest_first() {
    let (dir, store, _writer) = open();
    store.create_token(token(9)).await.unwrap();
    for serial in ["a", "b", "c"] {
        store.commit(by_token(ID, NOW), record(serial, "join_token")).await.unwrap();
    }
    // A second opening while the first is not closed sees what a crash would leave.
    let (again, _writer) = Store::open(&dir.path().join("store.sqlite")).unwrap();
    let query = |before| Query { page_size: 2, before, ..Query::default() };
    let first = again.certificates(query(None)).await.unwrap();
    assert_eq!(first.records.iter().map(|record| record.serial.as_str()).collect::<Vec<_>>(), ["c", "b"]);
    let second = again.certificates(query(first.next)).await.unwrap();
    assert_eq!((second.records.len(), second.next), (1, None));
    assert_eq!(again.certificate("b").await.unwrap(), Some(record("b", "join_token")));
    assert_eq!(again.certificate("d").await.unwrap(), None);
}

#[tokio::test]
async fn a_changed_or_missing_audit_row_is_found() {
    for (tamper, broken) in
        [("UPDATE audit SET subject = 'x' WHERE number = 3", 3), ("DELETE FROM audit WHERE number = 2", 3)]
    {
        let (dir, store, _writer) = open();
        store.create_token(token(9)).await.unwrap();
        for serial in ["a", "b", "c"] {
            store.commit(by_token(ID, NOW), record(serial, "join_token")).await.unwrap();
        }
        assert_whole(&store, 4).await;
        rusqlite::Connection::open(dir.path().join("store.sqlite")).unwrap().execute(tamper, []).unwrap();
        assert_eq!(store.audit_verify().await.unwrap(), AuditVerdict::BrokenAt { number: broken });
    }
}

/// The chain is whole, and its end is the last row's hash.
async fn assert_whole(store: &Store, rows: usize) {
    let entries = store.audit_entries(0, 10_000).await.unwrap();
    let last = entries.last().unwrap();
    assert_eq!((entries.len(), store.audit_last().await.unwrap()), (rows, last.number));
    let whole = AuditVerdict::Whole { rows: last.number, hash: last.hash };
    assert_eq!(store.audit_verify().await.unwrap(), whole);
}

#[tokio::test]
async fn a_flood_of_refusals_is_counted_and_does_not_fill_the_disk() {
    let (_dir, store, _writer) = open();
    let refused =
        |at, who: usize| Refused { at, subject: format!("10.0.0.{who}"), reason: "unknown token".to_owned() };
    for at in 0..REFUSALS_PER_MINUTE_MAX * 10 {
        store.audit_refusal(refused(NOW, at)).await.unwrap();
        store.audit_refusal(refused(NOW, 0)).await.unwrap();
    }
    store.audit_refusal(refused(NOW + 60, 0)).await.unwrap();
    let entries = store.audit_entries(0, 10_000).await.unwrap();
    assert_eq!(entries.len(), REFUSALS_PER_MINUTE_MAX + 3);
    assert!(entries.iter().any(|entry| entry.detail == "540 refusals of other kinds"), "{entries:?}");
    assert!(entries.iter().any(|entry| entry.detail == "unknown token (600 times more)"), "{entries:?}");
    assert_whole(&store, entries.len()).await;
}

#[tokio::test]
async fn a_newer_store_and_a_foreign_file_are_refused() {
    let (dir, store, writer) = open();
    drop(store);
    writer.join();
    let path = dir.path().join("store.sqlite");
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(Store::open(&path), Err(StoreError::NewerSchema { found: 99, known: 3 })));
    let other = dir.path().join("other.sqlite");
    rusqlite::Connection::open(&other).unwrap().execute("CREATE TABLE x (y)", []).unwrap();
    assert!(matches!(Store::open(&other), Err(StoreError::NotAStore)));
    std::fs::write(dir.path().join("text"), "this is no database, but a text of some length").unwrap();
    assert!(Store::open(&dir.path().join("text")).is_err());
}
