//! The data directory: its owner's alone, and one CA's at a time.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use thiserror::Error;
use tracing::warn;

const WRITABLE_BY_ALL: u32 = 0o002;
/// What a fresh volume holds.
const OF_A_VOLUME: &str = "lost+found";

/// Why the directory cannot be used.
#[derive(Debug, Error)]
pub(super) enum DataDirError {
    #[error("another postern-ca uses {}", path.display())]
    InUse { path: PathBuf },
    #[error("everybody can write to {}; name a directory of the CA's own", path.display())]
    Open { path: PathBuf },
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
}

/// An open data directory. It is free again when this is dropped, and also when the process dies.
#[derive(Debug)]
pub(super) struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    pub(super) fn open(path: &Path) -> Result<Self, DataDirError> {
        let io = |error| DataDirError::Io { path: path.to_owned(), error };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io)?;
        if is_empty(path).map_err(io)? {
            close_to_others(path).map_err(io)?;
        } else if std::fs::metadata(path).map_err(io)?.permissions().mode() & WRITABLE_BY_ALL != 0 {
            return Err(DataDirError::Open { path: path.to_owned() });
        }
        let lock =
            OpenOptions::new().create(true).append(true).mode(0o600).open(path.join("lock")).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(DataDirError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => Err(io(error)),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

fn is_empty(dir: &Path) -> io::Result<bool> {
    for entry in std::fs::read_dir(dir)? {
        if entry?.file_name() != OF_A_VOLUME {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Only an empty directory: one with other things in it, such as /etc, is not ours to close. What we put there is closed
/// by itself. A mounted volume may belong to somebody else, who decides about its mode; our files in it are ours alone.
fn close_to_others(dir: &Path) -> io::Result<()> {
    match std::fs::set_permissions(dir, Permissions::from_mode(0o700)) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            warn!(dir = %dir.display(), "the data directory belongs to another user, so it is left as it is");
            Ok(())
        }
        done => done,
    }
}
