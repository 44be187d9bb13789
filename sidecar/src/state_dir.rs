//! Key, chain and bundles kept over a restart, so that the CA may be away meanwhile: one file, replaced whole.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::PathBuf;

use postern_proto::identity::{Svid, SvidError, TrustBundles, VerifyError};
use thiserror::Error;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use stored::Stored;
pub use stored::StoredError;

mod stored;

/// A directory of mode 0700 with a file of mode 0600.
#[derive(Debug, Clone)]
pub struct StateDir(PathBuf);

/// An identity from before the restart. It may have expired; then it is good for renewing only.
#[derive(Debug)]
pub struct Kept {
    pub svid: Svid,
    pub bundles: TrustBundles,
}

impl StateDir {
    pub fn new(dir: PathBuf) -> Self {
        Self(dir)
    }

    /// What was kept, if anything was.
    pub fn load(&self, now: OffsetDateTime) -> Result<Option<Kept>, StateError> {
        let file = self.file();
        let unreadable = |cause| StateError::Io { doing: "read", path: file.clone(), cause };
        let opened = match File::open(&file) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(error)),
        };
        let length = opened.metadata().map_err(unreadable)?.len();
        if length > STATE_BYTES_MAX {
            return Err(StateError::TooLarge { path: file });
        }
        // All of its capacity is there from the start, so that no copy of the key is left behind when it grows.
        let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1));
        opened.take(STATE_BYTES_MAX).read_to_end(&mut bytes).map_err(unreadable)?;
        let damaged = |cause| StateError::Damaged { path: file.clone(), cause };
        let (chain, key, bundles) = Stored::parse(&bytes).and_then(Stored::into_parts).map_err(damaged)?;
        let svid = match Svid::new(chain.clone(), key.clone(), &bundles, now) {
            // Judged at the edge of its life instead: it will be renewed, or wait for the clock to be set.
            Err(SvidError::Chain(
                VerifyError::Expired { not_after: edge, .. }
                | VerifyError::NotYetValid { not_before: edge, .. },
            )) => Svid::new(chain, key, &bundles, edge),
            judged => judged,
        };
        let svid = svid.map_err(|cause| StateError::Mismatched { path: file.clone(), cause })?;
        Ok(Some(Kept { svid, bundles }))
    }

    /// Keeps an identity: written beside, flushed to the disk, and only then put in place of the older.
    pub fn save(&self, svid: &Svid, bundles: &TrustBundles) -> Result<(), StateError> {
        self.prepare()?;
        let (file, new) = (self.file(), self.0.join(NEW_FILE));
        let failed = |doing| {
            let path = new.clone();
            move |cause| StateError::Io { doing, path, cause }
        };
        let text = Stored::new(svid, bundles).to_json();
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("replace")(error)),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let mut opened =
            options.write(true).create_new(true).mode(FILE_MODE).open(&new).map_err(failed("create"))?;
        opened.write_all(text.as_bytes()).map_err(failed("write"))?;
        opened.sync_all().map_err(failed("flush"))?;
        fs::rename(&new, &file).map_err(failed("rename"))?;
        File::open(&self.0).and_then(|dir| dir.sync_all()).map_err(failed("flush the directory of"))
    }

    /// Puts what is unusable out of the way, where an operator can look at it, and says where.
    pub fn set_aside(&self) -> Result<PathBuf, StateError> {
        let aside = self.0.join(ASIDE_FILE);
        let path = self.file();
        fs::rename(&path, &aside).map_err(|cause| StateError::Io { doing: "set aside", path, cause })?;
        Ok(aside)
    }

    /// Makes the directory, or takes the access of others to it away; one that everybody shares is refused.
    fn prepare(&self) -> Result<(), StateError> {
        let failed = |cause| StateError::Io { doing: "prepare", path: self.0.clone(), cause };
        DirBuilder::new().recursive(true).mode(DIR_MODE).create(&self.0).map_err(failed)?;
        let mode = fs::metadata(&self.0).map_err(failed)?.permissions().mode();
        if mode & STICKY != 0 {
            return Err(StateError::Shared { path: self.0.clone() });
        }
        if mode & OTHERS == 0 {
            return Ok(());
        }
        fs::set_permissions(&self.0, Permissions::from_mode(DIR_MODE)).map_err(failed)
    }

    fn file(&self) -> PathBuf {
        self.0.join(FILE)
    }
}

const FILE: &str = "identity.json";
const NEW_FILE: &str = "identity.json.new";
const ASIDE_FILE: &str = "identity.json.damaged";

const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
const OTHERS: u32 = 0o077;
const STICKY: u32 = 0o1000;

/// A state file has at most this many bytes.
pub const STATE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Why nothing could be read or kept.
#[derive(Debug, Error)]
pub enum StateError {
    #[error("cannot {doing} {}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{} is shared with every user of this machine (it has the sticky bit); give a directory of its own", path.display())]
    Shared { path: PathBuf },
    #[error("{} has more than the {STATE_BYTES_MAX} bytes allowed", path.display())]
    TooLarge { path: PathBuf },
    #[error("{} is damaged", path.display())]
    Damaged {
        path: PathBuf,
        #[source]
        cause: StoredError,
    },
    #[error("{} holds no identity", path.display())]
    Mismatched {
        path: PathBuf,
        #[source]
        cause: SvidError,
    },
}

impl StateError {
    /// Whether the file itself is at fault, so that it is of no use to anybody.
    pub fn is_of_content(&self) -> bool {
        matches!(self, Self::TooLarge { .. } | Self::Damaged { .. } | Self::Mismatched { .. })
    }
}
