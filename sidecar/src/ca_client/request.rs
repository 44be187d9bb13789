//! A new key, and the request to certify it (PKCS#10, RFC 2986).

use postern_proto::identity::PrivateKey;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use thiserror::Error;
use zeroize::Zeroizing;

/// A P-256 key of its own for each request. The request names nobody: the CA knows who asks.
pub(super) struct SigningRequest {
    pub(super) key: PrivateKey,
    /// DER.
    pub(super) csr: Vec<u8>,
}

impl SigningRequest {
    pub(super) fn new() -> Result<Self, RequestError> {
        let pair = Zeroizing::new(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?);
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
