//! An X509-SVID with its private key: the identity a program holds itself.

use std::fmt;

use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use thiserror::Error;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::{SpiffeId, TrustBundles, VerifiedSvid, VerifyError, verify};

/// A private key in PKCS#8 DER. It never shows itself and is wiped when dropped.
#[derive(Clone)]
pub struct PrivateKey(Zeroizing<Vec<u8>>);

impl PrivateKey {
    /// Takes PKCS#8 DER; whether it is a usable key shows when it is used.
    pub fn from_pkcs8(der: Vec<u8>) -> Self {
        Self(Zeroizing::new(der))
    }

    /// The key for a TLS configuration or a signature.
    pub fn pkcs8(&self) -> PrivatePkcs8KeyDer<'_> {
        PrivatePkcs8KeyDer::from(self.0.as_slice())
    }
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
