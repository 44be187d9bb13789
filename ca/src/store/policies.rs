//! The policy's versions: each applied text is kept whole, and the newest is in force.

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use thiserror::Error;

use super::audit_rows::Chain;
use super::commands::sqlite;
use super::writer::{Command, Effect};
use super::{CommitError, Store, StoreError};

/// A policy that was judged good, to be put in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPolicy {
    pub text: String,
    /// `sha256:HEX` of the text.
    pub digest: String,
    /// The name that its decisions are told with.
    pub file: String,
    pub author: String,
    /// Unix seconds.
    pub at: i64,
    pub comment: String,
}

/// What is known of a version beside its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyVersion {
    /// Counts from 1, without gaps.
    pub number: u64,
    /// `sha256:HEX` of the text.
    pub digest: String,
    pub file: String,
    pub author: String,
    /// Unix seconds.
    pub at: i64,
    pub comment: String,
}

/// A version with its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPolicy {
    pub version: PolicyVersion,
    pub text: String,
}

/// What came of applying a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// It is in force as this version.
    New(PolicyVersion),
    /// It was in force already, as this version.
    Unchanged(PolicyVersion),
}

/// Why a policy is not put in force.
#[derive(Debug, Clone, Error)]
pub enum ApplyError {
    #[error("the version in force is {current}, not {expected}: version conflict")]
    Conflict { current: u64, expected: u64 },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Puts a policy in force, if the version in force is the expected one (0 where there is none), or if none is
    /// expected; durable when it returns.
    pub async fn apply_policy(
        &self,
        policy: NewPolicy,
        expect_version: Option<u64>,
    ) -> Result<Applied, ApplyError> {
        let command = Command::ApplyPolicy { policy: Box::new(policy), expect_version };
        match self.send(command).await.map_err(super::store_error)? {
            Effect::Policy(result) => result,
            Effect::Done | Effect::Unchanged => Err(ApplyError::Store(StoreError::Closed)),
        }
    }

    /// One version, or the one in force.
    pub async fn policy(&self, version: Option<u64>) -> Result<Option<StoredPolicy>, StoreError> {
        // A number that no row can have is no version.
        let number = version.map(|version| i64::try_from(version).unwrap_or(0));
        self.read(move |connection| {
            let select = format!(
                "SELECT {COLUMNS}, text FROM policy_versions WHERE ?1 IS NULL OR number = ?1
                 ORDER BY number DESC LIMIT 1"
            );
            let stored =
                |row: &Row<'_>| Ok(StoredPolicy { version: policy_version(row)?, text: row.get(6)? });
            connection.prepare_cached(&select)?.query_row([number], stored).optional()
        })
        .await
    }

    /// At most `limit` versions, newest first; only ones before a number, where one is given.
    pub async fn policy_history(
        &self,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<PolicyVersion>, StoreError> {
        let before = before.and_then(|before| i64::try_from(before).ok()).unwrap_or(i64::MAX);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.read(move |connection| {
            let select = format!(
                "SELECT {COLUMNS} FROM policy_versions WHERE number < ? ORDER BY number DESC LIMIT ?"
            );
            connection.prepare_cached(&select)?.query_map([before, limit], policy_version)?.collect()
        })
        .await
    }
}

const COLUMNS: &str = "number, digest, file, author, at, comment";

fn policy_version(row: &Row<'_>) -> Result<PolicyVersion, rusqlite::Error> {
    Ok(PolicyVersion {
        number: row.get::<_, i64>(0)?.unsigned_abs(),
        digest: row.get(1)?,
        file: row.get(2)?,
        author: row.get(3)?,
        at: row.get(4)?,
        comment: row.get(5)?,
    })
}

pub(super) fn apply(
    connection: &Connection,
    chain: &mut Chain,
    new: &NewPolicy,
    expect_version: Option<u64>,
) -> Result<Effect, CommitError> {
    let last = in_force(connection, &new.text).map_err(sqlite)?;
    let current = last.as_ref().map_or(0, |(version, _)| version.number);
    if let Some(expected) = expect_version.filter(|expected| *expected != current) {
        return Ok(Effect::Policy(Err(ApplyError::Conflict { current, expected })));
    }
    if let Some((version, true)) = last {
        return Ok(Effect::Policy(Ok(Applied::Unchanged(version))));
    }
    let NewPolicy { text, digest, file, author, at, comment } = new.clone();
    let number = current + 1;
    let row = i64::try_from(number).unwrap_or(i64::MAX);
    connection
        .prepare_cached(
            "INSERT INTO policy_versions (number, text, digest, file, author, at, comment)
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .and_then(|mut insert| insert.execute(params![row, text, digest, file, author, at, comment]))
        .map_err(sqlite)?;
    let said = if comment.is_empty() { String::new() } else { format!(": {comment}") };
    let detail = format!("by {author} from {file}, {digest}{said}");
    chain.append(connection, at, "policy_applied", &format!("policy version {number}"), &detail)?;
    Ok(Effect::Policy(Ok(Applied::New(PolicyVersion { number, digest, file, author, at, comment }))))
}

/// The newest version, and whether its text is this one.
fn in_force(connection: &Connection, text: &str) -> Result<Option<(PolicyVersion, bool)>, rusqlite::Error> {
    let select = format!("SELECT {COLUMNS}, text = ? FROM policy_versions ORDER BY number DESC LIMIT 1");
    let mut select = connection.prepare_cached(&select)?;
    select.query_row([text], |row| Ok((policy_version(row)?, row.get(6)?))).optional()
}
