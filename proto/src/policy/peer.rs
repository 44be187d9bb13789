//! How a policy and its questions name a peer (policy.md `Names`).

use thiserror::Error;

use crate::identity::{IdPattern, IdPatternError, SpiffeId, SpiffeIdError, TrustDomain, TrustDomainError};

pub(super) const SCHEME: &str = "spiffe://";

/// Reads a peer: a declared service, a path pattern under the own trust domain, or a full SPIFFE ID whose path may
/// be a pattern.
pub(crate) fn parse<'a>(
    text: &str,
    own: &TrustDomain,
    declared: impl Fn(&str) -> Option<&'a SpiffeId>,
) -> Result<IdPattern, PeerError> {
    if text.starts_with('/') {
        return Ok(IdPattern::new(own.clone(), text)?);
    }
    if let Some(rest) = text.strip_prefix(SCHEME) {
        let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let domain = TrustDomain::new(domain)?;
        return match path {
            "" => Err(PeerError::NoPath { id: text.to_owned() }),
            _ => Ok(IdPattern::new(domain, path)?),
        };
    }
    if text.contains("://") {
        SpiffeId::parse_canonical(text)?;
    }
    let id = declared(text).ok_or_else(|| PeerError::Undeclared { name: text.to_owned() })?;
    Ok(IdPattern::new(id.trust_domain().clone(), id.path())?)
}

/// Reads a peer that must be one identity.
pub(super) fn parse_one<'a>(
    text: &str,
    own: &TrustDomain,
    declared: impl Fn(&str) -> Option<&'a SpiffeId>,
) -> Result<SpiffeId, PeerError> {
    let pattern = parse(text, own, declared)?;
    pattern.as_exact().ok_or_else(|| PeerError::NotOne { pattern: text.to_owned() })
}

/// Why a text is no peer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PeerError {
    /// A bare word is a declared service.
    #[error("no service {name:?} is declared")]
    Undeclared {
        /// The word as given.
        name: String,
    },
    /// A trust domain alone is nobody: X509-SVID §2 demands a path of a workload.
    #[error("{id:?} has no path")]
    NoPath {
        /// The ID as given.
        id: String,
    },
    /// A pattern where one identity is asked for.
    #[error("{pattern:?} is a pattern, not one identity")]
    NotOne {
        /// The pattern as given.
        pattern: String,
    },
    /// Not canonical, or a wildcard in the trust domain.
    #[error(transparent)]
    TrustDomain(#[from] TrustDomainError),
    /// Not a path that an ID could have.
    #[error(transparent)]
    Pattern(#[from] IdPatternError),
    /// Not a SPIFFE ID.
    #[error(transparent)]
    Id(#[from] SpiffeIdError),
}

/// The spelling that was probably meant: the nearest of a few that `reads` takes.
pub(super) fn probably_meant(written: &str, reads: impl Fn(&str) -> bool) -> Option<String> {
    let trimmed = written.trim();
    let (domain, path) = match trimmed.split_once("://") {
        Some((_, rest)) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
        None => ("", trimmed),
    };
    let segments = path.split('/').filter(|segment| !segment.is_empty());
    let path: String = segments.flat_map(|segment| ["/", segment]).collect();
    let id = format!("{SCHEME}{}{path}", domain.to_ascii_lowercase());
    let candidates = if domain.is_empty() { vec![trimmed.to_owned(), path] } else { vec![id] };
    candidates.into_iter().find(|candidate| candidate != written && reads(candidate))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> Result<String, PeerError> {
        let own = TrustDomain::new("shop.example").unwrap();
        let orders = SpiffeId::parse("spiffe://shop.example/ns/x/sa/orders").unwrap();
        parse(text, &own, |name| (name == "orders").then_some(&orders)).map(|pattern| pattern.to_string())
    }

    #[test]
    fn a_bare_word_is_a_declared_service_and_means_its_identity() {
        assert_eq!(peer("orders").unwrap(), "spiffe://shop.example/ns/x/sa/orders");
        for word in ["order", "Orders", "", "*", "**", "orders/x", "orders ", "no", "on"] {
            assert!(matches!(peer(word), Err(PeerError::Undeclared { .. })), "{word}");
        }
    }

    #[test]
    fn a_path_lies_under_the_own_domain() {
        assert_eq!(peer("/ns/*/sa/**").unwrap(), "spiffe://shop.example/ns/*/sa/**");
    }

    #[test]
    fn a_full_id_may_have_a_pattern_in_its_path_only() {
        assert_eq!(peer("spiffe://partner.example/a/*").unwrap(), "spiffe://partner.example/a/*");
        for text in [
            "spiffe://*/a",
            "spiffe://*.example/a",
            "spiffe://shop.example",
            "spiffe://shop.example/",
            "spiffe:///a",
            "spiffe://Shop.example/a",
            "SPIFFE://shop.example/a",
            "https://shop.example/a",
            "spiffe://shop.example/a*",
            "spiffe://shop.example:1/a",
            "spiffe://u@shop.example/a",
            "spiffe://shop.example/a?b",
        ] {
            assert!(peer(text).is_err(), "{text}");
        }
    }
}
