//! A pattern over SPIFFE IDs, as policies write peers: whole segments only, never in the trust domain.

use std::fmt;

use thiserror::Error;

use super::{SpiffeId, SpiffeIdError, TrustDomain};

/// Matches SPIFFE IDs of one trust domain: literal segments, `*` for exactly one, `**` (last only) for one or more.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdPattern {
    trust_domain: TrustDomain,
    segments: Vec<Segment>,
    rest: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Segment {
    Literal(String),
    Any,
}

impl IdPattern {
    /// Reads a path pattern (`/ns/batch/sa/*`) under a trust domain.
    pub fn new(trust_domain: TrustDomain, path: &str) -> Result<Self, IdPatternError> {
        let Some(body) = path.strip_prefix('/') else {
            return Err(SpiffeIdError::NoLeadingSlash { path: path.to_owned() }.into());
        };
        let (body, rest) = match body.strip_suffix("**") {
            Some("") => ("", true),
            Some(before) if before.ends_with('/') => (before.strip_suffix("/").unwrap_or(before), true),
            _ => (body, false),
        };
        if body.contains("**") {
            return Err(IdPatternError::RestNotLast { pattern: path.to_owned() });
        }
        let mut segments = Vec::new();
        let pieces = if rest && body.is_empty() { None } else { Some(body.split('/')) };
        for piece in pieces.into_iter().flatten() {
            segments.push(match piece {
                "*" => Segment::Any,
                _ if piece.contains('*') => {
                    return Err(IdPatternError::InsideSegment { pattern: path.to_owned() });
                }
                _ => {
                    SpiffeId::from_parts(trust_domain.clone(), &format!("/{piece}"))?;
                    Segment::Literal(piece.to_owned())
                }
            });
        }
        Ok(Self { trust_domain, segments, rest })
    }

    /// Whether the pattern covers this ID.
    pub fn matches(&self, id: &SpiffeId) -> bool {
        if id.trust_domain() != &self.trust_domain {
            return false;
        }
        let mut given = id.segments();
        for expected in &self.segments {
            match (expected, given.next()) {
                (Segment::Any, Some(_)) => {}
                (Segment::Literal(literal), Some(segment)) if literal == segment => {}
                _ => return false,
            }
        }
        given.next().is_some() == self.rest
    }
}

/// Why a text is no pattern over SPIFFE IDs.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdPatternError {
    /// `**` anywhere but at the end.
    #[error("pattern {pattern:?} has \"**\" before its end")]
    RestNotLast {
        /// The pattern as given.
        pattern: String,
    },
    /// A wildcard is a whole segment.
    #[error("pattern {pattern:?} has a wildcard inside a segment")]
    InsideSegment {
        /// The pattern as given.
        pattern: String,
    },
    /// A literal segment that no SPIFFE ID can have.
    #[error(transparent)]
    Id(#[from] SpiffeIdError),
}

impl fmt::Display for IdPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}", self.trust_domain)?;
        for segment in &self.segments {
            match segment {
                Segment::Literal(literal) => write!(f, "/{literal}")?,
                Segment::Any => f.write_str("/*")?,
            }
        }
        if self.rest { f.write_str("/**") } else { Ok(()) }
    }
}
