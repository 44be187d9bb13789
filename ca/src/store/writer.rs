//! The one writer: takes what waits, does it in one transaction, and answers when that is on disk.

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::audit_rows::Chain;
use super::policies::{Applied, ApplyError, NewPolicy};
use super::revocations::Revoked;
use super::{Authorisation, CommitError, NewToken, Record, Refused, StoreError, commands};

/// At most so many commands share a transaction.
const GROUP_MAX: usize = 512;

#[derive(Debug)]
pub(super) enum Command {
    CreateToken(NewToken),
    Commit(Box<(Authorisation, Record)>),
    Refused(Refused),
    ApplyPolicy {
        policy: Box<NewPolicy>,
        expect_version: Option<u64>,
    },
    Revoke(Revoked),
    Restore {
        id: String,
        author: String,
        at: i64,
    },
    /// Nothing comes after it.
    Close,
}

/// What a command did.
#[derive(Debug)]
pub(super) enum Effect {
    Done,
    /// All was so already.
    Unchanged,
    Policy(Result<Applied, ApplyError>),
}

/// A command and who waits for it.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) command: Command,
    pub(super) answer: oneshot::Sender<Result<Effect, CommitError>>,
}

#[derive(Debug)]
pub(super) struct Writer {
    connection: Connection,
    chain: Chain,
}

impl Writer {
    pub(super) fn new(connection: Connection) -> Result<Self, StoreError> {
        connection.set_prepared_statement_cache_capacity(32);
        let chain = Chain::continue_from(&connection)?;
        Ok(Self { connection, chain })
    }

    /// Works until it is told to close, or the last handle is gone.
    pub(super) fn run(mut self, mut waiting: mpsc::Receiver<Job>) {
        let mut group = Vec::with_capacity(GROUP_MAX);
        while waiting.blocking_recv_many(&mut group, GROUP_MAX) > 0 {
            let last = group.iter().any(|job| matches!(job.command, Command::Close));
            self.work(&mut group);
            if last {
                return;
            }
        }
    }

    fn work(&mut self, group: &mut Vec<Job>) {
        let before = self.chain.clone();
        let (commands, answers): (Vec<_>, Vec<_>) =
            group.drain(..).map(|job| (job.command, job.answer)).unzip();
        let results = match self.transaction(&commands) {
            Ok(results) => results,
            Err(error) => {
                // Nothing of the group is on disk, so nobody is told otherwise.
                self.chain = before;
                commands.iter().map(|_| Err(CommitError::Store(error.clone()))).collect()
            }
        };
        for (answer, result) in answers.into_iter().zip(results) {
            // Whoever no longer waits has lost an answer, not its effect.
            let _gone = answer.send(result);
        }
    }

    /// Each command is whole or without effect; the group is durable as one.
    fn transaction(&mut self, commands: &[Command]) -> Result<Vec<Result<Effect, CommitError>>, StoreError> {
        let transaction = self.connection.transaction()?;
        let mut results = Vec::with_capacity(commands.len());
        for command in commands {
            let result = commands::execute(&transaction, &mut self.chain, command);
            // A command that fails has changed nothing; only a broken store takes the others with it.
            if let Err(CommitError::Store(error)) = result {
                return Err(error);
            }
            results.push(result);
        }
        transaction.commit()?;
        Ok(results)
    }
}
