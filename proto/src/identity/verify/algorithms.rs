//! Which keys and signatures are good enough.

use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION, OID_PKCS1_RSASSAPSS,
    OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA, OID_SIG_ECDSA_WITH_SHA256,
    OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ECDSA_WITH_SHA512, OID_SIG_ED25519,
};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo};

use super::{Place, VerifyError};

const RSA_BITS_MIN: usize = 2048;
const RSA_BITS_MAX: usize = 8192;
const P256_POINT_BYTES: usize = 65;
const P384_POINT_BYTES: usize = 97;
const ED25519_BYTES: usize = 32;
const UNCOMPRESSED_POINT: u8 = 4;
const DER_NULL_TAG: u32 = 5;

/// P-256, P-384, Ed25519, or RSA of 2,048 to 8,192 bits; any other key is refused wherever it stands.
pub(super) fn check_key(place: &Place, spki: &SubjectPublicKeyInfo<'_>) -> Result<(), VerifyError> {
    let refused = |kind: String| Err(VerifyError::Key { place: place.clone(), kind });
    let algorithm = &spki.algorithm.algorithm;
    let key: &[u8] = &spki.subject_public_key.data;
    if spki.subject_public_key.unused_bits != 0 {
        return refused("key that does not end on an octet".to_owned());
    }
    if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        return check_point(spki).map_or_else(refused, Ok);
    }
    if *algorithm == OID_SIG_ED25519 {
        let plain = spki.algorithm.parameters.is_none() && key.len() == ED25519_BYTES;
        return if plain { Ok(()) } else { refused("malformed Ed25519".to_owned()) };
    }
    if *algorithm == OID_PKCS1_RSAENCRYPTION {
        return check_rsa(spki).map_or_else(refused, Ok);
    }
    refused(format!("algorithm {}", algorithm.to_id_string()))
}

/// A named curve (never explicit parameters, RFC 5480 §2.1.1) and an uncompressed point of its length.
fn check_point(spki: &SubjectPublicKeyInfo<'_>) -> Result<(), String> {
    let curve = spki.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    let curve = curve.ok_or("EC with explicit or absent parameters")?;
    let bytes = match &curve {
        curve if *curve == OID_EC_P256 => P256_POINT_BYTES,
        curve if *curve == OID_NIST_EC_P384 => P384_POINT_BYTES,
        other => return Err(format!("EC curve {}", other.to_id_string())),
    };
    let point: &[u8] = &spki.subject_public_key.data;
    if point.len() != bytes || point.first() != Some(&UNCOMPRESSED_POINT) {
        return Err("EC point that is not uncompressed".to_owned());
    }
    Ok(())
}

fn check_rsa(spki: &SubjectPublicKeyInfo<'_>) -> Result<(), String> {
    let null = spki.algorithm.parameters.as_ref().is_some_and(|any| any.tag().0 == DER_NULL_TAG);
    let Ok(PublicKey::RSA(key)) = spki.parsed() else { return Err("malformed RSA".to_owned()) };
    if !null {
        return Err("RSA with parameters other than NULL".to_owned());
    }
    let modulus: &[u8] = key.modulus;
    let significant = modulus.iter().skip_while(|byte| **byte == 0).count();
    let leading = modulus.iter().find(|byte| **byte != 0).map_or(8, |byte| byte.leading_zeros() as usize);
    let bits = (significant * 8).saturating_sub(leading);
    if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
        return Err(format!("RSA of {bits} bits"));
    }
    let odd = |number: &[u8]| number.last().is_some_and(|byte| byte & 1 == 1);
    if !odd(modulus)
        || !odd(key.exponent)
        || key.exponent.iter().all(|byte| *byte == 0)
        || key.exponent == [1]
    {
        return Err("malformed RSA".to_owned());
    }
    Ok(())
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
