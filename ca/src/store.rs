//! What must survive: tokens, issuance records, policy versions, revocations and the audit chain, in SQLite. One
//! thread writes, in groups: many commands share one durable transaction.

mod audit_rows;
mod commands;
mod issuance;
mod policies;
mod reads;
mod revocations;
mod schema;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;
use tokio::sync::{Semaphore, mpsc, oneshot};

pub use audit_rows::{AuditEntry, AuditVerdict, Hash, REFUSALS_PER_MINUTE_MAX};
pub use policies::{Applied, ApplyError, NewPolicy, PolicyVersion, StoredPolicy};
pub use reads::{Counts, PAGE_MAX, Page, Query};
pub use revocations::{REVOKED_MAX, Revoked};
use writer::{Command, Effect, Job};

/// Commands that may wait for the writer; whoever has one more waits.
const COMMANDS_WAITING_MAX: usize = 4096;
/// Questions answered at a time, each on a connection of its own; whoever has one more waits.
const READERS_MAX: usize = 4;

/// One issued certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Lower-case hex.
    pub serial: String,
    pub spiffe_id: String,
    /// Of the SubjectPublicKeyInfo, lower-case hex.
    pub key_sha256: String,
    /// `join_token:HASH_PREFIX` or `svid:SERIAL`.
    pub attestation: String,
    /// Unix seconds, as the other times.
    pub not_before: i64,
    pub not_after: i64,
    pub issued_at: i64,
    /// The issuing certificate's serial.
    pub issuer: String,
}

/// A join token as it is kept.
#[derive(Debug, Clone)]
pub struct NewToken {
    pub hash: [u8; 32],
    pub spiffe_id: String,
    /// Unix seconds.
    pub created_at: i64,
    pub expires_at: i64,
    pub uses: u32,
}

/// What must hold for an issuance to be recorded, checked in the same transaction. An issuance for a key that the same
/// token or certificate was used for before is a repeated answer, which `issuance.rs` has the rules of.
#[derive(Debug, Clone)]
pub enum Authorisation {
    /// The token is known, of this identity, in time, and has a use left, which is used up.
    Token { hash: [u8; 32], spiffe_id: String, deadline: RepeatDeadline },
    /// The certificate is on record for this identity, with another key than the new one; if it has expired, it was not
    /// renewed before.
    Svid { serial: String, spiffe_id: String, expired: bool },
}

/// Until when a redemption is answered again for the same key: while the token is in time, or the certificate of the
/// first answer could be renewed.
#[derive(Debug, Clone, Copy)]
pub struct RepeatDeadline {
    /// Unix seconds.
    pub now: i64,
    /// How long after its expiry a certificate can be renewed, in seconds.
    pub grace: i64,
}

/// A refusal for the audit chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Unix seconds.
    pub at: i64,
    /// Who asked: a SPIFFE ID or an address.
    pub subject: String,
    pub reason: String,
}

/// The store does not work.
#[derive(Debug, Clone, Error)]
pub enum StoreError {
    #[error("the store cannot be used: {0}")]
    Sqlite(Arc<rusqlite::Error>),
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: Arc<std::io::Error> },
    #[error("the store was written by a newer version (schema {found}, this version knows {known})")]
    NewerSchema { found: i64, known: i64 },
    #[error("the file is no Postern store")]
    NotAStore,
    #[error("the store is closed")]
    Closed,
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(Arc::new(error))
    }
}

/// Why an issuance is not recorded, and its certificate not released.
#[derive(Debug, Clone, Error)]
pub enum CommitError {
    #[error("this join token is unknown")]
    UnknownToken,
    #[error("this join token is for another identity")]
    TokenOfAnotherId,
    #[error("this join token has expired")]
    TokenExpired,
    #[error("this join token has been used up")]
    TokenUsedUp,
    #[error("this join token certified this key before, and that certificate was renewed; make a new key")]
    KeyRedeemed,
    #[error("the certificate that asks is not on record here")]
    UnknownCertificate,
    #[error("the certificate that asks has expired and was renewed before")]
    Superseded,
    #[error("the CSR has the key of the current certificate; make a new one")]
    SameKey,
    #[error("{id} is revoked: {reason}")]
    Revoked { id: String, reason: String },
    #[error("{REVOKED_MAX} identities are revoked, which is the most there can be; restore some")]
    TooManyRevoked,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A handle to the store; clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    jobs: mpsc::Sender<Job>,
    path: PathBuf,
    readers: Arc<Readers>,
}

#[derive(Debug)]
struct Readers {
    places: Semaphore,
    idle: Mutex<Vec<rusqlite::Connection>>,
}

/// The writer's thread. It ends when the store is closed, or when the last handle is gone.
#[derive(Debug)]
pub struct WriterThread(std::thread::JoinHandle<()>);

impl Store {
    /// Opens the file, or makes it, readable by its owner alone.
    pub fn open(path: &Path) -> Result<(Self, WriterThread), StoreError> {
        let connection = schema::open(path)?;
        let (jobs, waiting) = mpsc::channel(COMMANDS_WAITING_MAX);
        let writer = writer::Writer::new(connection)?;
        let thread =
            std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || writer.run(waiting));
        let thread =
            thread.map_err(|error| StoreError::File { path: path.to_owned(), error: Arc::new(error) })?;
        let readers = Readers { places: Semaphore::new(READERS_MAX), idle: Mutex::default() };
        Ok((Self { jobs, path: path.to_owned(), readers: Arc::new(readers) }, WriterThread(thread)))
    }

    /// Keeps a new token, unless its identity is revoked.
    pub async fn create_token(&self, token: NewToken) -> Result<(), CommitError> {
        self.send(Command::CreateToken(token)).await.map(drop)
    }

    /// Uses up the authorisation, records the issuance and its audit entry, all or nothing; durable when it returns.
    pub async fn commit(&self, authorisation: Authorisation, record: Record) -> Result<(), CommitError> {
        self.send(Command::Commit(Box::new((authorisation, record)))).await.map(drop)
    }

    /// Puts a refusal into the audit chain; a flood of them is counted, not written one by one.
    pub async fn audit_refusal(&self, refused: Refused) -> Result<(), StoreError> {
        self.send(Command::Refused(refused)).await.map(drop).map_err(store_error)
    }

    /// Writes what waits and ends the writer; whoever comes later finds the store closed. Handles may live on in
    /// connections that were cut off, so that waiting for them could take for ever.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.send(Command::Close).await.map(drop).map_err(store_error)
    }

    async fn send(&self, command: Command) -> Result<Effect, CommitError> {
        let (answer, answered) = oneshot::channel();
        let closed = || CommitError::Store(StoreError::Closed);
        self.jobs.send(Job { command, answer }).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }

    /// Reads on a connection of its own, beside the writer, for as long as it takes.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&rusqlite::Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let _place = self.readers.places.acquire().await.map_err(|_| StoreError::Closed)?;
        let (readers, path) = (self.readers.clone(), self.path.clone());
        tokio::task::spawn_blocking(move || readers.read(&path, read))
            .await
            .map_err(|_| StoreError::Closed)?
    }

    /// Reads one row by its key, at once: handing that over to another thread costs more than the row does (measured:
    /// a fifth of a whole issuance).
    async fn look_up<T>(
        &self,
        read: impl FnOnce(&rusqlite::Connection) -> Result<T, rusqlite::Error>,
    ) -> Result<T, StoreError> {
        let _place = self.readers.places.acquire().await.map_err(|_| StoreError::Closed)?;
        self.readers.read(&self.path, read)
    }
}

/// The error of a command that nothing but the store can refuse.
fn store_error(error: CommitError) -> StoreError {
    match error {
        CommitError::Store(error) => error,
        _ => StoreError::Closed,
    }
}

impl Readers {
    fn read<T>(
        &self,
        path: &Path,
        read: impl FnOnce(&rusqlite::Connection) -> Result<T, rusqlite::Error>,
    ) -> Result<T, StoreError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = idle.map_or_else(|| schema::open_for_reading(path), Ok)?;
        let found = read(&connection)?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        Ok(found)
    }
}

impl WriterThread {
    /// Waits until everything is written. Close the store first.
    pub fn join(self) {
        if self.0.join().is_err() {
            tracing::error!("the store's writer panicked");
        }
    }
}

#[cfg(test)]
mod change_tests;
#[cfg(test)]
mod repeat_tests;
#[cfg(test)]
mod tests;
