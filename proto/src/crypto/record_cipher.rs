//! The ciphers of records, by whichever of the two providers is the faster on this processor.

use thiserror::Error;

/// RFC 8446 §5.2: each suite's authentication tag.
pub const RECORD_TAG_BYTES: usize = 16;
/// RFC 8446 §5.3: `iv_length`, of each suite.
pub(crate) const NONCE_BYTES: usize = 12;

/// The AEAD of a TLS 1.3 suite (RFC 8446 §B.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aead {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
}

/// Whose code runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Provider {
    Ring,
    #[cfg(feature = "aws-lc-rs")]
    AwsLc,
}

/// The record is not authentic, or longer than the cipher takes, or the key has not the cipher's length.
#[derive(Debug, Error)]
#[error("refused by the cipher")]
pub(crate) struct Refused;

/// A key, which seals and opens in place. Neither has its tables in here, so that one kind does not pay for the other.
pub(crate) enum RecordCipher {
    Ring(Box<ring::aead::LessSafeKey>),
    #[cfg(feature = "aws-lc-rs")]
    AwsLc(aws_lc_rs::aead::LessSafeKey),
}

impl Aead {
    pub(crate) fn key_bytes(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 32,
        }
    }

    fn ring(self) -> &'static ring::aead::Algorithm {
        match self {
            Self::Aes128Gcm => &ring::aead::AES_128_GCM,
            Self::Aes256Gcm => &ring::aead::AES_256_GCM,
            Self::ChaCha20Poly1305 => &ring::aead::CHACHA20_POLY1305,
        }
    }

    #[cfg(feature = "aws-lc-rs")]
    fn aws_lc(self) -> &'static aws_lc_rs::aead::Algorithm {
        match self {
            Self::Aes128Gcm => &aws_lc_rs::aead::AES_128_GCM,
            Self::Aes256Gcm => &aws_lc_rs::aead::AES_256_GCM,
            Self::ChaCha20Poly1305 => &aws_lc_rs::aead::CHACHA20_POLY1305,
        }
    }
}

impl Provider {
    /// Both use the vector AES that a processor may have, but aws-lc only the form of it that needs AVX-512. Measured
    /// with AES-GCM and 16 KiB: with AVX-512 aws-lc is twice as fast as ring, with AVX2 alone ring is twice as fast.
    #[cfg(feature = "aws-lc-rs")]
    fn faster_here() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            use std::is_x86_feature_detected as has;
            let has_vector_aes = has!("vaes") && has!("vpclmulqdq") && has!("avx2");
            let has_avx512 = has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl");
            if has_vector_aes && !has_avx512 {
                return Self::Ring;
            }
        }
        Self::AwsLc
    }

    #[cfg(not(feature = "aws-lc-rs"))]
    fn faster_here() -> Self {
        Self::Ring
    }
}

impl RecordCipher {
    pub(crate) fn new(aead: Aead, key: &[u8]) -> Result<Self, Refused> {
        Self::by(Provider::faster_here(), aead, key)
    }

    fn by(provider: Provider, aead: Aead, key: &[u8]) -> Result<Self, Refused> {
        match provider {
            Provider::Ring => {
                let key = ring::aead::UnboundKey::new(aead.ring(), key).map_err(|_| Refused)?;
                Ok(Self::Ring(Box::new(ring::aead::LessSafeKey::new(key))))
            }
            #[cfg(feature = "aws-lc-rs")]
            Provider::AwsLc => {
                let key = aws_lc_rs::aead::UnboundKey::new(aead.aws_lc(), key).map_err(|_| Refused)?;
                Ok(Self::AwsLc(aws_lc_rs::aead::LessSafeKey::new(key)))
            }
        }
    }

    /// Encrypts `text` and returns its tag.
    pub(crate) fn seal(
        &self,
        nonce: [u8; NONCE_BYTES],
        header: &[u8],
        text: &mut [u8],
    ) -> Result<[u8; RECORD_TAG_BYTES], Refused> {
        match self {
            Self::Ring(key) => {
                use ring::aead::{Aad, Nonce};
                let nonce = Nonce::assume_unique_for_key(nonce);
                let tag = key.seal_in_place_separate_tag(nonce, Aad::from(header), text);
                tag_of(tag.map_err(|_| Refused)?.as_ref())
            }
            #[cfg(feature = "aws-lc-rs")]
            Self::AwsLc(key) => {
                use aws_lc_rs::aead::{Aad, Nonce};
                let nonce = Nonce::assume_unique_for_key(nonce);
                let tag = key.seal_in_place_separate_tag(nonce, Aad::from(header), text);
                tag_of(tag.map_err(|_| Refused)?.as_ref())
            }
        }
    }

    /// Decrypts ciphertext and tag.
    pub(crate) fn open<'s>(
        &self,
        nonce: [u8; NONCE_BYTES],
        header: &[u8],
        sealed: &'s mut [u8],
    ) -> Result<&'s mut [u8], Refused> {
        match self {
            Self::Ring(key) => {
                use ring::aead::{Aad, Nonce};
                let nonce = Nonce::assume_unique_for_key(nonce);
                key.open_in_place(nonce, Aad::from(header), sealed).map_err(|_| Refused)
            }
            #[cfg(feature = "aws-lc-rs")]
            Self::AwsLc(key) => {
                use aws_lc_rs::aead::{Aad, Nonce};
                let nonce = Nonce::assume_unique_for_key(nonce);
                key.open_in_place(nonce, Aad::from(header), sealed).map_err(|_| Refused)
            }
        }
    }
}

fn tag_of(tag: &[u8]) -> Result<[u8; RECORD_TAG_BYTES], Refused> {
    tag.try_into().map_err(|_| Refused)
}

#[cfg(test)]
#[cfg(feature = "aws-lc-rs")]
mod tests {
    use super::*;

    const AEADS: [Aead; 3] = [Aead::Aes128Gcm, Aead::Aes256Gcm, Aead::ChaCha20Poly1305];
    const HEADER: [u8; 5] = [23, 3, 3, 1, 2];

    fn key(provider: Provider, aead: Aead) -> RecordCipher {
        let bytes: Vec<u8> = (0..aead.key_bytes()).map(|at| at as u8 * 7).collect();
        RecordCipher::by(provider, aead, &bytes).unwrap()
    }

    fn text(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| (at % 251) as u8).collect()
    }

    #[test]
    fn whoever_is_faster_says_the_same() {
        for aead in AEADS {
            for bytes in (0..300).chain([1_024, 16_383, 16_384, 16_401]) {
                let seal = |provider| {
                    let mut sealed = text(bytes);
                    let tag = key(provider, aead).seal([9; NONCE_BYTES], &HEADER, &mut sealed).unwrap();
                    sealed.extend_from_slice(&tag);
                    sealed
                };
                let (ring, aws_lc) = (seal(Provider::Ring), seal(Provider::AwsLc));
                assert!(ring == aws_lc, "{aead:?}, {bytes} bytes");
                for provider in [Provider::Ring, Provider::AwsLc] {
                    let (cipher, mut sealed) = (key(provider, aead), ring.clone());
                    assert_eq!(cipher.open([9; NONCE_BYTES], &HEADER, &mut sealed).unwrap(), text(bytes));
                }
            }
        }
    }

    #[test]
    fn whoever_is_faster_refuses_the_same() {
        for (aead, provider) in
            AEADS.into_iter().flat_map(|aead| [(aead, Provider::Ring), (aead, Provider::AwsLc)])
        {
            let cipher = key(provider, aead);
            let mut sealed = text(100);
            let tag = cipher.seal([9; NONCE_BYTES], &HEADER, &mut sealed).unwrap();
            sealed.extend_from_slice(&tag);
            for place in 0..sealed.len() {
                let mut changed = sealed.clone();
                changed[place] ^= 1;
                assert!(cipher.open([9; NONCE_BYTES], &HEADER, &mut changed).is_err(), "byte {place}");
            }
            assert!(cipher.open([8; NONCE_BYTES], &HEADER, &mut sealed.clone()).is_err());
            assert!(cipher.open([9; NONCE_BYTES], &[0; 5], &mut sealed.clone()).is_err());
            assert!(
                (0..RECORD_TAG_BYTES)
                    .all(|short| { cipher.open([9; NONCE_BYTES], &HEADER, &mut vec![0; short]).is_err() })
            );
            let bytes = aead.key_bytes();
            assert!(
                [0, bytes - 1, bytes + 1]
                    .into_iter()
                    .all(|other| { RecordCipher::by(provider, aead, &vec![7; other]).is_err() })
            );
        }
    }
}
