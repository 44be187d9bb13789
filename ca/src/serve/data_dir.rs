//! The data directory: its owner's alone, and one CA's at a time.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use thiserror::Error;
use tracing::warn;

const LOCK: &str = "lock";
/// What a fresh volume holds.
const OF_A_VOLUME: &str = "lost+found";

/// Why the directory cannot be used.
#[derive(Debug, Error)]
pub(super) enum DataDirError {
    #[error("another postern-ca uses {}", path.display())]
    InUse { path: PathBuf },
    #[error("{} is not empty and holds no CA; name a directory of its own", path.display())]
    Foreign { path: PathBuf },
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
        // Somebody else's directory, such as /tmp, is neither closed to others nor filled.
        if !path.join(LOCK).exists() && !is_empty(path).map_err(io)? {
            return Err(DataDirError::Foreign { path: path.to_owned() });
        }
        close_to_others(path).map_err(io)?;
        let lock =
            OpenOptions::new().create(true).append(true).mode(0o600).open(path.join(LOCK)).map_err(io)?;
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

/// A mounted volume may belong to somebody else, who decides about its mode; our files in it are ours alone.
fn close_to_others(dir: &Path) -> io::Result<()> {
    match std::fs::set_permissions(dir, Permissions::from_mode(0o700)) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            warn!(dir = %dir.display(), "the data directory belongs to another user, so it is left as it is");
            Ok(())
        }
        done => done,
    }
}
