//! What a single command does within the writer's transaction. Each checks before it changes anything.

use rusqlite::{Connection, params};

use super::audit_rows::Chain;
use super::writer::{Command, Effect};
use super::{CommitError, NewToken, StoreError};
use super::{issuance, policies, revocations};

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
        Command::Commit(grant) => issuance::commit(connection, chain, &grant.0, &grant.1)?,
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
