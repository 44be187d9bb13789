//! Questions to the records.

use rusqlite::{OptionalExtension as _, Row, params};

use super::issuance::{redeemed, token_wrong};
use super::{CommitError, Record, RepeatDeadline, Store, StoreError};

/// A page has at most this many records.
pub const PAGE_MAX: usize = 1_000;

/// Which records, newest first.
#[derive(Debug, Clone, Default)]
pub struct Query {
    pub spiffe_id: Option<String>,
    pub page_size: usize,
    /// Only older ones than this place, as [`Page::next`] gave it.
    pub before: Option<i64>,
}

/// Some records, and where the next begin.
#[derive(Debug, Clone)]
pub struct Page {
    pub records: Vec<Record>,
    pub next: Option<i64>,
}

/// How many certificates there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub issued: i64,
    pub valid: i64,
}

const COLUMNS: &str =
    "serial, spiffe_id, key_sha256, attestation, not_before, not_after, issued_at, issuer, number";

fn record(row: &Row<'_>) -> Result<(Record, i64), rusqlite::Error> {
    let record = Record {
        serial: row.get(0)?,
        spiffe_id: row.get(1)?,
        key_sha256: row.get(2)?,
        attestation: row.get(3)?,
        not_before: row.get(4)?,
        not_after: row.get(5)?,
        issued_at: row.get(6)?,
        issuer: row.get(7)?,
    };
    Ok((record, row.get(8)?))
}

impl Store {
    /// Whether a token would be good now. What counts is decided when it is redeemed.
    pub async fn check_token(&self, hash: [u8; 32], spiffe_id: &str, now: i64) -> Result<(), CommitError> {
        let wrong = self.look_up(|connection| token_wrong(connection, &hash, spiffe_id, now)).await?;
        wrong.map_or(Ok(()), Err)
    }

    /// Whether a token has been redeemed with this key, and a request with it is to be answered again.
    pub async fn is_redeemed(
        &self,
        hash: [u8; 32],
        spiffe_id: &str,
        deadline: RepeatDeadline,
        key_sha256: &str,
    ) -> Result<bool, StoreError> {
        self.look_up(|connection| Ok(redeemed(connection, &hash, spiffe_id, deadline, key_sha256)?.is_some()))
            .await
    }

    pub async fn certificate(&self, serial: &str) -> Result<Option<Record>, StoreError> {
        self.look_up(|connection| {
            let mut select =
                connection.prepare_cached(&format!("SELECT {COLUMNS} FROM certificate WHERE serial = ?"))?;
            Ok(select.query_row([serial], record).optional()?.map(|(record, _)| record))
        })
        .await
    }

    pub async fn certificates(&self, query: Query) -> Result<Page, StoreError> {
        let size = query.page_size.clamp(1, PAGE_MAX);
        let limit = i64::try_from(size).unwrap_or(i64::MAX);
        let before = query.before.unwrap_or(i64::MAX);
        self.read(move |connection| {
            let select = format!(
                "SELECT {COLUMNS} FROM certificate WHERE number < ?1 AND (?2 IS NULL OR spiffe_id = ?2)
                 ORDER BY number DESC LIMIT ?3"
            );
            let mut select = connection.prepare_cached(&select)?;
            let found = select.query_map(params![before, query.spiffe_id, limit], record)?;
            let (records, numbers): (Vec<_>, Vec<_>) =
                found.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
            let next = numbers.last().copied().filter(|_| records.len() == size);
            Ok(Page { records, next })
        })
        .await
    }

    pub async fn counts(&self, now: i64) -> Result<Counts, StoreError> {
        self.read(move |connection| {
            let select = "SELECT count(*), count(*) FILTER (WHERE not_after >= ?) FROM certificate";
            connection.query_row(select, [now], |row| Ok(Counts { issued: row.get(0)?, valid: row.get(1)? }))
        })
        .await
    }
}
