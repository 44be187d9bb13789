//! The exporter of one TLS 1.3 connection (RFC 8446 §7.5), over its exporter_master_secret.

use std::fmt;

use ring::{digest, hkdf};
use rustls::SupportedCipherSuite;
use rustls::crypto::hash::HashAlgorithm;
use thiserror::Error;
use zeroize::Zeroizing;

/// RFC 8446 §7.1: a `HkdfLabel` has room for 255 bytes, of which its prefix takes six.
pub const EXPORTER_LABEL_BYTES_MAX: usize = 255 - LABEL_PREFIX.len();

const LABEL_PREFIX: &[u8] = b"tls13 ";

/// The hash of a TLS 1.3 cipher suite, which its key schedule and exporter use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SuiteHash {
    /// Of TLS_AES_128_GCM_SHA256 and TLS_CHACHA20_POLY1305_SHA256.
    Sha256,
    /// Of TLS_AES_256_GCM_SHA384.
    Sha384,
}

impl SuiteHash {
    /// The hash of `suite`; none if it is not one that Postern negotiates.
    pub fn of(suite: SupportedCipherSuite) -> Option<Self> {
        match suite.tls13()?.common.hash_provider.algorithm() {
            HashAlgorithm::SHA256 => Some(Self::Sha256),
            HashAlgorithm::SHA384 => Some(Self::Sha384),
            _ => None,
        }
    }

    /// The bytes of its output.
    pub fn output_bytes(self) -> usize {
        self.digest().output_len()
    }

    pub(crate) fn hmac(self) -> ring::hmac::Algorithm {
        self.hkdf().hmac_algorithm()
    }

    pub(crate) fn digest(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
        }
    }

    fn hkdf(self) -> hkdf::Algorithm {
        match self {
            Self::Sha256 => hkdf::HKDF_SHA256,
            Self::Sha384 => hkdf::HKDF_SHA384,
        }
    }
}

/// A connection's exporter_master_secret. It never shows itself and is wiped when dropped.
pub struct ExporterSecret {
    hash: SuiteHash,
    secret: Zeroizing<Vec<u8>>,
}

impl ExporterSecret {
    /// Takes the secret of a connection whose suite has this hash: it is as long as the hash's output.
    pub fn new(hash: SuiteHash, secret: &[u8]) -> Result<Self, ExporterSecretError> {
        if secret.len() != hash.output_bytes() {
            return Err(ExporterSecretError { hash, bytes: secret.len() });
        }
        Ok(Self { hash, secret: Zeroizing::new(secret.to_vec()) })
    }

    /// The hash of the connection's suite.
    pub fn hash(&self) -> SuiteHash {
        self.hash
    }

    /// `TLS-Exporter(label, context, length)`. A context that is empty equals one that is absent.
    pub fn export(
        &self,
        label: &str,
        context: &[u8],
        length: usize,
    ) -> Result<Zeroizing<Vec<u8>>, ExportError> {
        if label.len() > EXPORTER_LABEL_BYTES_MAX {
            return Err(ExportError::Label { bytes: label.len() });
        }
        let digest = |of: &[u8]| digest::digest(self.hash.digest(), of);
        let bytes = self.hash.output_bytes();
        let derived = expand_label(self.hash, &self.secret, label.as_bytes(), digest(&[]).as_ref(), bytes)?;
        expand_label(self.hash, &derived, b"exporter", digest(context).as_ref(), length)
    }
}

impl fmt::Debug for ExporterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExporterSecret(hidden)")
    }
}

/// `HKDF-Expand-Label` (RFC 8446 §7.1).
pub(super) fn expand_label(
    hash: SuiteHash,
    secret: &[u8],
    label: &[u8],
    context: &[u8],
    length: usize,
) -> Result<Zeroizing<Vec<u8>>, ExportError> {
    let too_long = ExportError::Length { bytes: length, max: 255 * hash.output_bytes() };
    let wide = u16::try_from(length).map_err(|_| too_long)?.to_be_bytes();
    let prefixed = (LABEL_PREFIX.len() + label.len()) as u8;
    let info: [&[u8]; 6] = [&wide, &[prefixed], LABEL_PREFIX, label, &[context.len() as u8], context];
    let mut out = Zeroizing::new(vec![0; length]);
    let prk = hkdf::Prk::new_less_safe(hash.hkdf(), secret);
    let okm = prk.expand(&info, OutputBytes(length)).map_err(|_| too_long)?;
    okm.fill(&mut out).map_err(|_| too_long)?;
    Ok(out)
}

/// How many bytes HKDF is to put out.
struct OutputBytes(usize);

impl hkdf::KeyType for OutputBytes {
    fn len(&self) -> usize {
        self.0
    }
}

/// Why bytes are no exporter secret. It never repeats them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("exporter secret has {bytes} bytes, not the {} of {hash:?}", .hash.output_bytes())]
pub struct ExporterSecretError {
    /// The suite's hash.
    pub hash: SuiteHash,
    /// The secret's length.
    pub bytes: usize,
}

/// Why nothing can be exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ExportError {
    /// RFC 8446 §7.1: `opaque label<7..255>`.
    #[error("exporter label has {bytes} bytes, more than the {max} allowed", max = EXPORTER_LABEL_BYTES_MAX)]
    Label {
        /// The label's length.
        bytes: usize,
    },
    /// RFC 5869 §2.3: at most 255 outputs of the hash.
    #[error("{bytes} bytes cannot be exported at once, more than the {max} allowed")]
    Length {
        /// What was asked for.
        bytes: usize,
        /// What there is at most.
        max: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exporter_secret_never_shows_itself() {
        let secret = ExporterSecret::new(SuiteHash::Sha256, &[7; 32]).unwrap();
        assert_eq!(format!("{secret:?}"), "ExporterSecret(hidden)");
    }

    #[test]
    fn a_secret_is_exactly_as_long_as_its_hashs_output() {
        for bytes in (0..32).chain(33..100) {
            let refused = ExporterSecret::new(SuiteHash::Sha256, &vec![7; bytes]).unwrap_err();
            assert_eq!(refused, ExporterSecretError { hash: SuiteHash::Sha256, bytes });
        }
        for bytes in (0..48).chain(49..100) {
            assert!(ExporterSecret::new(SuiteHash::Sha384, &vec![7; bytes]).is_err());
        }
    }

    #[test]
    fn a_label_or_length_beyond_its_bound_is_refused() {
        let secret = ExporterSecret::new(SuiteHash::Sha256, &[7; 32]).unwrap();
        let longest = "x".repeat(EXPORTER_LABEL_BYTES_MAX);
        assert_eq!(secret.export(&longest, b"", 255 * 32).unwrap().len(), 255 * 32);
        let label = format!("{longest}x");
        assert_eq!(secret.export(&label, b"", 32).unwrap_err(), ExportError::Label { bytes: 250 });
        for bytes in [255 * 32 + 1, 65_535, 65_536, usize::MAX] {
            assert_eq!(
                secret.export("x", b"", bytes).unwrap_err(),
                ExportError::Length { bytes, max: 255 * 32 }
            );
        }
    }
}
