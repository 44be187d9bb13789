//! The join token's string: what an operator hands a workload so that it can enrol once.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::identity::{BundlePin, BundlePinError, SpiffeId, SpiffeIdError};

/// A join token's string has at most this many bytes.
pub const JOIN_TOKEN_BYTES_MAX: usize = 4096;

const PREFIX: &str = "postern-join-1";
const SECRET_BYTES: usize = 32;

/// `postern-join-1:TRUST_DOMAIN/PATH:PIN:SECRET`, pin and secret in URL-safe base64. It names the identity it is
/// good for and the bundle of the CA that made it, so enrolling needs no second secret and trusts nobody blindly.
#[derive(Clone)]
pub struct JoinToken {
    id: SpiffeId,
    pin: BundlePin,
    secret: Zeroizing<[u8; SECRET_BYTES]>,
}

impl JoinToken {
    /// Puts a token together; `secret` must come from a cryptographic random source.
    pub fn new(id: SpiffeId, pin: BundlePin, secret: [u8; SECRET_BYTES]) -> Self {
        Self { id, pin, secret: Zeroizing::new(secret) }
    }

    /// Reads the string; white space around it, as files and shells leave it, does not count.
    pub fn parse(text: &str) -> Result<Self, JoinTokenError> {
        let text = text.trim();
        if text.len() > JOIN_TOKEN_BYTES_MAX {
            return Err(JoinTokenError::TooLong { bytes: text.len() });
        }
        let mut parts = text.split(':');
        let (Some(PREFIX), Some(id), Some(pin), Some(secret), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(JoinTokenError::Form);
        };
        let secret = Zeroizing::new(URL_SAFE_NO_PAD.decode(secret).map_err(|_| JoinTokenError::Secret)?);
        Ok(Self {
            id: SpiffeId::parse_canonical(&format!("spiffe://{id}"))?,
            pin: BundlePin::from_base64url(pin)?,
            secret: Zeroizing::new(secret.as_slice().try_into().map_err(|_| JoinTokenError::Secret)?),
        })
    }

    /// The one identity it is good for.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The bundle of the CA that made it.
    pub fn pin(&self) -> BundlePin {
        self.pin
    }

    /// What the CA compares, by hash only.
    pub fn secret(&self) -> &[u8] {
        self.secret.as_slice()
    }

    /// The whole string. It is a secret: for the operator's eyes and the CA's wire only.
    pub fn reveal(&self) -> Zeroizing<String> {
        let id = self.id.as_str().trim_start_matches("spiffe://");
        let pin = self.pin.to_base64url();
        Zeroizing::new(format!("{PREFIX}:{id}:{pin}:{}", URL_SAFE_NO_PAD.encode(self.secret.as_slice())))
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({}, pin {}, secret hidden)", self.id, self.pin)
    }
}

/// Why a text is no join token. It never repeats the text, which may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum JoinTokenError {
    /// More than [`JOIN_TOKEN_BYTES_MAX`].
    #[error("join token has {bytes} bytes, more than the {JOIN_TOKEN_BYTES_MAX} allowed")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// Not four parts, or another prefix.
    #[error("join token is not of the form {PREFIX}:TRUST_DOMAIN/PATH:PIN:SECRET")]
    Form,
    /// The second part.
    #[error("join token names no SPIFFE ID")]
    Id(#[from] SpiffeIdError),
    /// The third part.
    #[error("join token has no bundle pin")]
    Pin(#[from] BundlePinError),
    /// The last part.
    #[error("join token's secret is not {SECRET_BYTES} bytes of URL-safe base64")]
    Secret,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        let id = SpiffeId::parse("spiffe://shop.example/orders").unwrap();
        JoinToken::new(id, BundlePin::from_base64url(&URL_SAFE_NO_PAD.encode([7; 32])).unwrap(), [9; 32])
    }

    #[test]
    fn what_is_revealed_is_read_back() {
        let text = token().reveal();
        let read = JoinToken::parse(&format!("  {}\n", text.as_str())).unwrap();
        assert_eq!(read.id(), token().id());
        assert_eq!(read.pin(), token().pin());
        assert_eq!(read.secret(), token().secret());
    }

    #[test]
    fn debug_output_hides_the_secret() {
        let shown = format!("{:?}", token());
        assert!(!shown.contains(&URL_SAFE_NO_PAD.encode([9; 32])) && shown.contains("hidden"), "{shown}");
    }

    #[test]
    fn every_broken_part_has_its_own_error() {
        let good = token().reveal();
        let parts: Vec<_> = good.split(':').collect();
        let with = |at: usize, text: &str| {
            let mut parts = parts.clone();
            parts[at] = text;
            JoinToken::parse(&parts.join(":")).unwrap_err()
        };
        assert_eq!(with(0, "postern-join-2"), JoinTokenError::Form);
        assert!(matches!(with(1, "Shop.example/orders"), JoinTokenError::Id(_)));
        assert!(matches!(with(2, "AAAA"), JoinTokenError::Pin(_)));
        assert_eq!(with(3, "AAAA"), JoinTokenError::Secret);
        assert_eq!(JoinToken::parse(&format!("{}:x", good.as_str())).unwrap_err(), JoinTokenError::Form);
        let long = "x".repeat(JOIN_TOKEN_BYTES_MAX + 1);
        assert_eq!(JoinToken::parse(&long).unwrap_err(), JoinTokenError::TooLong { bytes: long.len() });
    }
}
