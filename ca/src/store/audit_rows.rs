//! The audit chain: every decision is a row whose hash covers the row and the hash before it, so that none can be
//! changed or taken out unseen.

use std::collections::BTreeMap;

use ring::digest;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Refused, Store, StoreError};

/// So many different refusals a minute are written; the rest is counted in one row.
pub const REFUSALS_PER_MINUTE_MAX: usize = 60;
/// A subject is kept up to so many characters, which is a whole SPIFFE ID.
const SUBJECT_CHARS_MAX: usize = 2048;

/// SHA-256.
pub type Hash = [u8; 32];

/// One row of the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    pub number: i64,
    /// Unix seconds.
    pub at: i64,
    /// `granted`, `refused`, `token_created`, `policy_applied`, `identity_revoked` or `identity_restored`.
    pub decision: String,
    pub subject: String,
    pub detail: String,
    pub hash: Hash,
}

/// What a look at the whole chain found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditVerdict {
    /// So many rows, each as it was written. The last one's hash, kept elsewhere, shows later whether rows were taken
    /// from the end, which the chain alone cannot.
    Whole { rows: i64, hash: Hash },
    /// The first row that is not, or before which one is missing.
    BrokenAt { number: i64 },
}

/// The end of the chain, and the refusals of the current minute.
#[derive(Debug, Clone)]
pub(super) struct Chain {
    number: i64,
    hash: Hash,
    minute: i64,
    /// Who was refused for what in this minute, and how often beyond the first time.
    refused: BTreeMap<(String, String), u64>,
    uncounted: u64,
}

impl Chain {
    pub(super) fn continue_from(connection: &Connection) -> Result<Self, StoreError> {
        let last: Option<(i64, Hash)> = connection
            .query_row("SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()?;
        let (number, hash) = last.unwrap_or_default();
        Ok(Self { number, hash, minute: 0, refused: BTreeMap::new(), uncounted: 0 })
    }

    pub(super) fn append(
        &mut self,
        connection: &Connection,
        at: i64,
        decision: &str,
        subject: &str,
        detail: &str,
    ) -> Result<(), StoreError> {
        let number = self.number + 1;
        let hash = hash_of(&self.hash, number, at, &[decision, subject, detail]);
        connection
            .prepare_cached(
                "INSERT INTO audit (number, at, decision, subject, detail, hash) VALUES (?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![number, at, decision, subject, detail, hash])?;
        (self.number, self.hash) = (number, hash);
        Ok(())
    }

    /// The first refusal of its kind in a minute is a row; how often it came again is a row when the minute is over.
    pub(super) fn refused(&mut self, connection: &Connection, refused: &Refused) -> Result<(), StoreError> {
        let minute = refused.at.div_euclid(60);
        if minute != self.minute {
            self.end_minute(connection)?;
            self.minute = minute;
        }
        let subject: String = refused.subject.chars().take(SUBJECT_CHARS_MAX).collect();
        let kind = (subject, refused.reason.clone());
        if let Some(again) = self.refused.get_mut(&kind) {
            *again += 1;
        } else if self.refused.len() < REFUSALS_PER_MINUTE_MAX {
            self.append(connection, refused.at, "refused", &kind.0, &kind.1)?;
            self.refused.insert(kind, 0);
        } else {
            self.uncounted += 1;
        }
        Ok(())
    }

    /// Writes how often each refusal of the minute came again.
    pub(super) fn end_minute(&mut self, connection: &Connection) -> Result<(), StoreError> {
        let at = (self.minute + 1) * 60;
        for ((subject, reason), again) in std::mem::take(&mut self.refused) {
            if again > 0 {
                self.append(connection, at, "refused", &subject, &format!("{reason} ({again} times more)"))?;
            }
        }
        if let more @ 1.. = std::mem::take(&mut self.uncounted) {
            self.append(connection, at, "refused", "others", &format!("{more} refusals of other kinds"))?;
        }
        Ok(())
    }
}

fn hash_of(before: &Hash, number: i64, at: i64, texts: &[&str]) -> Hash {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(before);
    context.update(&number.to_be_bytes());
    context.update(&at.to_be_bytes());
    for text in texts {
        // With its length, so that no two rows have the same bytes.
        context.update(&u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(text.as_bytes());
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

impl Store {
    /// At most `limit` rows after `number`, oldest first.
    pub async fn audit_entries(&self, after: i64, limit: usize) -> Result<Vec<AuditEntry>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.read(move |connection| rows(connection, after, limit)).await
    }

    /// The newest row's number, 0 where there is none.
    pub async fn audit_last(&self) -> Result<i64, StoreError> {
        let select = "SELECT coalesce(max(number), 0) FROM audit";
        self.read(move |connection| connection.query_row(select, [], |row| row.get(0))).await
    }

    /// Follows the whole chain.
    pub async fn audit_verify(&self) -> Result<AuditVerdict, StoreError> {
        const STEP: i64 = 10_000;
        self.read(|connection| {
            let (mut number, mut hash) = (0, Hash::default());
            loop {
                let step = rows(connection, number, STEP)?;
                if step.is_empty() {
                    return Ok(AuditVerdict::Whole { rows: number, hash });
                }
                for row in step {
                    let texts = [row.decision.as_str(), &row.subject, &row.detail];
                    if row.number != number + 1 || row.hash != hash_of(&hash, row.number, row.at, &texts) {
                        return Ok(AuditVerdict::BrokenAt { number: row.number });
                    }
                    (number, hash) = (row.number, row.hash);
                }
            }
        })
        .await
    }
}

fn rows(connection: &Connection, after: i64, limit: i64) -> Result<Vec<AuditEntry>, rusqlite::Error> {
    let select = "SELECT number, at, decision, subject, detail, hash FROM audit WHERE number > ? ORDER BY number LIMIT ?";
    let mut select = connection.prepare_cached(select)?;
    let entry = |row: &rusqlite::Row<'_>| {
        Ok(AuditEntry {
            number: row.get(0)?,
            at: row.get(1)?,
            decision: row.get(2)?,
            subject: row.get(3)?,
            detail: row.get(4)?,
            hash: row.get(5)?,
        })
    };
    select.query_map([after, limit], entry)?.collect()
}
