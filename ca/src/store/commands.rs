//! What a single command does within the writer's transaction. Each checks before it changes anything.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::audit_rows::Chain;
use super::writer::{Command, Effect};
use super::{Authorisation, CommitError, NewToken, Record, StoreError};
use super::{policies, revocations};

type Done = Result<(), CommitError>;

pub(super) fn sqlite(error: rusqlite::Error) -> CommitError {
    CommitError::Store(StoreError::from(error))
}

pub(super) fn execute(
    connection: &Connection,
    chain: &mut Chain,
    command: &Command,
) -> Result<Effect, CommitError> {
    match command {
        Command::CreateToken(token) => create_token(connection, chain, token)?,
        Command::Commit(issuance) => commit(connection, chain, &issuance.0, &issuance.1)?,
        Command::Refused(refused) => chain.refused(connection, refused)?,
        Command::ApplyPolicy { policy, expect_version } => {
            return policies::apply(connection, chain, policy, *expect_version);
        }
        Command::Revoke(revoked) => return revocations::revoke(connection, chain, revoked),
        Command::Restore { id, author, at } => {
            return revocations::restore(connection, chain, id, author, *at);
        }
        Command::Close => chain.end_minute(connection)?,
    }
    Ok(Effect::Done)
}

fn create_token(connection: &Connection, chain: &mut Chain, token: &NewToken) -> Done {
    revocations::check(connection, &token.spiffe_id)?;
    connection
        .prepare_cached("INSERT INTO token (hash, spiffe_id, expires_at, uses_left) VALUES (?, ?, ?, ?)")
        .and_then(|mut insert| {
            insert.execute(params![token.hash, token.spiffe_id, token.expires_at, token.uses])
        })
        .map_err(sqlite)?;
    let detail = format!("{} uses until {}", token.uses, token.expires_at);
    chain.append(connection, token.created_at, "token_created", &token.spiffe_id, &detail)?;
    Ok(())
}

fn commit(
    connection: &Connection,
    chain: &mut Chain,
    authorisation: &Authorisation,
    record: &Record,
) -> Done {
    revocations::check(connection, &record.spiffe_id)?;
    match authorisation {
        Authorisation::Token { hash, spiffe_id, now } => redeem(connection, hash, spiffe_id, *now)?,
        Authorisation::Svid { serial, spiffe_id, only_if_newest } => {
            check_renewed(connection, serial, spiffe_id, *only_if_newest, &record.key_sha256)?;
        }
    }
    let insert = "INSERT INTO certificate
        (serial, spiffe_id, key_sha256, attestation, not_before, not_after, issued_at, issuer)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
    let Record { serial, spiffe_id, key_sha256, attestation, not_before, not_after, issued_at, issuer } =
        record;
    connection
        .prepare_cached(insert)
        .and_then(|mut insert| {
            insert.execute(params![
                serial,
                spiffe_id,
                key_sha256,
                attestation,
                not_before,
                not_after,
                issued_at,
                issuer
            ])
        })
        .map_err(sqlite)?;
    let detail = format!("serial {serial} by {attestation}");
    chain.append(connection, *issued_at, "granted", spiffe_id, &detail)?;
    Ok(())
}

/// One statement takes a use, if all holds; only when it took none is it asked why.
fn redeem(connection: &Connection, hash: &[u8; 32], spiffe_id: &str, now: i64) -> Done {
    let take = "UPDATE token SET uses_left = uses_left - 1
        WHERE hash = ?1 AND spiffe_id = ?2 AND expires_at > ?3 AND uses_left > 0";
    let taken = connection
        .prepare_cached(take)
        .and_then(|mut take| take.execute(params![hash, spiffe_id, now]))
        .map_err(sqlite)?;
    if taken == 1 {
        return Ok(());
    }
    let wrong = token_wrong(connection, hash, spiffe_id, now).map_err(sqlite)?;
    Err(wrong.unwrap_or(CommitError::TokenUsedUp))
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

fn check_renewed(
    connection: &Connection,
    serial: &str,
    spiffe_id: &str,
    only_if_newest: bool,
    new_key: &str,
) -> Done {
    let key: Option<String> = connection
        .prepare_cached("SELECT key_sha256 FROM certificate WHERE serial = ? AND spiffe_id = ?")
        .and_then(|mut key| key.query_row([serial, spiffe_id], |row| row.get(0)).optional())
        .map_err(sqlite)?;
    match key {
        None => return Err(CommitError::UnknownCertificate),
        // A renewal with the key that it renews would keep a stolen key alive for ever.
        Some(key) if key == new_key => return Err(CommitError::SameKey),
        Some(_) => {}
    }
    if only_if_newest {
        let renewed = connection
            .prepare_cached("SELECT 1 FROM certificate WHERE attestation = ?")
            .and_then(|mut renewed| renewed.exists([format!("svid:{serial}")]))
            .map_err(sqlite)?;
        if renewed {
            return Err(CommitError::Superseded);
        }
    }
    Ok(())
}
