//! Key, chain and bundles kept over a restart, so that the CA may be away meanwhile: one file, replaced whole.

use std::io;
use std::path::PathBuf;

use postern_proto::identity::{Svid, SvidError, TrustBundles, VerifyError};
use thiserror::Error;
use time::OffsetDateTime;

pub(crate) use file::{StateFile, off_thread};
use stored::Stored;
pub use stored::StoredError;

mod file;
mod stored;

/// A directory of mode 0700 with a file of mode 0600.
#[derive(Debug, Clone)]
pub struct StateDir(StateFile);

/// An identity from before the restart. It may have expired; then it is good for renewing only.
#[derive(Debug)]
pub struct Kept {
    pub svid: Svid,
    pub bundles: TrustBundles,
}

impl StateDir {
    pub fn new(dir: PathBuf) -> Self {
        Self(StateFile::new(&dir, FILE, STATE_BYTES_MAX))
    }

    /// What was kept, if anything was.
    pub fn load(&self, now: OffsetDateTime) -> Result<Option<Kept>, StateError> {
        let Some(bytes) = self.0.read()? else { return Ok(None) };
        let file = self.0.path();
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

    /// Keeps an identity in place of the older.
    pub fn save(&self, svid: &Svid, bundles: &TrustBundles) -> Result<(), StateError> {
        self.0.replace(Stored::new(svid, bundles).to_json().as_bytes())
    }

    /// Puts what is unusable out of the way, where an operator can look at it, and says where.
    pub fn set_aside(&self) -> Result<PathBuf, StateError> {
        self.0.set_aside()
    }
}

const FILE: &str = "identity.json";

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
    #[error("{} has more than the {bytes_max} bytes allowed", path.display())]
    TooLarge { path: PathBuf, bytes_max: u64 },
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
