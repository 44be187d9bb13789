//! An X509-SVID with its private key: the identity a program holds itself.

use std::fmt;

use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
};
use thiserror::Error;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::pem::{Block, PemError, blocks};
use super::{SpiffeId, TrustBundles, VerifiedSvid, VerifyError, verify};
use crate::crypto::certified_key;

/// A private key in PKCS#8, SEC1 or PKCS#1 DER. It never shows itself and is wiped when dropped.
pub struct PrivateKey(Zeroizing<PrivateKeyDer<'static>>);

impl PrivateKey {
    /// Takes PKCS#8 DER; whether it is a usable key shows when it is used.
    pub fn from_pkcs8(der: Vec<u8>) -> Self {
        Self(Zeroizing::new(PrivatePkcs8KeyDer::from(der).into()))
    }

    /// Reads the one unencrypted private key of a PEM text: PKCS#8 (RFC 5958), SEC1 (RFC 5915) or PKCS#1 (RFC 8017).
    /// Blocks that are no private key may be there, too.
    pub fn from_pem(pem: &[u8]) -> Result<Self, PrivateKeyError> {
        let blocks = blocks(pem)?;
        let mut keys = blocks.iter().filter(|block| block.label.ends_with(LABEL));
        match (keys.next(), keys.next()) {
            (None, _) => Err(PrivateKeyError::None),
            (Some(first), Some(second)) => {
                Err(PrivateKeyError::Several { first: first.line, second: second.line })
            }
            (Some(key), None) => Self::from_block(key),
        }
    }

    fn from_block(block: &Block) -> Result<Self, PrivateKeyError> {
        let &Block { line, ref label, encrypted, .. } = block;
        if encrypted || label == ENCRYPTED_LABEL {
            return Err(PrivateKeyError::Encrypted { line });
        }
        let key = match label.as_str() {
            LABEL => PrivateKeyDer::from(PrivatePkcs8KeyDer::from(block.decode()?.to_vec())),
            SEC1_LABEL => PrivateSec1KeyDer::from(block.decode()?.to_vec()).into(),
            PKCS1_LABEL => PrivatePkcs1KeyDer::from(block.decode()?.to_vec()).into(),
            _ => return Err(PrivateKeyError::Kind { line, label: label.clone() }),
        };
        Ok(Self(Zeroizing::new(key)))
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

const LABEL: &str = "PRIVATE KEY";
const ENCRYPTED_LABEL: &str = "ENCRYPTED PRIVATE KEY";
const SEC1_LABEL: &str = "EC PRIVATE KEY";
const PKCS1_LABEL: &str = "RSA PRIVATE KEY";

/// Why a text holds no private key. It never repeats the text. Lines count from 1.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PrivateKeyError {
    /// No block is a private key.
    #[error("no private key found: no block is a PRIVATE KEY")]
    None,
    /// There is nobody to ask for its password.
    #[error(
        "the private key at line {line} is encrypted; decrypt it, for example with `openssl pkey -in OLD -out NEW`"
    )]
    Encrypted {
        /// Of the block's begin.
        line: usize,
    },
    /// OpenSSH's form, DSA and others.
    #[error(
        "the private key at line {line} is of the kind {label:?}; PRIVATE KEY (PKCS#8), EC PRIVATE KEY and \
         RSA PRIVATE KEY are read"
    )]
    Kind {
        /// Of the block's begin.
        line: usize,
        /// What the block says it is.
        label: String,
    },
    /// Which one is meant is anyone's guess.
    #[error("more than one private key found, at lines {first} and {second}; leave one")]
    Several {
        /// Where the first begins.
        first: usize,
        /// Where the second begins.
        second: usize,
    },
    /// No PEM, a block without its end, or not in base64.
    #[error("private key is not readable: {0}")]
    Pem(#[from] PemError),
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
        certified_key(&chain, key.der().clone_key())
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
    fn a_key_is_read_as_people_and_tools_write_it() {
        let key = block("PRIVATE KEY");
        let certificate = block("CERTIFICATE");
        for pem in [
            format!("\u{feff}{key}"),
            key.replace('\n', "\r\n"),
            format!("# -----BEGIN PRIVATE KEY-----\n{key}"),
            format!("{certificate}{key}{certificate}"),
        ] {
            assert_eq!(PrivateKey::from_pem(pem.as_bytes()).unwrap().der().secret_der(), [0; 3], "{pem}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused_by_its_name() {
        let refused = |pem: &str| PrivateKey::from_pem(pem.as_bytes()).unwrap_err();
        let key = block("PRIVATE KEY");
        assert_eq!(refused(""), PrivateKeyError::None);
        assert_eq!(refused(&block("CERTIFICATE")), PrivateKeyError::None);
        assert_eq!(refused(&block("ENCRYPTED PRIVATE KEY")), PrivateKeyError::Encrypted { line: 1 });
        let old = "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA";
        let old = format!("\n{}", block("EC PRIVATE KEY").replace("AAAA", old));
        assert_eq!(refused(&old), PrivateKeyError::Encrypted { line: 2 });
        let label = "OPENSSH PRIVATE KEY".to_owned();
        assert_eq!(refused(&block(&label)), PrivateKeyError::Kind { line: 1, label });
        assert_eq!(refused(&key.repeat(2)), PrivateKeyError::Several { first: 1, second: 4 });
        let never_ends = PemError::NoEnd { line: 1 };
        assert_eq!(refused(key.split("-----END").next().unwrap()), PrivateKeyError::Pem(never_ends));
        assert!(matches!(
            refused(&key.replace("AAAA", "A*AA")),
            PrivateKeyError::Pem(PemError::Base64 { .. })
        ));
        let der = PrivateKey::from_pem(&[0x30, 0x81, 0x87, 2, 1, 0]).unwrap_err();
        assert!(der.to_string().contains("it is not PEM: it is DER"), "{der}");
    }

    #[test]
    fn a_private_key_never_shows_itself() {
        assert_eq!(format!("{:?}", PrivateKey::from_pkcs8(vec![1, 2, 3])), "PrivateKey(hidden)");
    }
}
