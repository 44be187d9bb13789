//! A pattern over SPIFFE IDs, as policies write peers: whole segments only, never in the trust domain.

use std::fmt;

use thiserror::Error;

use super::{SPIFFE_ID_BYTES_MAX, SpiffeId, SpiffeIdError, TrustDomain};
use crate::segments::{Segment, SegmentError, SegmentPattern};

/// Matches SPIFFE IDs of one trust domain: literal segments, `*` for exactly one, `**` (last only) for one or more.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdPattern {
    trust_domain: TrustDomain,
    path: SegmentPattern,
}

impl IdPattern {
    /// Reads a path pattern (`/ns/batch/sa/*`) under a trust domain.
    pub fn new(trust_domain: TrustDomain, path: &str) -> Result<Self, IdPatternError> {
        let Some(body) = path.strip_prefix('/') else {
            return Err(SpiffeIdError::NoLeadingSlash { path: path.to_owned() }.into());
        };
        let literal = |piece: &str| match SpiffeId::from_parts(trust_domain.clone(), &format!("/{piece}")) {
            Ok(_) => Ok(()),
            Err(error) => Err(naming_whole(path, error)),
        };
        let parsed = SegmentPattern::parse(body.split('/'), literal).map_err(|error| match error {
            SegmentError::RestNotLast => IdPatternError::RestNotLast { pattern: path.to_owned() },
            SegmentError::InsideSegment => IdPatternError::InsideSegment { pattern: path.to_owned() },
            SegmentError::Literal(error) => error.into(),
        })?;
        let pattern = Self { trust_domain, path: parsed };
        match pattern.shortest_id_bytes() {
            bytes if bytes > SPIFFE_ID_BYTES_MAX => Err(SpiffeIdError::TooLong { bytes }.into()),
            _ => Ok(pattern),
        }
    }

    /// Whether the pattern covers this ID.
    pub fn matches(&self, id: &SpiffeId) -> bool {
        id.trust_domain() == &self.trust_domain && self.path.matches(id.segments())
    }

    /// The trust domain whose IDs it matches.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Whether it is `/**`: everyone of its trust domain.
    pub fn is_everyone(&self) -> bool {
        self.path.has_rest() && self.path.segments().is_empty()
    }

    /// The one ID it matches, if it has no wildcard.
    pub fn as_exact(&self) -> Option<SpiffeId> {
        if !self.path.is_exact() {
            return None;
        }
        SpiffeId::parse(&self.to_string()).ok()
    }

    /// Whether its first segment is the reserved one, so that everything it matches belongs to Postern itself.
    pub fn is_reserved(&self) -> bool {
        match self.path.segments().first() {
            Some(Segment::Literal(first)) => {
                SpiffeId::from_parts(self.trust_domain.clone(), &format!("/{first}"))
                    .is_ok_and(|id| id.is_reserved())
            }
            _ => false,
        }
    }

    /// Whether every ID that `other` matches is matched by `self`, too.
    pub fn covers(&self, other: &Self) -> bool {
        self.trust_domain == other.trust_domain && self.path.covers(&other.path)
    }

    /// A pattern that ends in `**` as parts that together match the same IDs: no ID has an empty segment.
    pub(crate) fn split_rest(&self) -> Option<[Self; 2]> {
        let with = |path| Self { trust_domain: self.trust_domain.clone(), path };
        self.path.split_rest().map(|[_, one, more]| [with(one), with(more)])
    }

    /// Whether the shortest ID that could match is within the bound of SPIFFE §2.3.
    pub(crate) fn has_short_ids(&self) -> bool {
        self.shortest_id_bytes() <= SPIFFE_ID_BYTES_MAX
    }

    pub(crate) fn path(&self) -> &SegmentPattern {
        &self.path
    }

    /// The bytes of the shortest ID that could match: a pattern that no ID can match is an error, not a rule.
    fn shortest_id_bytes(&self) -> usize {
        self.to_string().len() - usize::from(self.path.has_rest())
    }
}

/// What is wrong with one segment, told of the path as it was given.
fn naming_whole(path: &str, error: SpiffeIdError) -> SpiffeIdError {
    let path = path.to_owned();
    match error {
        SpiffeIdError::EmptySegment { .. } => SpiffeIdError::EmptySegment { path },
        SpiffeIdError::RelativeSegment { segment, .. } => SpiffeIdError::RelativeSegment { path, segment },
        SpiffeIdError::Character { character, .. } => SpiffeIdError::Character { path, character },
        other => other,
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
        for segment in self.path.segments() {
            match segment {
                Segment::Literal(literal) => write!(f, "/{literal}")?,
                Segment::Any => f.write_str("/*")?,
            }
        }
        if self.path.has_rest() { f.write_str("/**") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(path: &str) -> Result<IdPattern, IdPatternError> {
        IdPattern::new(TrustDomain::new("shop.example").unwrap(), path)
    }

    fn matches(path: &str, id: &str) -> bool {
        let id = SpiffeId::parse_under(&TrustDomain::new("shop.example").unwrap(), id).unwrap();
        pattern(path).unwrap().matches(&id)
    }

    #[test]
    fn a_star_is_exactly_one_whole_segment() {
        assert!(matches("/ns/*/sa/a", "/ns/x/sa/a"));
        assert!(!matches("/ns/*", "/ns"));
        assert!(!matches("/ns/*", "/ns/x/y"));
    }

    #[test]
    fn two_stars_are_one_or_more_segments() {
        assert!(matches("/ns/**", "/ns/x"));
        assert!(matches("/ns/**", "/ns/x/y/z"));
        assert!(!matches("/ns/**", "/ns"));
        assert!(matches("/**", "/orders"));
        assert!(!matches("/**", "spiffe://shop.example"));
    }

    #[test]
    fn a_prefix_of_a_name_is_another_name() {
        for other in ["/orders-evil", "/orders/x", "/order", "/Orders"] {
            assert!(!matches("/orders", other), "{other}");
        }
        assert!(!matches("/orders/*", "/orders"));
        assert!(!matches("/orders/**", "/orders-evil/x"));
    }

    #[test]
    fn another_trust_domain_never_matches() {
        for path in ["/orders", "/*", "/**"] {
            assert!(!matches(path, "spiffe://evil.example/orders"), "{path}");
        }
    }

    #[test]
    fn wildcards_elsewhere_are_refused() {
        for path in ["/a*", "/*a", "/a/**/b", "/**/**", "/***", "/a**", "/**a", "/**/"] {
            assert!(pattern(path).is_err(), "{path}");
        }
    }

    #[test]
    fn what_no_id_can_be_is_refused() {
        let long = format!("/*/{}", "a".repeat(SPIFFE_ID_BYTES_MAX));
        for path in
            ["", "orders", "/", "//", "/a/", "/a//b", "/./a", "/a/../b", "/a?b", "/%61", "/a b", &long]
        {
            assert!(pattern(path).is_err(), "{path}");
        }
    }

    #[test]
    fn a_pattern_without_wildcard_is_one_id() {
        assert_eq!(pattern("/a/b").unwrap().as_exact().unwrap().as_str(), "spiffe://shop.example/a/b");
        assert_eq!(pattern("/a/*").unwrap().as_exact(), None);
    }

    #[test]
    fn what_lies_under_postern_is_reserved() {
        assert!(pattern("/postern/*").unwrap().is_reserved());
        assert!(pattern("/postern/ca").unwrap().is_reserved());
        assert!(!pattern("/posterns/*").unwrap().is_reserved());
        assert!(!pattern("/*/ca").unwrap().is_reserved());
    }
}
