//! The leaf's to-be-signed bytes, written straight from the profile: the second opinion on what was signed.

use ring::digest;
use time::OffsetDateTime;

/// Subject key identifiers are the first 160 bits of a SHA-256 hash (RFC 7093 §2, method 1).
const KEY_IDENTIFIER_BYTES: usize = 20;

/// What varies from leaf to leaf.
#[derive(Debug)]
pub(super) struct Leaf<'a> {
    pub(super) serial: &'a [u8],
    /// The issuer's subject, DER.
    pub(super) issuer: &'a [u8],
    pub(super) not_before: OffsetDateTime,
    pub(super) not_after: OffsetDateTime,
    /// SubjectPublicKeyInfo, DER.
    pub(super) public_key_info: &'a [u8],
    pub(super) authority_key_id: Vec<u8>,
    pub(super) uri: &'a str,
}

const ECDSA_WITH_SHA256: &[u8] = &[0x30, 10, 0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const VERSION_3: &[u8] = &[0xa0, 3, 2, 1, 2];
const EMPTY_SUBJECT: &[u8] = &[0x30, 0];
const AUTHORITY_KEY_IDENTIFIER: [u8; 3] = [0x55, 0x1d, 0x23];
const SUBJECT_ALTERNATIVE_NAME: [u8; 3] = [0x55, 0x1d, 0x11];
const KEY_USAGE: [u8; 3] = [0x55, 0x1d, 0x0f];
const EXTENDED_KEY_USAGE: [u8; 3] = [0x55, 0x1d, 0x25];
/// A bit string with bit 0 alone.
const DIGITAL_SIGNATURE: &[u8] = &[3, 2, 7, 0x80];
/// serverAuth and clientAuth.
const BOTH_PURPOSES: &[u8] = &[0x30, 20, 6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 1, 6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 2];

/// RFC 5280 §4.1, for a leaf of our profile.
pub(super) fn to_be_signed(leaf: &Leaf<'_>) -> Vec<u8> {
    let authority = element(0x30, &element(0x80, &leaf.authority_key_id));
    let names = element(0x30, &element(0x86, leaf.uri.as_bytes()));
    let extensions = [
        extension(AUTHORITY_KEY_IDENTIFIER, Criticality::Not, &authority),
        extension(SUBJECT_ALTERNATIVE_NAME, Criticality::Critical, &names),
        extension(KEY_USAGE, Criticality::Critical, DIGITAL_SIGNATURE),
        extension(EXTENDED_KEY_USAGE, Criticality::Not, BOTH_PURPOSES),
    ];
    let validity = [time(leaf.not_before), time(leaf.not_after)].concat();
    let parts = [
        VERSION_3,
        &element(0x02, &positive(leaf.serial)),
        ECDSA_WITH_SHA256,
        leaf.issuer,
        &element(0x30, &validity),
        EMPTY_SUBJECT,
        leaf.public_key_info,
        &element(0xa3, &element(0x30, &extensions.concat())),
    ];
    element(0x30, &parts.concat())
}

/// The key identifier that an issuer's certificate and its leaves carry.
pub(super) fn key_identifier(public_key_info: &[u8]) -> Vec<u8> {
    let hash = digest::digest(&digest::SHA256, public_key_info);
    hash.as_ref().iter().take(KEY_IDENTIFIER_BYTES).copied().collect()
}

#[derive(PartialEq, Eq)]
enum Criticality {
    Critical,
    Not,
}

fn extension(oid: [u8; 3], criticality: Criticality, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if criticality == Criticality::Critical { &[1, 1, 0xff] } else { &[] };
    element(0x30, &[element(0x06, &oid).as_slice(), critical, &element(0x04, value)].concat())
}

/// An INTEGER's content: a leading zero where the first bit would be a sign (X.690 §8.3).
fn positive(number: &[u8]) -> Vec<u8> {
    let sign: &[u8] = if number.first().is_some_and(|first| *first >= 0x80) { &[0] } else { &[] };
    [sign, number].concat()
}

/// UTCTime through 2049, GeneralizedTime from then on (RFC 5280 §4.1.2.5).
fn time(time: OffsetDateTime) -> Vec<u8> {
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    let (hour, minute, second) = (time.hour(), time.minute(), time.second());
    let rest = format!("{month:02}{day:02}{hour:02}{minute:02}{second:02}Z");
    if (1950..2050).contains(&year) {
        element(0x17, format!("{:02}{rest}", year % 100).as_bytes())
    } else {
        element(0x18, format!("{year:04}{rest}").as_bytes())
    }
}

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut element = vec![tag];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => element.push(short),
        _ => {
            let bytes = length.to_be_bytes();
            let significant: Vec<u8> = bytes.into_iter().skip_while(|byte| *byte == 0).collect();
            element.push(0x80 | u8::try_from(significant.len()).unwrap_or(0));
            element.extend(significant);
        }
    }
    element.extend_from_slice(content);
    element
}
