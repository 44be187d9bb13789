//! Revoked identities: none gets a certificate or a join token until it is restored.

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::audit_rows::Chain;
use super::commands::sqlite;
use super::writer::{Command, Effect};
use super::{CommitError, Store, StoreError};

/// So many identities can be revoked at a time: each sidecar is told all of them in one message, and the longest IDs
/// shall fit, too (`wire::SLICE_BYTES_MAX`).
pub const REVOKED_MAX: usize = 8_000;

/// An identity that is revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    pub id: String,
    pub reason: String,
    pub author: String,
    /// Unix seconds.
    pub at: i64,
}

impl Store {
    /// Revokes an identity; false where it was revoked already, which stays as it was. Durable when it returns.
    pub async fn revoke(&self, revoked: Revoked) -> Result<bool, CommitError> {
        Ok(matches!(self.send(Command::Revoke(revoked)).await?, Effect::Done))
    }

    /// Takes a revocation back; false where there was none. Durable when it returns.
    pub async fn restore(&self, id: String, author: String, at: i64) -> Result<bool, StoreError> {
        let effect = self.send(Command::Restore { id, author, at }).await.map_err(super::store_error)?;
        Ok(matches!(effect, Effect::Done))
    }

    /// All that are revoked, by ID.
    pub async fn revoked(&self) -> Result<Vec<Revoked>, StoreError> {
        self.read(|connection| {
            let mut select = connection.prepare_cached(&format!("{SELECT} ORDER BY id"))?;
            select.query_map([], revoked)?.collect()
        })
        .await
    }
}

const SELECT: &str = "SELECT id, reason, author, at FROM revoked";

fn revoked(row: &Row<'_>) -> Result<Revoked, rusqlite::Error> {
    Ok(Revoked { id: row.get(0)?, reason: row.get(1)?, author: row.get(2)?, at: row.get(3)? })
}

fn find(connection: &Connection, id: &str) -> Result<Option<Revoked>, rusqlite::Error> {
    connection.prepare_cached(&format!("{SELECT} WHERE id = ?"))?.query_row([id], revoked).optional()
}

/// What an identity that is revoked is told.
pub(super) fn refusal(connection: &Connection, id: &str) -> Result<Option<CommitError>, rusqlite::Error> {
    Ok(find(connection, id)?.map(|Revoked { id, reason, .. }| CommitError::Revoked { id, reason }))
}

/// Refuses an identity that is revoked.
pub(super) fn check(connection: &Connection, id: &str) -> Result<(), CommitError> {
    refusal(connection, id).map_err(sqlite)?.map_or(Ok(()), Err)
}

pub(super) fn revoke(
    connection: &Connection,
    chain: &mut Chain,
    revoked: &Revoked,
) -> Result<Effect, CommitError> {
    let Revoked { id, reason, author, at } = revoked;
    if find(connection, id).map_err(sqlite)?.is_some() {
        return Ok(Effect::Unchanged);
    }
    let count: i64 = connection
        .prepare_cached("SELECT count(*) FROM revoked")
        .and_then(|mut count| count.query_row([], |row| row.get(0)))
        .map_err(sqlite)?;
    if usize::try_from(count).is_ok_and(|count| count >= REVOKED_MAX) {
        return Err(CommitError::TooManyRevoked);
    }
    connection
        .prepare_cached("INSERT INTO revoked (id, reason, author, at) VALUES (?, ?, ?, ?)")
        .and_then(|mut insert| insert.execute(params![id, reason, author, at]))
        .map_err(sqlite)?;
    chain.append(connection, *at, "identity_revoked", id, &format!("by {author}: {reason}"))?;
    Ok(Effect::Done)
}

pub(super) fn restore(
    connection: &Connection,
    chain: &mut Chain,
    id: &str,
    author: &str,
    at: i64,
) -> Result<Effect, CommitError> {
    let restored = connection.execute("DELETE FROM revoked WHERE id = ?", [id]).map_err(sqlite)?;
    if restored == 0 {
        return Ok(Effect::Unchanged);
    }
    chain.append(connection, at, "identity_restored", id, &format!("by {author}"))?;
    Ok(Effect::Done)
}
