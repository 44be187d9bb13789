//! Certificates byte by byte, so that a test can break any rule: a small DER writer and a signer. In its parts: a CA,
//! and handshakes in memory.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test says no by a panic")]

pub mod authority;
pub mod handshake;

use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use time::macros::datetime;

/// When every test takes place.
pub const NOW: OffsetDateTime = datetime!(2026-06-15 12:00:00 UTC);

pub const OID_SAN: &[u8] = &[0x55, 0x1d, 0x11];
pub const OID_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
pub const OID_EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
pub const OID_BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
pub const OID_NAME_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x1e];
/// An extension nobody knows.
pub const OID_UNKNOWN: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x63, 0x01];
pub const OID_ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
pub const OID_ECDSA_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01];
pub const OID_ECDSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
pub const OID_EC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
pub const OID_P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
pub const OID_P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
pub const OID_P521: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];
pub const OID_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
pub const OID_RSA_PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a];
pub const OID_ED25519: &[u8] = &[0x2b, 0x65, 0x70];
pub const OID_ED448: &[u8] = &[0x2b, 0x65, 0x71];

pub const DIGITAL_SIGNATURE: u8 = 0x80;
pub const KEY_CERT_SIGN: u8 = 0x04;
pub const CRL_SIGN: u8 = 0x02;
pub const SERVER_AUTH: u8 = 1;
pub const CLIENT_AUTH: u8 = 2;

pub fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len();
    match length {
        0..0x80 => out.push(length as u8),
        0x80..0x100 => out.extend([0x81, length as u8]),
        _ => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend_from_slice(content);
    out
}

pub fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

pub fn oid(body: &[u8]) -> Vec<u8> {
    tlv(0x06, body)
}

pub fn boolean(value: bool) -> Vec<u8> {
    tlv(0x01, &[if value { 0xff } else { 0 }])
}

/// A name with one common name, or an empty one.
pub fn name(common_name: &str) -> Vec<u8> {
    if common_name.is_empty() {
        return sequence(&[]);
    }
    let attribute = sequence(&[oid(&[0x55, 0x04, 0x03]), tlv(0x0c, common_name.as_bytes())]);
    sequence(&[tlv(0x31, &attribute)])
}

pub fn utc(time: OffsetDateTime) -> Vec<u8> {
    let (date, clock) = (time.date(), time.time());
    let text = format!(
        "{:02}{:02}{:02}{:02}{:02}{:02}Z",
        date.year() % 100,
        u8::from(date.month()),
        date.day(),
        clock.hour(),
        clock.minute(),
        clock.second()
    );
    tlv(0x17, text.as_bytes())
}

pub fn uri(text: impl AsRef<[u8]>) -> Vec<u8> {
    tlv(0x86, text.as_ref())
}

pub fn san(names: &[Vec<u8>]) -> Vec<u8> {
    sequence(names)
}

pub fn key_usage(bits: u8) -> Vec<u8> {
    tlv(0x03, &[bits.trailing_zeros().min(7) as u8, bits])
}

pub fn extended_key_usage(purposes: &[u8]) -> Vec<u8> {
    let each = |purpose: &u8| oid(&[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, *purpose]);
    sequence(&purposes.iter().map(each).collect::<Vec<_>>())
}

pub fn basic_constraints(ca: bool, path_len: Option<u8>) -> Vec<u8> {
    let mut parts = Vec::new();
    if ca {
        parts.push(boolean(true));
    }
    parts.extend(path_len.map(|length| tlv(0x02, &[length])));
    sequence(&parts)
}

pub fn spki(algorithm: &[Vec<u8>], key: &[u8]) -> Vec<u8> {
    sequence(&[sequence(algorithm), tlv(0x03, &[&[0], key].concat())])
}

/// An RSA key of exactly `bits` bits that nobody holds, with a modulus that no small number divides.
pub fn rsa_spki(bits: usize) -> Vec<u8> {
    let mut modulus = vec![0xff; bits.div_ceil(8)];
    modulus[0] = 0xff >> (modulus.len() * 8 - bits);
    let remainder =
        |number: &[u8], by: u32| number.iter().fold(0_u32, |rest, byte| (rest * 256 + u32::from(*byte)) % by);
    while (2..1000).any(|divisor| remainder(&modulus, divisor) == 0) {
        let end = modulus.len() - 2;
        let low = u16::from_be_bytes([modulus[end], modulus[end + 1]]) - 1;
        modulus[end..].copy_from_slice(&low.to_be_bytes());
    }
    rsa_spki_of(&modulus, &[1, 0, 1])
}

/// An RSA key of these numbers.
pub fn rsa_spki_of(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let positive = |number: &[u8]| match number.first() {
        Some(0x80..) => [&[0], number].concat(),
        _ => number.to_vec(),
    };
    let (modulus, exponent) = (positive(modulus), positive(exponent));
    let key = sequence(&[tlv(0x02, &modulus), tlv(0x02, &exponent)]);
    spki(&[oid(OID_RSA), tlv(0x05, &[])], &key)
}

/// The point of a new P-384 key.
pub fn p384_point() -> Vec<u8> {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, pkcs8.as_ref(), &random).unwrap();
    pair.public_key().as_ref().to_vec()
}

/// A new Ed25519 key.
pub fn ed25519_key() -> Vec<u8> {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap().public_key().as_ref().to_vec()
}

/// A reason is a sentence: it has none of the shapes in which Rust prints its values for debugging.
pub fn assert_sentence(reason: &str) {
    let camel = |word: &str| {
        let bytes = word.as_bytes();
        let upper_later = bytes.iter().skip(2).position(u8::is_ascii_uppercase);
        bytes.len() > 3
            && bytes[0].is_ascii_uppercase()
            && bytes[1].is_ascii_lowercase()
            && upper_later.is_some_and(|at| bytes[1..at + 2].iter().all(u8::is_ascii_lowercase))
    };
    let mut words = reason.split(|c: char| !c.is_ascii_alphanumeric());
    let debug = words.find(|word| camel(word));
    assert!(debug.is_none(), "{debug:?} in {reason:?}");
    for shape in ["Some(", "None", "Ok(", "Err(", " { ", "Error"] {
        assert!(!reason.contains(shape), "{shape:?} in {reason:?}");
    }
    assert!(reason.len() < 4_096, "{} bytes: {reason:?}", reason.len());
}

/// A P-256 key that can sign.
#[derive(Debug)]
pub struct Key(EcdsaKeyPair);

impl Default for Key {
    fn default() -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random).unwrap();
        Self(pair)
    }
}

impl Key {
    pub fn spki(&self) -> Vec<u8> {
        spki(&[oid(OID_EC_KEY), oid(OID_P256)], self.0.public_key().as_ref())
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
    }
}

#[derive(Debug, Clone)]
pub struct Extension {
    pub oid: Vec<u8>,
    pub critical: bool,
    pub value: Vec<u8>,
}

/// Everything a certificate says. Change any part, then sign it.
#[derive(Debug, Clone)]
pub struct Spec {
    pub version: Option<u8>,
    pub serial: Vec<u8>,
    pub inner_algorithm: Vec<u8>,
    pub outer_algorithm: Vec<u8>,
    pub issuer: Vec<u8>,
    pub not_before: Vec<u8>,
    pub not_after: Vec<u8>,
    pub subject: Vec<u8>,
    pub spki: Vec<u8>,
    pub extensions: Vec<Extension>,
}

impl Spec {
    fn new(issuer: &str, subject: &str, spki: Vec<u8>) -> Self {
        let algorithm = sequence(&[oid(OID_ECDSA_SHA256)]);
        Self {
            version: Some(2),
            serial: vec![0x01, 0x02, 0x03],
            inner_algorithm: algorithm.clone(),
            outer_algorithm: algorithm,
            issuer: name(issuer),
            not_before: utc(NOW - time::Duration::hours(1)),
            not_after: utc(NOW + time::Duration::hours(1)),
            subject: name(subject),
            spki,
            extensions: Vec::new(),
        }
    }

    /// A leaf as Postern issues it.
    pub fn leaf(issuer: &str, id: &str, key: &Key) -> Self {
        let mut spec = Self::new(issuer, "", key.spki());
        spec.set(OID_KEY_USAGE, true, key_usage(DIGITAL_SIGNATURE));
        spec.set(OID_EXTENDED_KEY_USAGE, false, extended_key_usage(&[SERVER_AUTH, CLIENT_AUTH]));
        spec.set(OID_SAN, true, san(&[uri(id)]));
        spec
    }

    /// A CA certificate.
    pub fn ca(issuer: &str, subject: &str, key: &Key) -> Self {
        let mut spec = Self::new(issuer, subject, key.spki());
        spec.set(OID_BASIC_CONSTRAINTS, true, basic_constraints(true, None));
        spec.set(OID_KEY_USAGE, true, key_usage(KEY_CERT_SIGN | CRL_SIGN));
        spec
    }

    /// Replaces the extension, or adds it.
    pub fn set(&mut self, oid: &[u8], critical: bool, value: Vec<u8>) {
        self.remove(oid);
        self.add(oid, critical, value);
    }

    /// Adds the extension, also when it is there already.
    pub fn add(&mut self, oid: &[u8], critical: bool, value: Vec<u8>) {
        self.extensions.push(Extension { oid: oid.to_vec(), critical, value });
    }

    pub fn remove(&mut self, oid: &[u8]) {
        self.extensions.retain(|extension| extension.oid != oid);
    }

    pub fn sign(&self, issuer: &Key) -> CertificateDer<'static> {
        let extension = |extension: &Extension| {
            let mut parts = vec![oid(&extension.oid)];
            if extension.critical {
                parts.push(boolean(true));
            }
            parts.push(tlv(0x04, &extension.value));
            sequence(&parts)
        };
        let mut parts = Vec::new();
        parts.extend(self.version.map(|version| tlv(0xa0, &tlv(0x02, &[version]))));
        parts.push(tlv(0x02, &self.serial));
        parts.push(self.inner_algorithm.clone());
        parts.push(self.issuer.clone());
        parts.push(sequence(&[self.not_before.clone(), self.not_after.clone()]));
        parts.push(self.subject.clone());
        parts.push(self.spki.clone());
        if !self.extensions.is_empty() {
            parts.push(tlv(0xa3, &sequence(&self.extensions.iter().map(extension).collect::<Vec<_>>())));
        }
        let tbs = sequence(&parts);
        let signature = tlv(0x03, &[&[0][..], &issuer.sign(&tbs)].concat());
        CertificateDer::from(sequence(&[tbs, self.outer_algorithm.clone(), signature]))
    }
}
