//! The tables, by version.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::StoreError;

/// Marks the file as ours ("PSTN").
const APPLICATION_ID: i64 = 0x5053_544e;
/// How long a connection waits for another's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Each brings the schema one version further.
const MIGRATIONS: [&str; 3] = [
    "
    CREATE TABLE token (
        hash BLOB PRIMARY KEY,
        spiffe_id TEXT NOT NULL,
        expires_at INTEGER NOT NULL,
        uses_left INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE certificate (
        number INTEGER PRIMARY KEY,
        serial TEXT NOT NULL UNIQUE,
        spiffe_id TEXT NOT NULL,
        key_sha256 TEXT NOT NULL,
        attestation TEXT NOT NULL,
        not_before INTEGER NOT NULL,
        not_after INTEGER NOT NULL,
        issued_at INTEGER NOT NULL,
        issuer TEXT NOT NULL
    ) STRICT;
    CREATE INDEX certificate_by_id ON certificate (spiffe_id, number);
    CREATE INDEX certificate_by_renewed ON certificate (attestation);
    CREATE TABLE audit (
        number INTEGER PRIMARY KEY,
        at INTEGER NOT NULL,
        decision TEXT NOT NULL,
        subject TEXT NOT NULL,
        detail TEXT NOT NULL,
        hash BLOB NOT NULL
    ) STRICT;
",
    "
    CREATE TABLE policy_versions (
        number INTEGER PRIMARY KEY,
        text TEXT NOT NULL,
        digest TEXT NOT NULL,
        file TEXT NOT NULL,
        author TEXT NOT NULL,
        at INTEGER NOT NULL,
        comment TEXT NOT NULL
    ) STRICT;
    CREATE TABLE revoked (
        id TEXT PRIMARY KEY,
        reason TEXT NOT NULL,
        author TEXT NOT NULL,
        at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
",
    "
    ALTER TABLE certificate ADD COLUMN repeats INTEGER;
    ALTER TABLE certificate ADD COLUMN renews INTEGER;
    UPDATE certificate SET renews =
        (SELECT of.number FROM certificate AS of WHERE of.serial = substr(certificate.attestation, 6))
        WHERE attestation LIKE 'svid:%';
    DROP INDEX certificate_by_renewed;
    CREATE INDEX certificate_by_renewed ON certificate (renews, key_sha256) WHERE renews IS NOT NULL;
    CREATE TABLE redemption (
        token BLOB NOT NULL,
        key_sha256 TEXT NOT NULL,
        first INTEGER NOT NULL,
        PRIMARY KEY (token, key_sha256)
    ) STRICT, WITHOUT ROWID;
",
];

/// Opens for writing: write-ahead log, every commit synced to disk.
pub(super) fn open(path: &Path) -> Result<Connection, StoreError> {
    let file = |error| StoreError::File { path: path.to_owned(), error: Arc::new(error) };
    // SQLite would make the file with the process's umask.
    OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(file)?;
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    migrate(&mut connection)?;
    Ok(connection)
}

/// Opens beside the writer.
pub(super) fn open_for_reading(path: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let pragma = |connection: &Connection, name: &str| {
        connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0))
    };
    let (found, application) = (pragma(connection, "user_version")?, pragma(connection, "application_id")?);
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application != APPLICATION_ID && (tables > 0 || found > 0) {
        return Err(StoreError::NotAStore);
    }
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    if found > known {
        return Err(StoreError::NewerSchema { found, known });
    }
    let transaction = connection.transaction()?;
    for migration in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or(0)) {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "user_version", known)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.commit()?;
    Ok(())
}
