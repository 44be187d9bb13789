//! Answers that were lost: who asks again with the same key is answered again, and nobody else.

use super::tests::{GRACE, ID, NOW, by_svid, by_token, open, record, token};
use super::*;

/// A certificate of this serial for this key.
fn for_key(key: &str, serial: &str, attestation: &str) -> Record {
    Record { key_sha256: key.to_owned(), ..record(serial, attestation) }
}

/// Redeems the token at `at` with `key`.
async fn redeem(store: &Store, at: i64, key: &str, serial: &str) -> Result<(), CommitError> {
    let issued = Record { not_after: at + 3600, issued_at: at, ..for_key(key, serial, "join_token") };
    store.commit(by_token(ID, at), issued).await
}

async fn renew_expired(store: &Store, old: &str, key: &str, serial: &str) -> Result<(), CommitError> {
    store.commit(by_svid(old, true), for_key(key, serial, &format!("svid:{old}"))).await
}

/// A store in which a token of so many uses was redeemed once with key "k".
async fn redeemed(uses: u32) -> (tempfile::TempDir, Store, WriterThread) {
    let (dir, store, writer) = open();
    store.create_token(token(uses)).await.unwrap();
    redeem(&store, NOW, "k", "a").await.unwrap();
    (dir, store, writer)
}

#[tokio::test]
async fn a_token_that_is_used_up_answers_again_the_key_that_redeemed_it_and_no_other() {
    let (_dir, store, _writer) = redeemed(1).await;
    for serial in ["b", "c"] {
        redeem(&store, NOW + 1, "k", serial).await.unwrap();
    }
    assert!(matches!(redeem(&store, NOW, "other", "d").await, Err(CommitError::TokenUsedUp)));
    let entries = store.audit_entries(2, 10).await.unwrap();
    let details: Vec<_> = entries.iter().map(|entry| entry.detail.as_str()).collect();
    let again = |serial| format!("serial {serial} by join_token, again for the same key");
    assert_eq!(details, [again("b"), again("c")]);
}

#[tokio::test]
async fn a_repeat_takes_no_further_use() {
    let (_dir, store, _writer) = redeemed(2).await;
    redeem(&store, NOW, "k", "b").await.unwrap();
    redeem(&store, NOW, "second", "c").await.unwrap();
    redeem(&store, NOW, "k", "d").await.unwrap();
    assert!(matches!(redeem(&store, NOW, "third", "e").await, Err(CommitError::TokenUsedUp)));
}

#[tokio::test]
async fn a_repeat_ends_when_the_first_certificate_could_not_be_renewed_any_more() {
    let (_dir, store, _writer) = redeemed(1).await;
    let last = NOW + 3600 + GRACE;
    let (deadline, hash) = (|now| RepeatDeadline { now, grace: GRACE }, [7; 32]);
    let is_redeemed = async |at| store.is_redeemed(hash, ID, deadline(at), "k").await.unwrap();
    redeem(&store, NOW + 601, "k", "b").await.unwrap();
    assert!(is_redeemed(last).await);
    redeem(&store, last, "k", "c").await.unwrap();
    // Had each repeat moved the end, a key could be certified for ever.
    assert!(!is_redeemed(last + 1).await);
    assert!(matches!(redeem(&store, last + 1, "k", "d").await, Err(CommitError::TokenExpired)));
}

#[tokio::test]
async fn a_repeat_ends_when_its_certificate_has_been_renewed() {
    let (_dir, store, _writer) = redeemed(2).await;
    redeem(&store, NOW, "k", "b").await.unwrap();
    store.commit(by_svid("b", false), for_key("next", "c", "svid:b")).await.unwrap();
    assert!(matches!(redeem(&store, NOW, "k", "d").await, Err(CommitError::KeyRedeemed)));
    redeem(&store, NOW, "second", "e").await.unwrap();
    assert!(matches!(redeem(&store, NOW, "k", "f").await, Err(CommitError::TokenUsedUp)));
}

#[tokio::test]
async fn a_redemption_is_answered_again_to_its_own_identity_only_and_not_once_that_is_revoked() {
    let (_dir, store, _writer) = redeemed(1).await;
    let other = "spiffe://shop.example/payments";
    let issued = Record { spiffe_id: other.to_owned(), ..for_key("k", "b", "join_token") };
    let refused = store.commit(by_token(other, NOW), issued).await;
    assert!(matches!(refused, Err(CommitError::TokenOfAnotherId)));
    let (id, reason, author) = (ID.to_owned(), "stolen".to_owned(), "ana".to_owned());
    store.revoke(Revoked { id, reason, author, at: NOW }).await.unwrap();
    assert!(matches!(redeem(&store, NOW, "k", "c").await, Err(CommitError::Revoked { .. })));
}

#[tokio::test]
async fn an_expired_certificate_is_renewed_to_one_key_however_often_that_asks() {
    let (_dir, store, _writer) = redeemed(1).await;
    for serial in ["b", "c", "d"] {
        renew_expired(&store, "a", "k2", serial).await.unwrap();
    }
    assert!(matches!(renew_expired(&store, "a", "k3", "e").await, Err(CommitError::Superseded)));
    // One of the answers has come: it is renewed, and the others are over with the certificate that they renewed.
    renew_expired(&store, "c", "k3", "e").await.unwrap();
    assert!(matches!(renew_expired(&store, "a", "k2", "f").await, Err(CommitError::Superseded)));
    assert!(matches!(renew_expired(&store, "b", "k4", "f").await, Err(CommitError::Superseded)));
    assert!(matches!(renew_expired(&store, "d", "k4", "f").await, Err(CommitError::Superseded)));
    renew_expired(&store, "b", "k3", "f").await.unwrap();
}

#[tokio::test]
async fn an_answer_lost_before_expiry_is_repeated_after_it() {
    let (_dir, store, _writer) = redeemed(1).await;
    store.commit(by_svid("a", false), for_key("k2", "b", "svid:a")).await.unwrap();
    renew_expired(&store, "a", "k2", "c").await.unwrap();
    assert!(matches!(renew_expired(&store, "a", "k3", "d").await, Err(CommitError::Superseded)));
}

/// Takes from a store what the third schema brought.
pub(super) fn back_to_the_second_schema(path: &Path) {
    let before = "DROP TABLE redemption; DROP INDEX certificate_by_renewed;
        ALTER TABLE certificate DROP COLUMN repeats; ALTER TABLE certificate DROP COLUMN renews;
        CREATE INDEX certificate_by_renewed ON certificate (attestation); PRAGMA user_version = 2";
    rusqlite::Connection::open(path).unwrap().execute_batch(before).unwrap();
}

#[tokio::test]
async fn a_store_of_the_schema_before_keeps_the_lines_of_renewals() {
    let (dir, store, writer) = redeemed(1).await;
    renew_expired(&store, "a", "k2", "b").await.unwrap();
    store.close().await.unwrap();
    writer.join();
    let path = dir.path().join("store.sqlite");
    back_to_the_second_schema(&path);
    let (store, _writer) = Store::open(&path).unwrap();
    assert!(matches!(renew_expired(&store, "a", "k3", "c").await, Err(CommitError::Superseded)));
    renew_expired(&store, "a", "k2", "c").await.unwrap();
    renew_expired(&store, "b", "k3", "d").await.unwrap();
}
