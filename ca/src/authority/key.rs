//! A CA's private key: it signs and never leaves. The place where an HSM will stand.

use std::fmt;

use postern_proto::identity::PrivateKey;
use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm, SigningKey};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use thiserror::Error;
use zeroize::Zeroizing;

/// A P-256 key on ring. rcgen's own keys would follow whichever provider the build happens to enable.
pub struct CaKey {
    pair: EcdsaKeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
    random: SystemRandom,
}

/// Why there is no key.
#[derive(Debug, Error)]
pub enum KeyError {
    #[error("cannot make a key: no randomness")]
    Generate,
    #[error("a stored key is not a P-256 key: {0}")]
    Stored(String),
}

impl CaKey {
    pub fn generate() -> Result<Self, KeyError> {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
        Self::from_pkcs8(pkcs8.map_err(|_| KeyError::Generate)?.as_ref())
    }

    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, KeyError> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8, &random)
            .map_err(|error| KeyError::Stored(error.to_string()))?;
        Ok(Self { pair, pkcs8: Zeroizing::new(pkcs8.to_vec()), random })
    }

    /// For the file that keeps it, readable by its owner alone.
    pub(super) fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// For TLS with a certificate of the CA's own.
    pub(super) fn to_private_key(&self) -> PrivateKey {
        PrivateKey::from_pkcs8(self.pkcs8.to_vec())
    }
}

impl PublicKeyData for CaKey {
    fn der_bytes(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for CaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self.pair.sign(&self.random, message).map_err(|_| rcgen::Error::RingUnspecified)?;
        Ok(signature.as_ref().to_vec())
    }
}

impl fmt::Debug for CaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CaKey(hidden)")
    }
}
