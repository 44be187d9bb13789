//! A SPIFFE ID (SPIFFE-ID §2): the one name of a workload, always in its canonical form.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use super::{TrustDomain, TrustDomainError};

/// A SPIFFE ID has at most this many bytes (SPIFFE-ID §2.3).
pub const SPIFFE_ID_BYTES_MAX: usize = 2048;

const SCHEME: &str = "spiffe://";
const RESERVED: &str = "/postern";

/// `spiffe://TRUST_DOMAIN/PATH` in canonical form. The path may be absent: then it names the trust domain itself.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    uri: Arc<str>,
    trust_domain: TrustDomain,
}

impl SpiffeId {
    /// Reads an ID as the standard does: scheme and trust domain in any case, kept in lower case.
    pub fn parse(text: &str) -> Result<Self, SpiffeIdError> {
        let (domain, path) = split(text)?;
        Self::from_parts(TrustDomain::new(&domain.to_ascii_lowercase())?, path)
    }

    /// Reads an ID that must already be canonical, as in certificates and policies, where two spellings of one
    /// name must never meet.
    pub fn parse_canonical(text: &str) -> Result<Self, SpiffeIdError> {
        let id = Self::parse(text)?;
        if *id.uri != *text {
            return Err(SpiffeIdError::NotCanonical { id: text.to_owned(), canonical: id.to_string() });
        }
        Ok(id)
    }

    /// Puts an ID together from a trust domain and a path, which is empty or starts with `/`.
    pub fn from_parts(trust_domain: TrustDomain, path: &str) -> Result<Self, SpiffeIdError> {
        check_path(path)?;
        let uri = format!("{SCHEME}{trust_domain}{path}");
        if uri.len() > SPIFFE_ID_BYTES_MAX {
            return Err(SpiffeIdError::TooLong { bytes: uri.len() });
        }
        Ok(Self { uri: uri.into(), trust_domain })
    }

    /// Reads what an operator types: a full SPIFFE ID, or a path under `own` with or without its first `/`.
    pub fn parse_under(own: &TrustDomain, text: &str) -> Result<Self, SpiffeIdError> {
        if text.contains("://") {
            return Self::parse(text);
        }
        let slash = if text.starts_with('/') { "" } else { "/" };
        Self::from_parts(own.clone(), &format!("{slash}{text}"))
    }

    /// The identity of a trust domain's certificate authority: `spiffe://TD/postern/ca`.
    pub fn of_ca(trust_domain: &TrustDomain) -> Self {
        Self {
            uri: format!("{SCHEME}{trust_domain}{RESERVED}/ca").into(),
            trust_domain: trust_domain.clone(),
        }
    }

    /// The whole URI.
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// The trust domain that vouches for it.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path with its leading `/`, or an empty string.
    pub fn path(&self) -> &str {
        self.uri.get(SCHEME.len() + self.trust_domain.as_str().len()..).unwrap_or_default()
    }

    /// The path's segments, none for an ID without a path.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.path().split('/').skip(1)
    }

    /// Whether the ID lies under `/postern/`, which belongs to Postern itself.
    pub fn is_reserved(&self) -> bool {
        self.path().strip_prefix(RESERVED).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// Why a text is no SPIFFE ID.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SpiffeIdError {
    /// Nothing was given.
    #[error("SPIFFE ID is empty")]
    Empty,
    /// SPIFFE-ID §2.3.
    #[error("SPIFFE ID has {bytes} bytes, more than the {SPIFFE_ID_BYTES_MAX} allowed")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// SPIFFE-ID §2.
    #[error("SPIFFE ID {id:?} does not start with \"spiffe://\"")]
    Scheme {
        /// The text as given.
        id: String,
    },
    /// SPIFFE-ID §2.1.
    #[error(transparent)]
    TrustDomain(#[from] TrustDomainError),
    /// SPIFFE-ID §2.2: also a trailing slash makes an empty segment.
    #[error("SPIFFE ID path {path:?} has an empty segment")]
    EmptySegment {
        /// The path as given.
        path: String,
    },
    /// SPIFFE-ID §2.2.
    #[error("SPIFFE ID path {path:?} has the relative segment {segment:?}")]
    RelativeSegment {
        /// The path as given.
        path: String,
        /// `.` or `..`.
        segment: String,
    },
    /// SPIFFE-ID §2.2; a query, a fragment and percent-encoding fall here, too.
    #[error("SPIFFE ID path {path:?} has the character {character:?}; allowed are a-z A-Z 0-9 . - _ and /")]
    Character {
        /// The path as given.
        path: String,
        /// The first character that is not allowed.
        character: char,
    },
    /// A path that does not begin with `/`.
    #[error("SPIFFE ID path {path:?} does not start with \"/\"")]
    NoLeadingSlash {
        /// The path as given.
        path: String,
    },
    /// Upper case in scheme or trust domain where only the canonical form will do.
    #[error("SPIFFE ID {id:?} is not canonical: write {canonical:?}")]
    NotCanonical {
        /// The text as given.
        id: String,
        /// The spelling that would do.
        canonical: String,
    },
}

/// Splits a URI into the authority and the rest, which starts with `/` or is empty.
fn split(text: &str) -> Result<(&str, &str), SpiffeIdError> {
    if text.is_empty() {
        return Err(SpiffeIdError::Empty);
    }
    if text.len() > SPIFFE_ID_BYTES_MAX {
        return Err(SpiffeIdError::TooLong { bytes: text.len() });
    }
    let rest = match text.split_at_checked(SCHEME.len()) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(SCHEME) => rest,
        _ => return Err(SpiffeIdError::Scheme { id: text.to_owned() }),
    };
    Ok(rest.split_at(rest.find('/').unwrap_or(rest.len())))
}

fn check_path(path: &str) -> Result<(), SpiffeIdError> {
    if path.is_empty() {
        return Ok(());
    }
    let Some(segments) = path.strip_prefix('/') else {
        return Err(SpiffeIdError::NoLeadingSlash { path: path.to_owned() });
    };
    for segment in segments.split('/') {
        match segment {
            "" => return Err(SpiffeIdError::EmptySegment { path: path.to_owned() }),
            "." | ".." => {
                let segment = segment.to_owned();
                return Err(SpiffeIdError::RelativeSegment { path: path.to_owned(), segment });
            }
            _ => {}
        }
        let wrong = |c: &char| !matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_');
        if let Some(character) = segment.chars().find(wrong) {
            return Err(SpiffeIdError::Character { path: path.to_owned(), character });
        }
    }
    Ok(())
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpiffeId({})", self.uri)
    }
}
