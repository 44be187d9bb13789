//! A certificate signing request (PKCS#10, RFC 2986): its public key is taken; everything else is ignored and said so.

use postern_proto::identity::{PublicKeyError, check_public_key};
use rcgen::{PublicKeyData as _, SubjectPublicKeyInfo};
use ring::digest;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519,
    UnparsedPublicKey, VerificationAlgorithm,
};
use thiserror::Error;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_SIG_ECDSA_WITH_SHA256,
    OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ED25519,
};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::AlgorithmIdentifier;

/// A request has at most this many bytes.
pub const CSR_BYTES_MAX: usize = 8 * 1024;
/// So many ignored things are listed; the rest is one entry.
const IGNORED_MAX: usize = 16;
/// And each in at most so many characters.
const IGNORED_CHARS_MAX: usize = 200;

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CsrError {
    #[error("CSR has {bytes} bytes, more than the {CSR_BYTES_MAX} allowed")]
    TooLarge { bytes: usize },
    #[error("CSR is not PKCS#10 in DER")]
    Malformed,
    #[error("CSR has a key that is not accepted; P-256, P-384 and Ed25519 are")]
    Key,
    #[error("CSR has a key that is not accepted: {0}")]
    UnfitKey(PublicKeyError),
    #[error("CSR is not signed by its own key, with SHA-256 or better")]
    Signature,
}

/// What is taken from a request whose sender holds the key.
pub struct Csr {
    public_key: SubjectPublicKeyInfo,
    public_key_info: Vec<u8>,
    ignored: Vec<String>,
}

impl std::fmt::Debug for Csr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Csr(key {})", self.key_sha256())
    }
}

impl Csr {
    /// Reads a request and checks its signature: who sends it holds the key.
    pub fn parse(der: &[u8]) -> Result<Self, CsrError> {
        if der.len() > CSR_BYTES_MAX {
            return Err(CsrError::TooLarge { bytes: der.len() });
        }
        let Ok((&[], request)) = X509CertificationRequest::from_der(der) else {
            return Err(CsrError::Malformed);
        };
        let info = &request.certification_request_info;
        let key: &[u8] = &info.subject_pki.subject_public_key.data;
        let algorithm = algorithm(&info.subject_pki.algorithm, &request.signature_algorithm)?;
        check_public_key(info.subject_pki.raw).map_err(CsrError::UnfitKey)?;
        UnparsedPublicKey::new(algorithm, key)
            .verify(info.raw, &request.signature_value.data)
            .map_err(|_| CsrError::Signature)?;
        let public_key_info = info.subject_pki.raw.to_vec();
        let public_key = SubjectPublicKeyInfo::from_der(&public_key_info).map_err(|_| CsrError::Key)?;
        // What would be certified is what was shown: DER has one way to write it (X.690 §10).
        if public_key.subject_public_key_info() != public_key_info {
            return Err(CsrError::Key);
        }
        Ok(Self { public_key, public_key_info, ignored: ignored(&request) })
    }

    pub(super) fn public_key(&self) -> &SubjectPublicKeyInfo {
        &self.public_key
    }

    /// SubjectPublicKeyInfo, DER.
    pub(super) fn public_key_info(&self) -> &[u8] {
        &self.public_key_info
    }

    /// SHA-256 of the SubjectPublicKeyInfo, lower-case hex.
    pub fn key_sha256(&self) -> String {
        let hash = digest::digest(&digest::SHA256, &self.public_key_info);
        hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// What it asked for and does not get, in words.
    pub(super) fn into_ignored(self) -> Vec<String> {
        self.ignored
    }
}

/// How the request's signature is checked, for the kinds of key that are accepted.
fn algorithm(
    key: &AlgorithmIdentifier<'_>,
    signature: &AlgorithmIdentifier<'_>,
) -> Result<&'static dyn VerificationAlgorithm, CsrError> {
    if key.algorithm == OID_SIG_ED25519 {
        let same = key.parameters.is_none() && signature.algorithm == OID_SIG_ED25519;
        return if same { Ok(&ED25519) } else { Err(CsrError::Key) };
    }
    if key.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY {
        return Err(CsrError::Key);
    }
    let curve = key.parameters.as_ref().and_then(|curve| curve.as_oid().ok()).ok_or(CsrError::Key)?;
    let (sha256, sha384): (&dyn VerificationAlgorithm, &dyn VerificationAlgorithm) = match curve {
        curve if curve == OID_EC_P256 => (&ECDSA_P256_SHA256_ASN1, &ECDSA_P256_SHA384_ASN1),
        curve if curve == OID_NIST_EC_P384 => (&ECDSA_P384_SHA256_ASN1, &ECDSA_P384_SHA384_ASN1),
        _ => return Err(CsrError::Key),
    };
    match &signature.algorithm {
        oid if *oid == OID_SIG_ECDSA_WITH_SHA256 => Ok(sha256),
        oid if *oid == OID_SIG_ECDSA_WITH_SHA384 => Ok(sha384),
        _ => Err(CsrError::Signature),
    }
}

/// Names, flags and extensions in the request: each is told, none is used.
fn ignored(request: &X509CertificationRequest<'_>) -> Vec<String> {
    let info = &request.certification_request_info;
    let mut ignored = Vec::new();
    if info.subject.iter().next().is_some() {
        ignored.push(format!("subject {}", info.subject));
    }
    for attribute in info.attributes() {
        match attribute.parsed_attribute() {
            ParsedCriAttribute::ExtensionRequest(requested) => {
                for extension in &requested.extensions {
                    match extension.parsed_extension() {
                        ParsedExtension::SubjectAlternativeName(san) if !san.general_names.is_empty() => {
                            ignored.extend(san.general_names.iter().map(|name| format!("name {name}")));
                        }
                        ParsedExtension::BasicConstraints(constraints) => {
                            ignored.push(format!("basic constraints with CA {}", constraints.ca));
                        }
                        _ => ignored.push(format!("extension {}", extension.oid.to_id_string())),
                    }
                }
            }
            _ => ignored.push(format!("attribute {}", attribute.oid.to_id_string())),
        }
    }
    bounded(ignored)
}

fn bounded(mut ignored: Vec<String>) -> Vec<String> {
    let more = ignored.len().saturating_sub(IGNORED_MAX);
    ignored.truncate(IGNORED_MAX);
    for text in &mut ignored {
        *text = text.chars().take(IGNORED_CHARS_MAX).map(|c| c.escape_debug().to_string()).collect();
    }
    if more > 0 {
        ignored.push(format!("{more} more"));
    }
    ignored
}

#[cfg(test)]
mod tests;
