//! What the CA said last, kept over a restart: the policy slice and the revoked identities.

use std::collections::HashSet;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postern_proto::identity::{SpiffeId, SpiffeIdError};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::identity::state_dir::{StateError, StateFile};

const FILE: &str = "subscription.json";
/// The file has at most this many bytes: a slice and a list, each of the size of a message.
const KEPT_BYTES_MAX: u64 = 64 * 1024 * 1024;
const VERSION: u32 = 1;

/// What the CA said last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Kept {
    /// The last good slice as it came; absent until there is one.
    pub(super) slice: Option<Vec<u8>>,
    pub(super) revoked: HashSet<SpiffeId>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    version: u32,
    /// Of slice and list: a file that lost a bit is not a policy.
    digest: String,
    slice: Option<String>,
    revoked: Vec<String>,
}

impl Kept {
    pub(super) fn file(state_dir: &Path) -> StateFile {
        StateFile::new(state_dir, FILE, KEPT_BYTES_MAX)
    }

    pub(super) fn to_json(&self) -> String {
        let mut revoked: Vec<_> = self.revoked.iter().map(SpiffeId::to_string).collect();
        revoked.sort_unstable();
        let slice = self.slice.as_ref().map(|slice| STANDARD.encode(slice));
        let raw = Raw { version: VERSION, digest: digest(slice.as_deref(), &revoked), slice, revoked };
        // Strings and lists of strings have a JSON form, whatever is in them.
        serde_json::to_string(&raw).unwrap_or_default()
    }

    pub(super) fn parse(json: &[u8]) -> Result<Self, KeptError> {
        let Raw { version, digest: written, slice, revoked } = serde_json::from_slice(json)?;
        if version != VERSION {
            return Err(KeptError::Version { version });
        }
        if digest(slice.as_deref(), &revoked) != written {
            return Err(KeptError::Digest);
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

/// Why a kept file is not used.
#[derive(Debug, Error)]
pub(super) enum KeptError {
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
    Slice(#[from] super::slice::TakeError),
}

impl KeptError {
    /// Whether the file itself is at fault, so that it is of no use to anybody.
    pub(super) fn is_of_content(&self) -> bool {
        match self {
            Self::File(error) => error.is_of_content(),
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Kept {
        let ids = ["spiffe://shop.example/a", "spiffe://shop.example/b"];
        Kept {
            slice: Some(vec![1, 2, 3]),
            revoked: ids.iter().map(|id| SpiffeId::parse(id).unwrap()).collect(),
        }
    }

    #[test]
    fn what_is_kept_is_read_back() {
        for kept in [kept(), Kept::default(), Kept { slice: None, ..kept() }] {
            assert_eq!(Kept::parse(kept.to_json().as_bytes()).unwrap(), kept);
        }
    }

    #[test]
    fn no_changed_byte_passes() {
        let json = kept().to_json();
        for at in 0..json.len() {
            let mut bytes = json.clone().into_bytes();
            bytes[at] ^= 1;
            assert!(Kept::parse(&bytes).is_err(), "{}", String::from_utf8_lossy(&bytes));
            assert!(Kept::parse(&json.as_bytes()[..at]).is_err(), "cut at {at}");
        }
    }
}
