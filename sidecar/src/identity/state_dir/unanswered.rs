//! The form of the kept request: JSON with the key in base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postern_proto::identity::{PrivateKey, SpiffeId};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::KeptRequest;
use super::stored::{StoredError, VERSION};

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
        // Strings have a JSON form, whatever is in them.
        Zeroizing::new(serde_json::to_string(self).unwrap_or_default())
    }

    pub(super) fn parse(json: &[u8]) -> Result<KeptRequest, StoredError> {
        let stored: Self = serde_json::from_slice(json)
            .map_err(|error| StoredError::Form { line: error.line(), column: error.column() })?;
        if stored.version != VERSION {
            return Err(StoredError::Version { version: stored.version });
        }
        let key = STANDARD.decode(stored.key.as_bytes()).map_err(|_| StoredError::Base64)?;
        Ok(KeptRequest { id: SpiffeId::parse(&stored.id)?, key: PrivateKey::from_pkcs8(key) })
    }
}
