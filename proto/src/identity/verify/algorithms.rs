//! Which keys and signatures are good enough.

use thiserror::Error;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_PKCS1_RSAENCRYPTION,
    OID_PKCS1_RSASSAPSS, OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA,
    OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ECDSA_WITH_SHA512, OID_SIG_ED25519,
};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo};

use super::points::{Curve, is_ed25519_key, is_on_curve};
use super::rsa::check_numbers;
use super::{Place, VerifyError};

const UNCOMPRESSED_POINT: u8 = 4;
const DER_NULL_TAG: u32 = 5;

/// Why a public key is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct PublicKeyError(String);

/// Checks a SubjectPublicKeyInfo (DER) as that of every certificate is checked: P-256, P-384, Ed25519, or RSA of 2,048
/// to 8,192 bits, and a value that such a key can have.
pub fn check_public_key(spki: &[u8]) -> Result<(), PublicKeyError> {
    match SubjectPublicKeyInfo::from_der(spki) {
        Ok((&[], spki)) => check_spki(&spki).map_err(PublicKeyError),
        _ => Err(PublicKeyError("key that is no SubjectPublicKeyInfo in DER".to_owned())),
    }
}

/// Any other key is refused wherever it stands.
pub(super) fn check_key(place: &Place, spki: &SubjectPublicKeyInfo<'_>) -> Result<(), VerifyError> {
    check_spki(spki).map_err(|kind| VerifyError::Key { place: place.clone(), kind })
}

fn check_spki(spki: &SubjectPublicKeyInfo<'_>) -> Result<(), String> {
    let algorithm = &spki.algorithm.algorithm;
    if spki.subject_public_key.unused_bits != 0 {
        return Err("key that does not end on an octet".to_owned());
    }
    if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        check_point(spki)
    } else if *algorithm == OID_SIG_ED25519 {
        check_ed25519(spki)
    } else if *algorithm == OID_PKCS1_RSAENCRYPTION {
        check_rsa(spki)
    } else {
        Err(format!("algorithm {}", algorithm.to_id_string()))
    }
}

/// A named curve (never explicit parameters, RFC 5480 §2.1.1) and an uncompressed point on it (§2.2).
fn check_point(spki: &SubjectPublicKeyInfo<'_>) -> Result<(), String> {
    let curve = spki.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    let curve = match curve.ok_or("EC with explicit or absent parameters")? {
        curve if curve == OID_EC_P256 => Curve::P256,
        curve if curve == OID_NIST_EC_P384 => Curve::P384,
        other if other == OID_NIST_EC_P521 => return Err("EC curve P-521 (1.3.132.0.35)".to_owned()),
        other => return Err(format!("EC curve {}", other.to_id_string())),
    };
    match spki.subject_public_key.data.split_first() {
        Some((&UNCOMPRESSED_POINT, point)) if point.len() == 2 * curve.coordinate_bytes() => {
            if is_on_curve(curve, point) { Ok(()) } else { Err(format!("EC point that is not on {curve}")) }
        }
        _ => Err("EC point that is not uncompressed".to_owned()),
    }
}

/// RFC 8410 §3 and §4, and a point that only its holder can sign for.
fn check_ed25519(spki: &SubjectPublicKeyInfo<'_>) -> Result<(), String> {
    let plain = spki.algorithm.parameters.is_none();
    match <[u8; 32]>::try_from(spki.subject_public_key.data.as_ref()) {
        Ok(key) if plain && is_ed25519_key(key) => Ok(()),
        Ok(_) if plain => Err("Ed25519 point that is not on the curve or of small order".to_owned()),
        _ => Err("malformed Ed25519".to_owned()),
    }
}

/// RFC 8017 §3.1 and RFC 3279 §2.3.1.
fn check_rsa(spki: &SubjectPublicKeyInfo<'_>) -> Result<(), String> {
    let null = spki.algorithm.parameters.as_ref().is_some_and(|any| any.tag().0 == DER_NULL_TAG);
    let Ok(PublicKey::RSA(key)) = spki.parsed() else { return Err("malformed RSA".to_owned()) };
    if !null {
        return Err("RSA with parameters other than NULL".to_owned());
    }
    check_numbers(key.modulus, key.exponent)
}

/// SHA-256 or better; webpki then checks that the signature fits the issuer's key.
pub(super) fn check_signature(place: &Place, algorithm: &AlgorithmIdentifier<'_>) -> Result<(), VerifyError> {
    let good = [
        OID_SIG_ECDSA_WITH_SHA256,
        OID_SIG_ECDSA_WITH_SHA384,
        OID_SIG_ECDSA_WITH_SHA512,
        OID_SIG_ED25519,
        OID_PKCS1_SHA256WITHRSA,
        OID_PKCS1_SHA384WITHRSA,
        OID_PKCS1_SHA512WITHRSA,
        // Its parameters name the hash; webpki knows only those of SHA-256, SHA-384 and SHA-512.
        OID_PKCS1_RSASSAPSS,
    ];
    if good.contains(&algorithm.algorithm) {
        return Ok(());
    }
    let algorithm = algorithm.algorithm.to_id_string();
    Err(VerifyError::SignatureAlgorithm { place: place.clone(), algorithm })
}
