//! The format of the file of the pending request: JSON with the key in base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postern_proto::identity::{PrivateKey, SpiffeId};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::PersistedRequest;
use super::stored_identity::{StateFormatError, VERSION};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoredRequest {
    version: u32,
    id: String,
    /// PKCS#8.
    key: Zeroizing<String>,
}

impl StoredRequest {
    pub(super) fn new(id: &SpiffeId, key: &PrivateKey) -> Self {
        let key = Zeroizing::new(STANDARD.encode(key.der().secret_der()));
        Self { version: VERSION, id: id.to_string(), key }
    }

    pub(super) fn to_json(&self) -> Zeroizing<String> {
        // Cannot fail: strings always serialize.
        Zeroizing::new(serde_json::to_string(self).unwrap_or_default())
    }

    pub(super) fn parse(json: &[u8]) -> Result<PersistedRequest, StateFormatError> {
        let stored: Self = serde_json::from_slice(json)
            .map_err(|error| StateFormatError::Form { line: error.line(), column: error.column() })?;
        if stored.version != VERSION {
            return Err(StateFormatError::Version { version: stored.version });
        }
        let key = STANDARD.decode(stored.key.as_bytes()).map_err(|_| StateFormatError::Base64)?;
        Ok(PersistedRequest { id: SpiffeId::parse(&stored.id)?, key: PrivateKey::from_pkcs8(key) })
    }
}
