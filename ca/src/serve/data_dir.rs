//! The data directory: its owner's alone, and one CA's at a time.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why the directory cannot be used.
#[derive(Debug, Error)]
pub(super) enum DataDirError {
    #[error("another postern-ca uses {}", path.display())]
    InUse { path: PathBuf },
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
        std::fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(io)?;
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
