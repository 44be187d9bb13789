//! One file of the state directory: mode 0600, limited in size, replaced atomically.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::timeout;
use tracing::warn;
use zeroize::Zeroizing;

use super::StateError;

/// Maximum time that a task waits for the disk.
const DISK_TIMEOUT: Duration = Duration::from_secs(10);

const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
const OTHERS: u32 = 0o077;
const STICKY: u32 = 0o1000;

/// A named file in a directory of mode 0700.
#[derive(Debug, Clone)]
pub(crate) struct StateFile {
    dir: PathBuf,
    name: &'static str,
    bytes_max: u64,
}

impl StateFile {
    pub(crate) fn new(dir: &Path, name: &'static str, bytes_max: u64) -> Self {
        Self { dir: dir.to_owned(), name, bytes_max }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.join(self.name)
    }

    /// Reads the file, if it exists.
    pub(crate) fn read(&self) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
        let path = self.path();
        let unreadable = |cause| StateError::Io { doing: "read", path: path.clone(), cause };
        let opened = match File::open(&path) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(error)),
        };
        let length = opened.metadata().map_err(unreadable)?.len();
        if length > self.bytes_max {
            return Err(StateError::TooLarge { path, bytes_max: self.bytes_max });
        }
        // The capacity is allocated up front: growing the buffer would leave a copy of the key in freed memory.
        let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1));
        opened.take(self.bytes_max).read_to_end(&mut bytes).map_err(unreadable)?;
        Ok(Some(bytes))
    }

    /// Replaces the file atomically: writes a new file in the same directory, flushes it to disk, then renames it.
    pub(crate) fn replace(&self, bytes: &[u8]) -> Result<(), StateError> {
        self.ensure_directory()?;
        let dir = self.lock_directory()?;
        let (file, new) = (self.path(), self.dir.join(format!("{}.new", self.name)));
        let failed = |doing| {
            let path = new.clone();
            move |cause| StateError::Io { doing, path, cause }
        };
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("replace")(error)),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let mut opened =
            options.write(true).create_new(true).mode(FILE_MODE).open(&new).map_err(failed("create"))?;
        opened.write_all(bytes).map_err(failed("write"))?;
        opened.sync_all().map_err(failed("flush"))?;
        fs::rename(&new, &file).map_err(failed("rename"))?;
        dir.sync_all().map_err(failed("flush the directory of"))
    }

    /// Removes the file, if it exists.
    pub(crate) fn remove(&self) -> Result<(), StateError> {
        let path = self.path();
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(|cause| StateError::Io { doing: "remove", path, cause }),
        }
    }

    /// Renames an unusable file so that an operator can inspect it; returns the new path.
    pub(crate) fn set_aside(&self) -> Result<PathBuf, StateError> {
        let (path, aside) = (self.path(), self.dir.join(format!("{}.damaged", self.name)));
        fs::rename(&path, &aside).map_err(|cause| StateError::Io { doing: "set aside", path, cause })?;
        Ok(aside)
    }

    /// Locks the directory. At a restart two processes of one workload overlap and use the same temporary file name.
    fn lock_directory(&self) -> Result<File, StateError> {
        let dir = File::open(&self.dir).map_err(|cause| StateError::Io {
            doing: "open",
            path: self.dir.clone(),
            cause,
        })?;
        if let Err(error) = dir.lock() {
            // Some file systems cannot lock directories (NFS). A file damaged by a collision is set aside at startup.
            warn!(dir = %self.dir.display(), %error, "the state directory cannot be locked");
        }
        Ok(dir)
    }

    /// Creates the directory, or removes the access of other users. A directory with the sticky bit is refused.
    fn ensure_directory(&self) -> Result<(), StateError> {
        let failed = |cause| StateError::Io { doing: "prepare", path: self.dir.clone(), cause };
        DirBuilder::new().recursive(true).mode(DIR_MODE).create(&self.dir).map_err(failed)?;
        let mode = fs::metadata(&self.dir).map_err(failed)?.permissions().mode();
        if mode & STICKY != 0 {
            return Err(StateError::Shared { path: self.dir.clone() });
        }
        if mode & OTHERS == 0 {
            return Ok(());
        }
        fs::set_permissions(&self.dir, Permissions::from_mode(DIR_MODE)).map_err(failed)
    }
}

/// Runs file operations outside the runtime's worker threads. A hanging disk blocks a caller for at most
/// [`DISK_TIMEOUT`].
pub(crate) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StateError> + Send + 'static,
) -> Result<T, StateError> {
    let failed = |cause| StateError::Io { doing: "work on", path: "the state directory".into(), cause };
    match timeout(DISK_TIMEOUT, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(done)) => done,
        Ok(Err(panicked)) => Err(failed(io::Error::other(panicked))),
        Err(late) => Err(failed(io::Error::from(late))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn concurrent_replacements_never_leave_a_partial_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = || StateFile::new(dir.path(), "state.json", 1024 * 1024);
        let write = |byte: u8| {
            let file = file();
            move || (0..50).for_each(|_| file.replace(&[byte; 100_000]).unwrap())
        };
        std::thread::scope(|scope| {
            let writers = [scope.spawn(write(b'a')), scope.spawn(write(b'b'))];
            while writers.iter().any(|writer| !writer.is_finished()) {
                let Some(found) = file().read().unwrap() else { continue };
                assert_eq!(found.len(), 100_000);
                assert!(found.iter().all(|byte| *byte == found[0]));
            }
        });
    }
}
