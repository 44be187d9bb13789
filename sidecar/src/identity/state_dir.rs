//! The state directory, which persists across restarts: key, chain and bundles, so that a restart does not need the CA;
//! and the key of a pending request. Each file is replaced atomically.

use std::io;
use std::path::PathBuf;

use postern_proto::identity::{PrivateKey, SpiffeId, Svid, SvidError, TrustBundles, VerifyError};
use thiserror::Error;
use time::OffsetDateTime;

pub(crate) use file::{StateFile, run_blocking};
use pending_request::StoredRequest;
pub use stored_identity::StateFormatError;
use stored_identity::StoredIdentity;

mod file;
mod pending_request;
mod stored_identity;

/// The state directory, mode 0700, with files of mode 0600.
#[derive(Debug, Clone)]
pub struct StateDir {
    identity: StateFile,
    pending_request: StateFile,
}

/// An identity from before the restart. It may have expired; then it can only be used for renewal.
#[derive(Debug)]
pub struct PersistedIdentity {
    pub svid: Svid,
    pub bundles: TrustBundles,
}

/// The key of a request that was pending before the restart, and the requested identity.
#[derive(Debug)]
pub struct PersistedRequest {
    pub id: SpiffeId,
    pub key: PrivateKey,
}

impl StateDir {
    pub fn new(dir: PathBuf) -> Self {
        Self {
            identity: StateFile::new(&dir, FILE, STATE_BYTES_MAX),
            pending_request: StateFile::new(&dir, REQUEST_FILE, REQUEST_BYTES_MAX),
        }
    }

    /// Loads the persisted identity, if there is one.
    pub fn load(&self, now: OffsetDateTime) -> Result<Option<PersistedIdentity>, StateError> {
        let Some(bytes) = self.identity.read()? else { return Ok(None) };
        let file = self.identity.path();
        let damaged = |cause| StateError::Damaged { path: file.clone(), cause };
        let (chain, key, bundles) =
            StoredIdentity::parse(&bytes).and_then(StoredIdentity::into_parts).map_err(damaged)?;
        let svid = match Svid::new(chain.clone(), key.clone(), &bundles, now) {
            // Verify at the limit of its validity instead: it will be renewed, or used once the clock is set.
            Err(SvidError::Chain(
                VerifyError::Expired { not_after: edge, .. }
                | VerifyError::NotYetValid { not_before: edge, .. },
            )) => Svid::new(chain, key, &bundles, edge),
            verified => verified,
        };
        let svid = svid.map_err(|cause| StateError::Mismatched { path: file.clone(), cause })?;
        Ok(Some(PersistedIdentity { svid, bundles }))
    }

    /// Saves an identity and replaces the older one.
    pub fn save(&self, svid: &Svid, bundles: &TrustBundles) -> Result<(), StateError> {
        self.identity.replace(StoredIdentity::new(svid, bundles).to_json().as_bytes())
    }

    /// Loads the pending request, if there is one.
    pub fn load_pending_request(&self) -> Result<Option<PersistedRequest>, StateError> {
        let Some(bytes) = self.pending_request.read()? else { return Ok(None) };
        let damaged = |cause| StateError::Damaged { path: self.pending_request.path(), cause };
        StoredRequest::parse(&bytes).map(Some).map_err(damaged)
    }

    /// Saves the key of a request before the request is sent.
    pub fn save_pending_request(&self, id: &SpiffeId, key: &PrivateKey) -> Result<(), StateError> {
        self.pending_request.replace(StoredRequest::new(id, key).to_json().as_bytes())
    }

    /// Removes the pending request after its response has arrived.
    pub fn remove_pending_request(&self) -> Result<(), StateError> {
        self.pending_request.remove()
    }

    /// Renames an unusable file so that an operator can inspect it; returns the new path.
    pub fn set_aside(&self) -> Result<PathBuf, StateError> {
        self.identity.set_aside()
    }
}

const FILE: &str = "identity.json";
const REQUEST_FILE: &str = "unanswered.json";

/// Maximum size of a request file, which holds an ID and a key, in bytes.
const REQUEST_BYTES_MAX: u64 = 16 * 1024;

/// Maximum size of an identity file, in bytes.
pub const STATE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Why a state file could not be read or written.
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
        cause: StateFormatError,
    },
    #[error("{} holds no identity", path.display())]
    Mismatched {
        path: PathBuf,
        #[source]
        cause: SvidError,
    },
}

impl StateError {
    /// Whether the content of the file is invalid, so that reading it again cannot succeed.
    pub fn is_invalid_content(&self) -> bool {
        matches!(self, Self::TooLarge { .. } | Self::Damaged { .. } | Self::Mismatched { .. })
    }
}
