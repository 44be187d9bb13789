//! What a request is aimed at, if that can be said at all: what is not valid HTTP goes no further.

use http::header::{HOST, HeaderMap};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, StatusCode, Uri, Version};
use thiserror::Error;

use super::framing::Head;
use crate::config::Http;

/// A request's authority and path, each of which can be read in one way only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) authority: Authority,
    /// Path and query, their bytes as sent; `*` of `OPTIONS *`.
    pub(super) path_and_query: PathAndQuery,
}

/// Why a request is not served, whoever sends it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum Bad {
    #[error("Content-Length and Transfer-Encoding are both given (RFC 9112 §6.1)")]
    BothLengths,
    #[error("Content-Length is given more than once (RFC 9110 §8.6)")]
    RepeatedLength,
    #[error("a line of the head ends without a carriage return (RFC 9112 §2.2)")]
    BareLineFeed,
    #[error("Transfer-Encoding is {0:?}, and only \"chunked\" is understood (RFC 9112 §6.1)")]
    Coding(String),
    #[error("the target has a fragment (RFC 9112 §3.2)")]
    Fragment,
    #[error("Host is missing (RFC 9112 §3.2)")]
    NoHost,
    #[error("there are {0} Host fields (RFC 9112 §3.2)")]
    Hosts(usize),
    #[error("Host {0:?} is no host and port (RFC 9110 §7.2)")]
    Host(String),
    #[error("the target's authority {authority:?} and Host {host:?} disagree (RFC 9112 §3.2.2)")]
    Disagree { authority: String, host: String },
    #[error("the target's scheme {0:?} is not http or https")]
    Scheme(String),
    #[error("the target {target:?} does not go with the method {method} (RFC 9112 §3.2)")]
    Form { method: Method, target: String },
    #[error("the target has {bytes} bytes, more than the {max} allowed")]
    UriTooLong { bytes: usize, max: usize },
    #[error("there are {count} header fields, more than the {max} allowed")]
    TooManyHeaders { count: usize, max: usize },
    #[error("a chunk is framed in a way that not every parser takes (RFC 9112 §7.1)")]
    LooseChunk,
    #[error("the request was not seen on its way in")]
    Unseen,
}

impl Bad {
    /// A stable word.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::BothLengths => "both_lengths",
            Self::RepeatedLength => "repeated_length",
            Self::BareLineFeed => "bare_line_feed",
            Self::Coding(_) => "transfer_coding",
            Self::Fragment => "fragment",
            Self::NoHost | Self::Hosts(_) | Self::Host(_) => "host",
            Self::Disagree { .. } => "host_disagrees",
            Self::Scheme(_) => "scheme",
            Self::Form { .. } => "target_form",
            Self::UriTooLong { .. } => "uri_bytes_max",
            Self::TooManyHeaders { .. } => "headers_max",
            Self::LooseChunk => "loose_chunk",
            Self::Unseen => "unseen",
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::UriTooLong { .. } => StatusCode::URI_TOO_LONG,
            Self::TooManyHeaders { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// Reads a request's target. `head` is what was seen of it before it was parsed; HTTP/2 has none.
pub(super) fn read<B>(request: &Request<B>, head: Option<Head>, limits: &Http) -> Result<Target, Bad> {
    let (uri, headers) = (request.uri(), request.headers());
    check_bounds(uri, headers, limits)?;
    if request.version() < Version::HTTP_2 {
        let head = head.ok_or(Bad::Unseen)?;
        if head.both_lengths {
            return Err(Bad::BothLengths);
        }
        if head.repeated_length {
            return Err(Bad::RepeatedLength);
        }
        if head.bare_line_feed {
            return Err(Bad::BareLineFeed);
        }
        check_coding(headers)?;
        if head.fragment {
            return Err(Bad::Fragment);
        }
    }
    if let Some(scheme) = uri.scheme().filter(|scheme| **scheme != Scheme::HTTP && **scheme != Scheme::HTTPS)
    {
        return Err(Bad::Scheme(scheme.to_string()));
    }
    Ok(Target { authority: authority(request)?, path_and_query: path_and_query(request.method(), uri)? })
}

fn check_bounds(uri: &Uri, headers: &HeaderMap, limits: &Http) -> Result<(), Bad> {
    let length = |part: Option<&str>| part.map_or(0, str::len);
    let bytes = length(uri.path_and_query().map(PathAndQuery::as_str))
        + length(uri.authority().map(Authority::as_str));
    if bytes > limits.uri_bytes_max {
        return Err(Bad::UriTooLong { bytes, max: limits.uri_bytes_max });
    }
    if headers.len() > limits.headers_max {
        return Err(Bad::TooManyHeaders { count: headers.len(), max: limits.headers_max });
    }
    Ok(())
}

/// Another coding than `chunked` would be lost on the way, and its body be read in another way behind us.
fn check_coding(headers: &HeaderMap) -> Result<(), Bad> {
    let mut codings = headers.get_all(http::header::TRANSFER_ENCODING).iter();
    let (first, more) = (codings.next(), codings.next());
    match first {
        None => Ok(()),
        Some(first) if more.is_none() && first.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") => {
            Ok(())
        }
        Some(first) => {
            let all =
                [Some(first), more].into_iter().flatten().map(|one| String::from_utf8_lossy(one.as_bytes()));
            Err(Bad::Coding(all.collect::<Vec<_>>().join(", ")))
        }
    }
}

/// The one authority that target and Host agree on.
fn authority<B>(request: &Request<B>) -> Result<Authority, Bad> {
    let hosts = request.headers().get_all(HOST).iter().count();
    let named = request.uri().authority();
    let host = match (request.headers().get(HOST), hosts) {
        (_, 2..) => return Err(Bad::Hosts(hosts)),
        (None, _) => return named.cloned().ok_or(Bad::NoHost),
        (Some(host), _) => host,
    };
    let text = || String::from_utf8_lossy(host.as_bytes()).into_owned();
    let parsed = Authority::try_from(host.as_bytes()).ok();
    let host = parsed.filter(|host| !host.as_str().contains('@')).ok_or_else(|| Bad::Host(text()))?;
    match named {
        Some(named) if !named.as_str().eq_ignore_ascii_case(host.as_str()) => {
            Err(Bad::Disagree { authority: named.to_string(), host: host.to_string() })
        }
        _ => Ok(host),
    }
}

/// Origin-form, absolute-form, or `*` for OPTIONS alone. CONNECT is left to the policy, which never allows it.
fn path_and_query(method: &Method, uri: &Uri) -> Result<PathAndQuery, Bad> {
    let form = || Bad::Form { method: method.clone(), target: uri.to_string() };
    if *method == Method::CONNECT {
        return Ok(uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")));
    }
    let path = uri.path_and_query().ok_or_else(form)?;
    match path.path() {
        "*" if *method == Method::OPTIONS && path.query().is_none() => Ok(path.clone()),
        path_only if path_only.starts_with('/') => Ok(path.clone()),
        _ => Err(form()),
    }
}
