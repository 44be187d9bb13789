//! The keys of one direction of a TLS 1.3 connection after its handshake: records are sealed and opened in place.

use std::fmt;

use rustls::{CipherSuite, SupportedCipherSuite};
use thiserror::Error;
use zeroize::Zeroizing;

use super::exporter::{ExportError, SuiteHash, expand_label};
use crate::crypto::{Aead, NONCE_BYTES, RECORD_TAG_BYTES, RecordCipher};

/// RFC 8446 §5.1: type, legacy version, length.
pub const RECORD_HEADER_BYTES: usize = 5;
/// The longest hash of a suite.
const SECRET_BYTES_MAX: usize = 48;

/// What a suite makes of a traffic secret.
#[derive(Clone, Copy)]
struct RecordSuite {
    hash: SuiteHash,
    aead: Aead,
    /// So many records are safely sealed with one key (RFC 8446 §5.5).
    records_max: u64,
}

impl RecordSuite {
    fn of(suite: SupportedCipherSuite) -> Option<Self> {
        let aead = match suite.suite() {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => Aead::Aes128Gcm,
            CipherSuite::TLS13_AES_256_GCM_SHA384 => Aead::Aes256Gcm,
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => Aead::ChaCha20Poly1305,
            _ => return None,
        };
        let records_max = suite.tls13()?.common.confidentiality_limit;
        Some(Self { hash: SuiteHash::of(suite)?, aead, records_max })
    }
}

/// The `application_traffic_secret` of one direction. It never shows itself and is wiped when dropped.
pub struct TrafficSecret {
    suite: RecordSuite,
    /// As long as the suite's hash; the rest is unused.
    secret: Zeroizing<[u8; SECRET_BYTES_MAX]>,
}

impl TrafficSecret {
    /// Takes the secret of a connection of this suite; none if it has not the length of the suite's hash.
    pub fn new(suite: SupportedCipherSuite, secret: &[u8]) -> Option<Self> {
        let suite = RecordSuite::of(suite)?;
        if secret.len() != suite.hash.output_bytes() {
            return None;
        }
        let mut kept = Zeroizing::new([0; SECRET_BYTES_MAX]);
        kept.get_mut(..secret.len())?.copy_from_slice(secret);
        Some(Self { suite, secret: kept })
    }

    fn expand(&self, label: &[u8], length: usize) -> Result<Zeroizing<Vec<u8>>, RecordKeyError> {
        let bytes = self.suite.hash.output_bytes();
        let secret = self.secret.get(..bytes).unwrap_or_default();
        Ok(expand_label(self.suite.hash, secret, label, &[], length)?)
    }

    /// RFC 8446 §7.3: `[sender]_write_key` and `[sender]_write_iv`.
    fn keys(&self) -> Result<(RecordCipher, Zeroizing<[u8; NONCE_BYTES]>), RecordKeyError> {
        let key = self.expand(b"key", self.suite.aead.key_bytes())?;
        let cipher = RecordCipher::new(self.suite.aead, &key).map_err(|_| RecordKeyError::Refused)?;
        let mut iv = Zeroizing::new([0; NONCE_BYTES]);
        iv.copy_from_slice(&self.expand(b"iv", NONCE_BYTES)?);
        Ok((cipher, iv))
    }

    /// RFC 8446 §7.2: `application_traffic_secret_N+1`.
    fn next(&self) -> Result<Self, RecordKeyError> {
        let bytes = self.suite.hash.output_bytes();
        let mut secret = Zeroizing::new([0; SECRET_BYTES_MAX]);
        secret.get_mut(..bytes).unwrap_or_default().copy_from_slice(&self.expand(b"traffic upd", bytes)?);
        Ok(Self { suite: self.suite, secret })
    }
}

impl fmt::Debug for TrafficSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TrafficSecret(hidden)")
    }
}

/// The key of one direction, with the number of its next record: no nonce is used twice.
pub struct RecordKey {
    secret: TrafficSecret,
    cipher: RecordCipher,
    iv: Zeroizing<[u8; NONCE_BYTES]>,
    sequence: u64,
}

impl RecordKey {
    /// The key for records from number `sequence` on; those before have been sealed or opened elsewhere.
    pub fn new(secret: TrafficSecret, sequence: u64) -> Result<Self, RecordKeyError> {
        let (cipher, iv) = secret.keys()?;
        Ok(Self { secret, cipher, iv, sequence })
    }

    /// Encrypts `text` in place and returns the tag that belongs behind it. `header` is what will stand before both
    /// (RFC 8446 §5.2).
    pub fn seal(
        &mut self,
        header: &[u8; RECORD_HEADER_BYTES],
        text: &mut [u8],
    ) -> Result<[u8; RECORD_TAG_BYTES], RecordKeyError> {
        if self.is_worn() {
            return Err(RecordKeyError::KeyExhausted);
        }
        let nonce = self.nonce()?;
        self.cipher.seal(nonce, header, text).map_err(|_| RecordKeyError::Refused)
    }

    /// Decrypts in place what came behind `header`, ciphertext and tag. An error means that it was not sealed with
    /// this key as the next record.
    pub fn open<'s>(
        &mut self,
        header: &[u8; RECORD_HEADER_BYTES],
        sealed: &'s mut [u8],
    ) -> Result<&'s mut [u8], RecordKeyError> {
        let nonce = self.nonce()?;
        self.cipher.open(nonce, header, sealed).map_err(|_| RecordKeyError::Refused)
    }

    /// Whether no further record may be sealed before [`Self::update`], except the KeyUpdate that tells of it.
    pub fn is_worn_out_next(&self) -> bool {
        self.sequence.saturating_add(1) >= self.secret.suite.records_max
    }

    fn is_worn(&self) -> bool {
        self.sequence >= self.secret.suite.records_max
    }

    /// Goes over to the next key (RFC 8446 §7.2), whose records are numbered from 0.
    pub fn update(&mut self) -> Result<(), RecordKeyError> {
        *self = Self::new(self.secret.next()?, 0)?;
        Ok(())
    }

    /// RFC 8446 §5.3: the record's number, padded on the left, XOR the IV. Each number is used once.
    fn nonce(&mut self) -> Result<[u8; NONCE_BYTES], RecordKeyError> {
        let mut nonce = *self.iv;
        for (byte, number) in nonce.iter_mut().skip(NONCE_BYTES - 8).zip(self.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        self.sequence = self.sequence.checked_add(1).ok_or(RecordKeyError::KeyExhausted)?;
        Ok(nonce)
    }
}

impl fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordKey").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

/// Why a record is not sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RecordKeyError {
    /// It is not authentic, or longer than the cipher takes.
    #[error("the cipher refused a record")]
    Refused,
    /// RFC 8446 §5.5.
    #[error("the key has sealed as many records as it may")]
    KeyExhausted,
    /// A length that HKDF does not put out.
    #[error(transparent)]
    Derivation(#[from] ExportError),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8448 §3: `client_application_traffic_secret_0`.
    const SECRET: [u8; 32] = [
        0x9e, 0x40, 0x64, 0x6c, 0xe7, 0x9a, 0x7f, 0x9d, 0xc0, 0x5a, 0xf8, 0x88, 0x9b, 0xce, 0x65, 0x52, 0x87,
        0x5a, 0xfa, 0x0b, 0x06, 0xdf, 0x00, 0x87, 0xf7, 0x92, 0xeb, 0xb7, 0xc1, 0x75, 0x04, 0xa5,
    ];
    /// RFC 8448 §3: the record that the client sends with the bytes 0 to 49.
    const RECORD: [u8; 72] = [
        0x17, 0x03, 0x03, 0x00, 0x43, 0xa2, 0x3f, 0x70, 0x54, 0xb6, 0x2c, 0x94, 0xd0, 0xaf, 0xfa, 0xfe, 0x82,
        0x28, 0xba, 0x55, 0xcb, 0xef, 0xac, 0xea, 0x42, 0xf9, 0x14, 0xaa, 0x66, 0xbc, 0xab, 0x3f, 0x2b, 0x98,
        0x19, 0xa8, 0xa5, 0xb4, 0x6b, 0x39, 0x5b, 0xd5, 0x4a, 0x9a, 0x20, 0x44, 0x1e, 0x2b, 0x62, 0x97, 0x4e,
        0x1f, 0x5a, 0x62, 0x92, 0xa2, 0x97, 0x70, 0x14, 0xbd, 0x1e, 0x3d, 0xea, 0xe6, 0x3a, 0xee, 0xbb, 0x21,
        0x69, 0x49, 0x15, 0xe4,
    ];

    fn suites() -> Vec<SupportedCipherSuite> {
        crate::crypto::provider().cipher_suites.clone()
    }

    fn key(suite: SupportedCipherSuite, sequence: u64) -> RecordKey {
        let bytes = SuiteHash::of(suite).unwrap().output_bytes();
        RecordKey::new(TrafficSecret::new(suite, &vec![7; bytes]).unwrap(), sequence).unwrap()
    }

    fn of_the_rfc() -> RecordKey {
        let suite = suites().into_iter().find(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256);
        RecordKey::new(TrafficSecret::new(suite.unwrap(), &SECRET).unwrap(), 0).unwrap()
    }

    #[test]
    fn a_record_is_sealed_and_opened_as_in_rfc_8448() {
        let (header, sealed) = RECORD.split_first_chunk::<RECORD_HEADER_BYTES>().unwrap();
        let mut text: Vec<u8> = (0..50).chain([23]).collect();
        let tag = of_the_rfc().seal(header, &mut text).unwrap();
        assert_eq!([&text[..], &tag].concat(), sealed);
        let mut sealed = sealed.to_vec();
        let opened = of_the_rfc().open(header, &mut sealed).unwrap();
        assert_eq!(opened.to_vec(), (0..50).chain([23]).collect::<Vec<u8>>());
    }

    #[test]
    fn a_changed_bit_anywhere_another_number_or_the_next_key_opens_nothing() {
        for place in 0..RECORD.len() * 8 {
            let mut record = RECORD;
            record[place / 8] ^= 1 << (place % 8);
            let (header, sealed) = record.split_first_chunk_mut::<RECORD_HEADER_BYTES>().unwrap();
            assert_eq!(
                of_the_rfc().open(header, sealed).unwrap_err(),
                RecordKeyError::Refused,
                "bit {place}"
            );
        }
        let (header, sealed) = RECORD.split_first_chunk::<RECORD_HEADER_BYTES>().unwrap();
        let mut key = of_the_rfc();
        key.open(header, &mut sealed.to_vec()).unwrap();
        assert_eq!(key.open(header, &mut sealed.to_vec()).unwrap_err(), RecordKeyError::Refused, "replayed");
        let mut key = of_the_rfc();
        key.update().unwrap();
        assert_eq!(key.open(header, &mut sealed.to_vec()).unwrap_err(), RecordKeyError::Refused, "next key");
        for short in 0..RECORD_TAG_BYTES {
            assert!(of_the_rfc().open(header, &mut vec![0; short]).is_err(), "{short} bytes");
        }
    }

    #[test]
    fn a_key_seals_no_more_records_than_its_suite_allows() {
        for suite in suites() {
            let records_max = suite.tls13().unwrap().common.confidentiality_limit;
            let mut key = key(suite, records_max - 2);
            assert!(!key.is_worn_out_next());
            key.seal(&[0; 5], &mut [1]).unwrap();
            assert!(key.is_worn_out_next(), "one is left, for the KeyUpdate");
            key.seal(&[0; 5], &mut [2]).unwrap();
            assert_eq!(key.seal(&[0; 5], &mut [3]).unwrap_err(), RecordKeyError::KeyExhausted);
            key.update().unwrap();
            key.seal(&[0; 5], &mut [4]).unwrap();
        }
    }

    #[test]
    fn the_last_number_of_all_is_not_used() {
        let mut key = key(suites()[0], u64::MAX);
        assert_eq!(key.open(&[0; 5], &mut [0; 32]).unwrap_err(), RecordKeyError::KeyExhausted);
    }

    #[test]
    fn secrets_of_another_length_are_none_and_no_secret_is_shown() {
        for suite in suites() {
            let bytes = SuiteHash::of(suite).unwrap().output_bytes();
            for other in (0..bytes).chain(bytes + 1..64) {
                assert!(TrafficSecret::new(suite, &vec![7; other]).is_none());
            }
        }
        assert_eq!(format!("{:?}", key(suites()[0], 3)), "RecordKey { sequence: 3, .. }");
        let secret =
            TrafficSecret::new(suites()[0], &vec![7; SuiteHash::of(suites()[0]).unwrap().output_bytes()]);
        assert_eq!(format!("{:?}", secret.unwrap()), "TrafficSecret(hidden)");
    }
}
