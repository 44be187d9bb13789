//! The rules by which an issuance is recorded: which join token or certificate may be used for which key.
//!
//! An answer can be lost after its issuance is durable, so a client may ask again with the key of that request:
//! - A join token of n uses certifies n keys. A request with a key that it has certified already takes no further use.
//! - An expired certificate is renewed to one key. A request with that key is answered again.
//! - A repeat ends when its answer has evidently arrived: a certificate of the same key and the same token or predecessor
//!   has been renewed.
//! - A repeat ends in time: a token's when the token has expired and the first certificate could not be renewed any more
//!   either; an expired certificate's when it is too old to be renewed.
//! - Every repeat is a certificate of its own, with its own record and audit row.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::audit_rows::Chain;
use super::commands::sqlite;
use super::{Authorisation, CommitError, Record, RepeatDeadline, revocations};

/// A row of the certificate table.
type Number = i64;

pub(super) fn commit(
    connection: &Connection,
    chain: &mut Chain,
    authorisation: &Authorisation,
    record: &Record,
) -> Result<(), CommitError> {
    revocations::check(connection, &record.spiffe_id)?;
    let line = match authorisation {
        Authorisation::Token { hash, spiffe_id, deadline } => {
            redeem(connection, hash, spiffe_id, *deadline, &record.key_sha256)?
        }
        Authorisation::Svid { serial, spiffe_id, expired } => {
            renew(connection, serial, spiffe_id, *expired, &record.key_sha256)?
        }
    };
    let number = insert(connection, record, line).map_err(sqlite)?;
    if let (Authorisation::Token { hash, .. }, None) = (authorisation, line.repeats) {
        connection
            .prepare_cached("INSERT INTO redemption (token, key_sha256, first) VALUES (?, ?, ?)")
            .and_then(|mut insert| insert.execute(params![hash, record.key_sha256, number]))
            .map_err(sqlite)?;
    }
    let Record { serial, attestation, spiffe_id, issued_at, .. } = record;
    let again = if line.repeats.is_some() { ", again for the same key" } else { "" };
    let detail = format!("serial {serial} by {attestation}{again}");
    chain.append(connection, *issued_at, "granted", spiffe_id, &detail)?;
    Ok(())
}

/// Where a certificate stands among the others of its identity.
#[derive(Debug, Clone, Copy, Default)]
struct Line {
    /// The first certificate for the same key by the same token or predecessor, if this is not it.
    repeats: Option<Number>,
    /// The predecessor, or the certificate that the predecessor repeats.
    renews: Option<Number>,
}

fn insert(connection: &Connection, record: &Record, line: Line) -> Result<Number, rusqlite::Error> {
    let insert = "INSERT INTO certificate
        (serial, spiffe_id, key_sha256, attestation, not_before, not_after, issued_at, issuer, repeats, renews)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let Record { serial, spiffe_id, key_sha256, attestation, not_before, not_after, issued_at, issuer } =
        record;
    connection.prepare_cached(insert)?.insert(params![
        serial,
        spiffe_id,
        key_sha256,
        attestation,
        not_before,
        not_after,
        issued_at,
        issuer,
        line.repeats,
        line.renews
    ])
}

fn redeem(
    connection: &Connection,
    hash: &[u8; 32],
    spiffe_id: &str,
    deadline: RepeatDeadline,
    key_sha256: &str,
) -> Result<Line, CommitError> {
    let first = redeemed(connection, hash, spiffe_id, deadline, key_sha256).map_err(sqlite)?;
    if first.is_some() {
        return Ok(Line { repeats: first, renews: None });
    }
    // One statement takes a use, if all holds; only when it took none is it asked why.
    let take = "UPDATE token SET uses_left = uses_left - 1
        WHERE hash = ?1 AND spiffe_id = ?2 AND expires_at > ?3 AND uses_left > 0
        AND NOT EXISTS (SELECT 1 FROM redemption WHERE token = ?1 AND key_sha256 = ?4)";
    let taken = connection
        .prepare_cached(take)
        .and_then(|mut take| take.execute(params![hash, spiffe_id, deadline.now, key_sha256]))
        .map_err(sqlite)?;
    if taken == 1 {
        return Ok(Line::default());
    }
    let wrong = token_wrong(connection, hash, spiffe_id, deadline.now).map_err(sqlite)?;
    Err(wrong.unwrap_or(CommitError::KeyRedeemed))
}

/// The first certificate of this key by this token, if a request with that key is to be answered again.
pub(super) fn redeemed(
    connection: &Connection,
    hash: &[u8; 32],
    spiffe_id: &str,
    deadline: RepeatDeadline,
    key_sha256: &str,
) -> Result<Option<Number>, rusqlite::Error> {
    let select = "SELECT first.number FROM redemption
        JOIN token ON token.hash = redemption.token
        JOIN certificate AS first ON first.number = redemption.first
        WHERE redemption.token = ?1 AND redemption.key_sha256 = ?2 AND token.spiffe_id = ?3
        AND ?4 <= max(token.expires_at, first.not_after + ?5)
        AND NOT EXISTS (SELECT 1 FROM certificate WHERE renews = first.number)";
    connection
        .prepare_cached(select)?
        .query_row(params![hash, key_sha256, spiffe_id, deadline.now, deadline.grace], |row| row.get(0))
        .optional()
}

/// What is wrong with a token, if anything.
pub(super) fn token_wrong(
    connection: &Connection,
    hash: &[u8; 32],
    spiffe_id: &str,
    now: i64,
) -> Result<Option<CommitError>, rusqlite::Error> {
    let mut select =
        connection.prepare_cached("SELECT spiffe_id, expires_at, uses_left FROM token WHERE hash = ?")?;
    let found: Option<(String, i64, i64)> =
        select.query_row([hash], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
    Ok(match found {
        None => Some(CommitError::UnknownToken),
        Some((of, _, _)) if of != spiffe_id => Some(CommitError::TokenOfAnotherId),
        Some((_, expires_at, _)) if expires_at <= now => Some(CommitError::TokenExpired),
        Some((_, _, uses_left)) if uses_left <= 0 => Some(CommitError::TokenUsedUp),
        // Last, so that only who has a good token is told of a revocation.
        Some(_) => revocations::refusal(connection, spiffe_id)?,
    })
}

fn renew(
    connection: &Connection,
    serial: &str,
    spiffe_id: &str,
    expired: bool,
    key_sha256: &str,
) -> Result<Line, CommitError> {
    let select =
        "SELECT coalesce(repeats, number), key_sha256 FROM certificate WHERE serial = ? AND spiffe_id = ?";
    let predecessor: Option<(Number, String)> = connection
        .prepare_cached(select)
        .and_then(|mut select| {
            select.query_row([serial, spiffe_id], |row| Ok((row.get(0)?, row.get(1)?))).optional()
        })
        .map_err(sqlite)?;
    let Some((renews, own_key)) = predecessor else { return Err(CommitError::UnknownCertificate) };
    // A renewal with the key that it renews would keep a stolen key alive for ever.
    if own_key == key_sha256 {
        return Err(CommitError::SameKey);
    }
    if expired && is_superseded(connection, renews, key_sha256).map_err(sqlite)? {
        return Err(CommitError::Superseded);
    }
    let first = "SELECT number FROM certificate WHERE renews = ? AND key_sha256 = ? ORDER BY number LIMIT 1";
    let repeats = connection
        .prepare_cached(first)
        .and_then(|mut first| first.query_row(params![renews, key_sha256], |row| row.get(0)).optional())
        .map_err(sqlite)?;
    Ok(Line { repeats, renews: Some(renews) })
}

/// Whether a certificate was renewed with another key, or with this one and that was renewed in its turn.
fn is_superseded(
    connection: &Connection,
    renewed: Number,
    key_sha256: &str,
) -> Result<bool, rusqlite::Error> {
    // Ranges, so that the index answers however many repeats there are.
    let select = "SELECT 1 WHERE EXISTS (SELECT 1 FROM certificate WHERE renews = ?1 AND key_sha256 < ?2)
        OR EXISTS (SELECT 1 FROM certificate WHERE renews = ?1 AND key_sha256 > ?2)
        OR EXISTS (SELECT 1 FROM certificate WHERE renews = (
            SELECT min(number) FROM certificate WHERE renews = ?1 AND key_sha256 = ?2))";
    connection.prepare_cached(select)?.exists(params![renewed, key_sha256])
}
