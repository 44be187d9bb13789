//! A new key, and the request to certify it (PKCS#10, RFC 2986).

use postern_proto::identity::PrivateKey;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::PrivatePkcs8KeyDer;
use thiserror::Error;
use zeroize::Zeroizing;

/// A P-256 key that no certificate was received for yet. The request names nobody: the CA knows who asks.
#[derive(Debug, Clone)]
pub struct SigningRequest {
    pub(super) key: PrivateKey,
    /// DER.
    pub(super) csr: Vec<u8>,
}

impl SigningRequest {
    /// With a new key.
    pub fn new() -> Result<Self, RequestError> {
        Self::of(Zeroizing::new(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?))
    }

    /// With the key of an earlier request, PKCS#8.
    pub fn with_key(pkcs8: &[u8]) -> Result<Self, RequestError> {
        let der = PrivatePkcs8KeyDer::from(pkcs8);
        Self::of(Zeroizing::new(KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256)?))
    }

    /// What is kept of it.
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    fn of(pair: Zeroizing<KeyPair>) -> Result<Self, RequestError> {
        let mut names_nobody = CertificateParams::default();
        names_nobody.distinguished_name = DistinguishedName::new();
        let csr = names_nobody.serialize_request(&*pair)?.der().to_vec();
        Ok(Self { key: PrivateKey::from_pkcs8(pair.serialize_der()), csr })
    }
}

/// The random source or the signature failed.
#[derive(Debug, Error)]
#[error(transparent)]
pub struct RequestError(#[from] rcgen::Error);
