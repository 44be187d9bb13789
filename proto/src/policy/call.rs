//! Calls: one HTTP request as the policy sees it, and what a rule's `calls` says about it.

use std::fmt;

use thiserror::Error;

use super::path::{Ambiguity, PATH_BYTES_MAX, normalise};
use crate::segments::{Segment, SegmentError, SegmentPattern};

/// One HTTP request, as the policy sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call<'a> {
    /// The method, as sent.
    pub method: &'a str,
    /// The path, as sent: what precedes `?`.
    pub path: &'a str,
}

impl<'a> Call<'a> {
    /// Reads what a person asks about: `METHOD PATH`. A query is no part of the path.
    pub fn parse(text: &'a str) -> Result<Self, CallError> {
        let (method, target) =
            text.split_once(' ').ok_or_else(|| CallError::Shape { call: text.to_owned() })?;
        if method.is_empty() || !method.bytes().all(is_token) {
            return Err(CallError::Method { method: method.to_owned() });
        }
        let path = target.split_once('?').map_or(target, |(path, _)| path);
        if path.is_empty() || path.contains(' ') {
            return Err(CallError::Shape { call: text.to_owned() });
        }
        Ok(Self { method, path })
    }
}

impl fmt::Display for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method.escape_debug(), self.path.escape_debug())
    }
}

/// Any byte of an HTTP token (RFC 9110 §5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// One entry of a rule's `calls`: a method or `*`, and a path of literals, `*` and a last `**`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallPattern {
    method: Segment,
    path: SegmentPattern,
}

impl CallPattern {
    /// Reads `METHOD /path`. Only the normal spelling will do, so that one call has one spelling.
    pub fn parse(text: &str) -> Result<Self, CallError> {
        let (method, path) =
            text.split_once(' ').ok_or_else(|| CallError::Shape { call: text.to_owned() })?;
        Ok(Self { method: parse_method(method)?, path: parse_path(path)? })
    }

    /// Whether the pattern covers a method and a path in normal form.
    pub fn matches(&self, method: &str, normal_path: &str) -> bool {
        let method_matches = match &self.method {
            Segment::Any => true,
            Segment::Literal(literal) => **literal == *method,
        };
        method_matches && self.path.matches(normal_path.split('/').skip(1))
    }

    /// Whether every call that `other` matches is matched by `self`, too.
    pub fn covers(&self, other: &Self) -> bool {
        (self.method == Segment::Any || self.method == other.method) && self.path.covers(&other.path)
    }

    /// A pattern that ends in `**` as parts that together match the same calls.
    pub(super) fn split_rest(&self) -> Option<[Self; 3]> {
        let with = |path| Self { method: self.method.clone(), path };
        self.path.split_rest().map(|parts| parts.map(with))
    }

    /// Whether the shortest path that could match is one that is still read.
    pub(super) fn has_short_paths(&self) -> bool {
        let segment_bytes = |segment: &Segment| match segment {
            Segment::Any => 1,
            Segment::Literal(literal) => literal.len(),
        };
        let bytes: usize = self.path.segments().iter().map(|segment| 1 + segment_bytes(segment)).sum();
        bytes + usize::from(self.path.has_rest()) <= PATH_BYTES_MAX
    }

    pub(crate) fn method(&self) -> &Segment {
        &self.method
    }

    pub(crate) fn path(&self) -> &SegmentPattern {
        &self.path
    }
}

impl fmt::Display for CallPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |segment: &Segment| match segment {
            Segment::Any => "*".to_owned(),
            Segment::Literal(literal) => literal.to_string(),
        };
        write!(f, "{} ", text(&self.method))?;
        for segment in self.path.segments() {
            write!(f, "/{}", text(segment))?;
        }
        if self.path.has_rest() { f.write_str("/**") } else { Ok(()) }
    }
}

/// The methods that no rule with `calls` ever allows: CONNECT has no path.
const PATHLESS_METHOD: &str = "CONNECT";

fn parse_method(method: &str) -> Result<Segment, CallError> {
    let upper = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'-';
    match method {
        "*" => Ok(Segment::Any),
        PATHLESS_METHOD => Err(CallError::Connect),
        _ if !method.is_empty() && method.bytes().all(upper) => Ok(Segment::Literal(method.into())),
        _ if !method.is_empty() && method.to_ascii_uppercase().bytes().all(upper) => {
            Err(CallError::LowerCaseMethod { method: method.to_owned() })
        }
        _ => Err(CallError::Method { method: method.to_owned() }),
    }
}

fn parse_path(path: &str) -> Result<SegmentPattern, CallError> {
    if path.is_empty() || path.contains(' ') {
        return Err(CallError::Path { path: path.to_owned() });
    }
    if path.contains('?') {
        return Err(CallError::Query { path: path.to_owned() });
    }
    let normal = normalise(path).map_err(|cause| CallError::Ambiguous { path: path.to_owned(), cause })?;
    if normal != path {
        return Err(CallError::NotNormal { path: path.to_owned(), normal: normal.into_owned() });
    }
    let literal = |_| Ok::<(), CallError>(());
    SegmentPattern::parse(path.split('/').skip(1), literal).map_err(|error| match error {
        SegmentError::RestNotLast => CallError::RestNotLast { path: path.to_owned() },
        SegmentError::InsideSegment => CallError::InsideSegment { path: path.to_owned() },
        SegmentError::Literal(error) => error,
    })
}

/// Why a text is no call, or no pattern over calls.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CallError {
    /// Not two words.
    #[error("{call:?} is not a method, one space and a path")]
    Shape {
        /// The text as given.
        call: String,
    },
    /// Not a method.
    #[error("{method:?} is no method: expected upper-case letters, digits and \"-\", or \"*\"")]
    Method {
        /// The text as given.
        method: String,
    },
    /// Methods are compared exactly, and every standard one is upper case.
    #[error("method {method:?} is not in upper case")]
    LowerCaseMethod {
        /// The text as given.
        method: String,
    },
    /// policy.md `Paths`: CONNECT matches no rule that has `calls`.
    #[error("CONNECT never matches a rule with calls")]
    Connect,
    /// Empty, or with a space.
    #[error("{path:?} is no path")]
    Path {
        /// The text as given.
        path: String,
    },
    /// policy.md `Paths`: the query is no part of the path.
    #[error("path {path:?} has a query, which rules do not look at")]
    Query {
        /// The text as given.
        path: String,
    },
    /// An ambiguous path matches no rule.
    #[error("path {path:?} can never match: {cause}")]
    Ambiguous {
        /// The text as given.
        path: String,
        /// Which part.
        #[source]
        cause: Ambiguity,
    },
    /// policy.md `Rules`: a literal is written normalised.
    #[error("path {path:?} is not written in its normal form")]
    NotNormal {
        /// The text as given.
        path: String,
        /// The right spelling.
        normal: String,
    },
    /// `**` anywhere but at the end.
    #[error("path {path:?} has \"**\" before its end")]
    RestNotLast {
        /// The text as given.
        path: String,
    },
    /// A wildcard is a whole segment.
    #[error("path {path:?} has a wildcard inside a segment")]
    InsideSegment {
        /// The text as given.
        path: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, call: &str) -> bool {
        let call = Call::parse(call).unwrap();
        CallPattern::parse(pattern).unwrap().matches(call.method, &normalise(call.path).unwrap())
    }

    #[test]
    fn methods_are_exact_and_case_sensitive() {
        assert!(matches("GET /a", "GET /a"));
        for other in ["HEAD /a", "get /a", "Get /a", "GETX /a", "TRACE /a", "PRI /a", "BREW /a"] {
            assert!(!matches("GET /a", other), "{other}");
            assert!(matches("* /a", other), "{other}");
        }
    }

    #[test]
    fn a_star_is_one_segment_that_is_not_empty() {
        assert!(matches("GET /charges/*", "GET /charges/7"));
        assert!(matches("GET /a/*/c", "GET /a/b/c"));
        for other in ["GET /charges", "GET /charges/", "GET /charges/7/", "GET /charges/7/8", "GET /x/7"] {
            assert!(!matches("GET /charges/*", other), "{other}");
        }
    }

    #[test]
    fn two_stars_are_any_rest_after_the_slash() {
        for path in ["GET /a/", "GET /a/b", "GET /a/b/c", "GET /a/b/"] {
            assert!(matches("GET /a/**", path), "{path}");
        }
        for path in ["GET /a", "GET /ab", "GET /ab/c", "GET /A/b", "GET /"] {
            assert!(!matches("GET /a/**", path), "{path}");
        }
        assert!(matches("* /**", "GET /"));
    }

    #[test]
    fn a_trailing_slash_and_case_are_distinct() {
        assert!(!matches("POST /charge", "POST /charge/"));
        assert!(!matches("POST /charge/", "POST /charge"));
        assert!(!matches("POST /charge", "POST /CHARGE"));
    }

    #[test]
    fn an_encoded_wildcard_is_a_literal() {
        assert!(matches("GET /%2A", "GET /%2a"));
        assert!(!matches("GET /%2A", "GET /b"));
    }

    #[test]
    fn other_spellings_of_a_pattern_are_refused() {
        for pattern in [
            "",
            "GET",
            "/a",
            "GET  /a",
            " GET /a",
            "GET /a ",
            "GET /a /b",
            "get /a",
            "Get /a",
            "GET\t/a",
            "G_T /a",
            "GET a",
            "GET *",
            "OPTIONS *",
            "GET",
            "CONNECT /a",
            "CONNECT host:443",
            "** /a",
            "GET //a",
            "GET /a//b",
            "GET /./a",
            "GET /a/..",
            "GET /%61",
            "GET /%2a",
            "GET /a%2fb",
            "GET /a;b",
            "GET /a?x",
            "GET /a#x",
            "GET /caf\u{e9}",
            "GET /a*",
            "GET /*a",
            "GET /**/a",
            "GET /a/**/",
            "GET /***",
            "GET http://h/a",
        ] {
            assert!(CallPattern::parse(pattern).is_err(), "{pattern:?}");
        }
    }

    #[test]
    fn a_pattern_prints_as_it_was_read() {
        for pattern in
            ["GET /", "* /**", "POST /charge", "GET /a/*/", "POST /pkg.Service/Method", "M-SEARCH /a/**"]
        {
            assert_eq!(CallPattern::parse(pattern).unwrap().to_string(), pattern);
        }
    }

    #[test]
    fn a_question_may_be_any_request_but_must_be_one() {
        for call in ["GET /a?x=1", "get //a", "OPTIONS *", "CONNECT host:443", "X_Y /a;b"] {
            assert!(Call::parse(call).is_ok(), "{call}");
        }
        assert_eq!(Call::parse("GET /a?x=1 y").unwrap().path, "/a");
        for call in ["", "GET", "GET ", " /a", "G\u{e9}T /a", "GET /a b", "GET ?x", "GET\t/a"] {
            assert!(Call::parse(call).is_err(), "{call}");
        }
    }
}
