//! What is kept over a restart, each in a file that is replaced whole: key, chain and bundles, so that the CA may be away
//! meanwhile; and the key of a request that has no answer yet.

use std::io;
use std::path::PathBuf;

use postern_proto::identity::{PrivateKey, SpiffeId, Svid, SvidError, TrustBundles, VerifyError};
use thiserror::Error;
use time::OffsetDateTime;

pub(crate) use file::{StateFile, off_thread};
use stored::Stored;
pub use stored::StoredError;
use unanswered::StoredRequest;

mod file;
mod stored;
mod unanswered;

/// A directory of mode 0700 with files of mode 0600.
#[derive(Debug, Clone)]
pub struct StateDir {
    identity: StateFile,
    unanswered: StateFile,
}

/// An identity from before the restart. It may have expired; then it is good for renewing only.
#[derive(Debug)]
pub struct Kept {
    pub svid: Svid,
    pub bundles: TrustBundles,
}

/// The key of a request that had no answer before the restart, and the identity that was asked for.
#[derive(Debug)]
pub struct KeptRequest {
    pub id: SpiffeId,
    pub key: PrivateKey,
}

impl StateDir {
    pub fn new(dir: PathBuf) -> Self {
        Self {
            identity: StateFile::new(&dir, FILE, STATE_BYTES_MAX),
            unanswered: StateFile::new(&dir, REQUEST_FILE, REQUEST_BYTES_MAX),
        }
    }

    /// What was kept, if anything was.
    pub fn load(&self, now: OffsetDateTime) -> Result<Option<Kept>, StateError> {
        let Some(bytes) = self.identity.read()? else { return Ok(None) };
        let file = self.identity.path();
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
        self.identity.replace(Stored::new(svid, bundles).to_json().as_bytes())
    }

    /// The request that had no answer, if one was kept.
    pub fn load_unanswered(&self) -> Result<Option<KeptRequest>, StateError> {
        let Some(bytes) = self.unanswered.read()? else { return Ok(None) };
        let damaged = |cause| StateError::Damaged { path: self.unanswered.path(), cause };
        StoredRequest::parse(&bytes).map(Some).map_err(damaged)
    }

    /// Keeps the key of a request before it is sent.
    pub fn save_unanswered(&self, id: &SpiffeId, key: &PrivateKey) -> Result<(), StateError> {
        self.unanswered.replace(StoredRequest::new(id, key).to_json().as_bytes())
    }

    /// Forgets the request, which is answered.
    pub fn remove_unanswered(&self) -> Result<(), StateError> {
        self.unanswered.remove()
    }

    /// Puts what is unusable out of the way, where an operator can look at it, and says where.
    pub fn set_aside(&self) -> Result<PathBuf, StateError> {
        self.identity.set_aside()
    }
}

const FILE: &str = "identity.json";
const REQUEST_FILE: &str = "unanswered.json";

/// A kept request, which is an ID and a key, has at most this many bytes.
const REQUEST_BYTES_MAX: u64 = 16 * 1024;

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
