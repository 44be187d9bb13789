//! The persisted state of the subscription: the last policy slice and the revoked identities.

use std::collections::HashSet;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postern_proto::identity::{SpiffeId, SpiffeIdError};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::identity::state_dir::{StateError, StateFile};

const FILE: &str = "subscription.json";
/// Maximum size of the file, in bytes: a slice and a list, each of the size of a message.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
const VERSION: u32 = 1;

/// The last state that the CA sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PersistedState {
    /// The last valid slice, as received; absent until there is one.
    pub(super) slice: Option<Vec<u8>>,
    pub(super) revoked: HashSet<SpiffeId>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawState {
    version: u32,
    /// Digest of slice and list, which detects a corrupt file.
    digest: String,
    slice: Option<String>,
    revoked: Vec<String>,
}

impl PersistedState {
    pub(super) fn file(state_dir: &Path) -> StateFile {
        StateFile::new(state_dir, FILE, FILE_BYTES_MAX)
    }

    pub(super) fn to_json(&self) -> String {
        let mut revoked: Vec<_> = self.revoked.iter().map(SpiffeId::to_string).collect();
        revoked.sort_unstable();
        let slice = self.slice.as_ref().map(|slice| STANDARD.encode(slice));
        let raw = RawState { version: VERSION, digest: digest(slice.as_deref(), &revoked), slice, revoked };
        // Cannot fail: strings and lists of strings always serialize.
        serde_json::to_string(&raw).unwrap_or_default()
    }

    pub(super) fn parse(json: &[u8]) -> Result<Self, PersistedStateError> {
        let RawState { version, digest: written, slice, revoked } = serde_json::from_slice(json)?;
        if version != VERSION {
            return Err(PersistedStateError::Version { version });
        }
        if digest(slice.as_deref(), &revoked) != written {
            return Err(PersistedStateError::Digest);
        }
        let slice = slice.map(|slice| STANDARD.decode(slice)).transpose()?;
        let revoked: Result<_, _> = revoked.iter().map(|id| SpiffeId::parse(id)).collect();
        Ok(Self { slice, revoked: revoked? })
    }
}

fn digest(slice: Option<&str>, revoked: &[String]) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for part in slice.into_iter().chain(revoked.iter().map(String::as_str)) {
        context.update(part.as_bytes());
        context.update(b"\n");
    }
    STANDARD.encode(context.finish())
}

/// Why a persisted file is not used.
#[derive(Debug, Error)]
pub(super) enum PersistedStateError {
    #[error(transparent)]
    File(#[from] StateError),
    #[error("it is not of the expected form")]
    Form(#[from] serde_json::Error),
    #[error("its version is {version}, not {VERSION}")]
    Version { version: u32 },
    #[error("its content does not have the digest that it says")]
    Digest,
    #[error("its slice is not base64")]
    Base64(#[from] base64::DecodeError),
    #[error("a revoked identity in it is none")]
    Id(#[from] SpiffeIdError),
    #[error("its slice cannot be used")]
    Slice(#[from] super::slice::SliceRejection),
}

impl PersistedStateError {
    /// Whether the content of the file is invalid, so that reading it again cannot succeed.
    pub(super) fn is_invalid_content(&self) -> bool {
        match self {
            Self::File(error) => error.is_invalid_content(),
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn persisted() -> PersistedState {
        let ids = ["spiffe://shop.example/a", "spiffe://shop.example/b"];
        PersistedState {
            slice: Some(vec![1, 2, 3]),
            revoked: ids.iter().map(|id| SpiffeId::parse(id).unwrap()).collect(),
        }
    }

    #[test]
    fn persisted_state_is_read_back() {
        for persisted in
            [persisted(), PersistedState::default(), PersistedState { slice: None, ..persisted() }]
        {
            assert_eq!(PersistedState::parse(persisted.to_json().as_bytes()).unwrap(), persisted);
        }
    }

    #[test]
    fn no_changed_byte_passes() {
        let json = persisted().to_json();
        for at in 0..json.len() {
            let mut bytes = json.clone().into_bytes();
            bytes[at] ^= 1;
            assert!(PersistedState::parse(&bytes).is_err(), "{}", String::from_utf8_lossy(&bytes));
            assert!(PersistedState::parse(&json.as_bytes()[..at]).is_err(), "cut at {at}");
        }
    }
}
