//! A key and its certificate signing request (PKCS#10, RFC 2986).

use postern_proto::identity::PrivateKey;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::PrivatePkcs8KeyDer;
use thiserror::Error;
use zeroize::Zeroizing;

/// A P-256 key without a certificate yet. The CSR has no subject: the CA authenticates the requester.
#[derive(Debug, Clone)]
pub struct SigningRequest {
    pub(super) key: PrivateKey,
    /// DER.
    pub(super) csr: Vec<u8>,
}

impl SigningRequest {
    /// Generates a new key.
    pub fn new() -> Result<Self, RequestError> {
        Self::from_key_pair(Zeroizing::new(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?))
    }

    /// Uses the key of an earlier request, in PKCS#8.
    pub fn with_key(pkcs8: &[u8]) -> Result<Self, RequestError> {
        let der = PrivatePkcs8KeyDer::from(pkcs8);
        Self::from_key_pair(Zeroizing::new(KeyPair::from_pkcs8_der_and_sign_algo(
            &der,
            &PKCS_ECDSA_P256_SHA256,
        )?))
    }

    /// The private key, to be persisted until the CA has responded.
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    fn from_key_pair(pair: Zeroizing<KeyPair>) -> Result<Self, RequestError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&*pair)?.der().to_vec();
        Ok(Self { key: PrivateKey::from_pkcs8(pair.serialize_der()), csr })
    }
}

/// Key generation or signing failed.
#[derive(Debug, Error)]
#[error(transparent)]
pub struct RequestError(#[from] rcgen::Error);
