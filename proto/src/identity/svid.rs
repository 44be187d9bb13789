//! An X509-SVID with its private key: the identity a program holds itself.

use std::fmt;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use thiserror::Error;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::{SpiffeId, TrustBundles, VerifiedSvid, VerifyError, verify};

/// A private key in PKCS#8, SEC1 or PKCS#1 DER. It never shows itself and is wiped when dropped.
pub struct PrivateKey(Zeroizing<PrivateKeyDer<'static>>);

impl PrivateKey {
    /// Takes PKCS#8 DER; whether it is a usable key shows when it is used.
    pub fn from_pkcs8(der: Vec<u8>) -> Self {
        Self(Zeroizing::new(PrivatePkcs8KeyDer::from(der).into()))
    }

    /// Reads the one unencrypted private key of a PEM text: PKCS#8 (RFC 5958), SEC1 (RFC 5915) or PKCS#1 (RFC 8017).
    pub fn from_pem(pem: &[u8]) -> Result<Self, PrivateKeyError> {
        let mut keys = PrivateKeyDer::pem_slice_iter(pem).map(|key| key.map(Zeroizing::new));
        match (keys.next(), keys.next()) {
            (None, _) => Err(PrivateKeyError::None),
            (Some(Ok(key)), None) => Ok(Self(key)),
            (Some(Ok(_)), Some(Ok(_))) => Err(PrivateKeyError::Several),
            (Some(Err(_)), _) | (_, Some(Err(_))) => Err(PrivateKeyError::Pem),
        }
    }

    /// The key for a TLS configuration or a signature.
    pub fn der(&self) -> &PrivateKeyDer<'static> {
        &self.0
    }
}

impl Clone for PrivateKey {
    fn clone(&self) -> Self {
        Self(Zeroizing::new(self.0.clone_key()))
    }
}

/// Why a text holds no private key. It never repeats the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PrivateKeyError {
    /// No block of a kind that is known; an encrypted key is not.
    #[error("no unencrypted private key found")]
    None,
    /// Which one is meant is anyone's guess.
    #[error("more than one private key found")]
    Several,
    /// A block without its end, or not in base64.
    #[error("private key is not readable PEM")]
    Pem,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(hidden)")
    }
}

/// A chain that `verify` accepted, with the private key of its leaf.
#[derive(Debug, Clone)]
pub struct Svid {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKey,
    verified: VerifiedSvid,
}

impl Svid {
    /// Joins chain and key: the chain must be valid now under `bundles` and the key must be its leaf's.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKey,
        bundles: &TrustBundles,
        now: OffsetDateTime,
    ) -> Result<Self, SvidError> {
        let verified = verify(&chain, bundles, now)?;
        crate::mtls::certified_key(&chain, &key)
            .map_err(|error| SvidError::Key { id: verified.id().clone(), detail: error.to_string() })?;
        Ok(Self { chain, key, verified })
    }

    /// Whose identity this is.
    pub fn id(&self) -> &SpiffeId {
        self.verified.id()
    }

    /// DER, leaf first, without roots.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The leaf's private key.
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// What `verify` found: identity and validity.
    pub fn verified(&self) -> &VerifiedSvid {
        &self.verified
    }
}

/// Why chain and key are no SVID.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SvidError {
    /// The chain is refused.
    #[error(transparent)]
    Chain(#[from] VerifyError),
    /// The key is unreadable, of an unknown kind, or belongs to another certificate.
    #[error("private key does not fit the certificate of {id}: {detail}")]
    Key {
        /// The certificate's identity.
        id: SpiffeId,
        /// What is wrong; never the key itself.
        detail: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(kind: &str) -> String {
        format!("-----BEGIN {kind}-----\nAAAA\n-----END {kind}-----\n")
    }

    #[test]
    fn all_three_customary_forms_of_a_key_are_read() {
        for kind in ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"] {
            let pem = format!("{}text around it\n{}", block("EC PARAMETERS"), block(kind));
            assert_eq!(PrivateKey::from_pem(pem.as_bytes()).unwrap().der().secret_der(), [0; 3], "{kind}");
        }
    }

    #[test]
    fn no_key_two_keys_and_half_a_key_are_refused() {
        let refused = |pem: &str| PrivateKey::from_pem(pem.as_bytes()).unwrap_err();
        let key = block("PRIVATE KEY");
        assert_eq!(refused(""), PrivateKeyError::None);
        assert_eq!(refused(&block("ENCRYPTED PRIVATE KEY")), PrivateKeyError::None);
        assert_eq!(refused(&key.repeat(2)), PrivateKeyError::Several);
        assert_eq!(refused(key.split("-----END").next().unwrap()), PrivateKeyError::Pem);
        assert_eq!(refused(&key.replace("AAAA", "A*AA")), PrivateKeyError::Pem);
    }

    #[test]
    fn a_private_key_never_shows_itself() {
        assert_eq!(format!("{:?}", PrivateKey::from_pkcs8(vec![1, 2, 3])), "PrivateKey(hidden)");
    }
}
