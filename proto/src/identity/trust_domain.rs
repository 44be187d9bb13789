//! The name of a trust domain (SPIFFE-ID §2.1), always in its canonical lower-case form.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

/// A trust domain's name has at most this many bytes (SPIFFE-ID §2.3).
pub const TRUST_DOMAIN_BYTES_MAX: usize = 255;

/// A trust domain's canonical name: 1 to 255 bytes of `a-z 0-9 . - _`, without scheme.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Reads a canonical name. Upper-case letters are refused, naming the spelling that would do.
    pub fn new(name: &str) -> Result<Self, TrustDomainError> {
        if name.is_empty() {
            return Err(TrustDomainError::Empty);
        }
        if name.len() > TRUST_DOMAIN_BYTES_MAX {
            return Err(TrustDomainError::TooLong { bytes: name.len() });
        }
        let wrong = |c: &char| !matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_');
        if let Some(character) = name.chars().find(wrong) {
            return Err(TrustDomainError::Character { name: name.to_owned(), character });
        }
        if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(TrustDomainError::UpperCase {
                name: name.to_owned(),
                canonical: name.to_ascii_lowercase(),
            });
        }
        Ok(Self(name.into()))
    }

    /// The name, without scheme.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is no canonical trust domain name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TrustDomainError {
    /// Nothing was given.
    #[error("trust domain is empty")]
    Empty,
    /// SPIFFE-ID §2.3.
    #[error("trust domain has {bytes} bytes, more than the {TRUST_DOMAIN_BYTES_MAX} allowed")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// SPIFFE-ID §2.1.
    #[error("trust domain {name:?} has the character {character:?}; allowed are a-z 0-9 . - _")]
    Character {
        /// The name as given.
        name: String,
        /// The first character that is not allowed.
        character: char,
    },
    /// SPIFFE-ID §2.1: the canonical form is lower case.
    #[error("trust domain {name:?} is not canonical: write {canonical:?}")]
    UpperCase {
        /// The name as given.
        name: String,
        /// The spelling that would do.
        canonical: String,
    },
}

impl FromStr for TrustDomain {
    type Err = TrustDomainError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::new(name)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustDomain({})", self.0)
    }
}
