//! The target of a request; invalid requests are not forwarded.

use http::header::{HOST, HeaderMap};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, StatusCode, Uri, Version};
use thiserror::Error;

use crate::config::Http;

/// A request's authority and path, each with one unambiguous meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) authority: Authority,
    /// Path and query as sent; `*` of `OPTIONS *`.
    pub(super) path_and_query: PathAndQuery,
}

/// Why a request is invalid, independent of the client.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum InvalidMessage {
    #[error("Content-Length and Transfer-Encoding are both given (RFC 9112 §6.1)")]
    BothLengths,
    #[error("Content-Length is given more than once (RFC 9110 §8.6)")]
    RepeatedLength,
    #[error("Content-Length {0:?} is no number of bytes (RFC 9110 §8.6)")]
    Length(String),
    #[error("a line of the head ends without a carriage return (RFC 9112 §2.2)")]
    BareLineFeed,
    #[error("Transfer-Encoding is {0:?}, and only \"chunked\" is understood (RFC 9112 §6.1)")]
    Coding(String),
    #[error("a request of version 1.0 has a Transfer-Encoding (RFC 9112 §6.1)")]
    CodingInOldVersion,
    #[error("the target has a fragment (RFC 9112 §3.2)")]
    Fragment,
    #[error("the target has {character} at byte {at}, which has to be percent-encoded (RFC 3986 §2.1)")]
    Character { character: String, at: usize },
    #[error("the target {0:?} is no URI (RFC 9112 §3.2)")]
    NoUri(String),
    #[error("the first line is not a method, a target and a version (RFC 9112 §3)")]
    RequestLine,
    #[error("the first line does not end with version 1.0 or 1.1 of HTTP (RFC 9112 §2.3)")]
    Version,
    #[error("the header field {0:?} has a name or a value that is not valid (RFC 9110 §5)")]
    Field(String),
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
    #[error("the target has {bytes} bytes, more than the {max} that uri_bytes_max allows")]
    UriTooLong { bytes: usize, max: usize },
    #[error("the head has more than the {max} bytes that header_bytes_max allows")]
    HeadTooLarge { max: usize },
    #[error("the head has more than the {max} fields that headers_max allows")]
    TooManyHeaders { max: usize },
    #[error("the trailer section has more than the {max} bytes that header_bytes_max allows")]
    TrailersTooLarge { max: usize },
    #[error("the trailer section has more than the {max} fields that headers_max allows")]
    TooManyTrailers { max: usize },
    #[error("the trailer section has a field that is not valid (RFC 9112 §7.1.2)")]
    Trailers,
    #[error("a chunk is framed in a way that not every parser takes (RFC 9112 §7.1)")]
    LooseChunk,
    #[error("the chunk extensions of the body have more than {max} bytes")]
    ChunkExtensions { max: usize },
    #[error("the message is malformed: it has {0} (RFC 9113 §8.1.1)")]
    Malformed(&'static str),
    #[error("the request was not seen on its way in")]
    Unseen,
}

impl InvalidMessage {
    /// A stable reason code.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::BothLengths => "both_lengths",
            Self::RepeatedLength => "repeated_length",
            Self::Length(_) => "content_length",
            Self::BareLineFeed => "bare_line_feed",
            Self::Coding(_) | Self::CodingInOldVersion => "transfer_coding",
            Self::Fragment => "fragment",
            Self::Character { .. } | Self::NoUri(_) => "target",
            Self::RequestLine => "request_line",
            Self::Version => "version",
            Self::Field(_) => "header_field",
            Self::NoHost | Self::Hosts(_) | Self::Host(_) => "host",
            Self::Disagree { .. } => "host_disagrees",
            Self::Scheme(_) => "scheme",
            Self::Form { .. } => "target_form",
            Self::UriTooLong { .. } => "uri_bytes_max",
            Self::HeadTooLarge { .. } | Self::TrailersTooLarge { .. } => "header_bytes_max",
            Self::TooManyHeaders { .. } | Self::TooManyTrailers { .. } => "headers_max",
            Self::Trailers => "trailers",
            Self::LooseChunk => "loose_chunk",
            Self::ChunkExtensions { .. } => "chunk_extensions",
            Self::Malformed(_) => "malformed",
            Self::Unseen => "unseen",
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::UriTooLong { .. } => StatusCode::URI_TOO_LONG,
            Self::HeadTooLarge { .. }
            | Self::TrailersTooLarge { .. }
            | Self::TooManyHeaders { .. }
            | Self::TooManyTrailers { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// Reads the target of a request with valid framing. `service` is the host for requests without one.
pub(super) fn read<B>(
    request: &Request<B>,
    limits: &Http,
    service: &Authority,
) -> Result<Target, InvalidMessage> {
    let (uri, headers) = (request.uri(), request.headers());
    check_bounds(uri, headers, limits)?;
    if let Some(scheme) = uri.scheme().filter(|scheme| **scheme != Scheme::HTTP && **scheme != Scheme::HTTPS)
    {
        return Err(InvalidMessage::Scheme(scheme.to_string()));
    }
    let authority = authority(request)?.unwrap_or_else(|| service.clone());
    Ok(Target { authority, path_and_query: path_and_query(request.method(), uri)? })
}

/// The host for requests without one: the service's name, if it can be a host.
pub(super) fn authority_of(service: Option<&str>) -> Authority {
    let name = service.and_then(|name| Authority::try_from(name).ok());
    name.unwrap_or_else(|| Authority::from_static("localhost"))
}

fn check_bounds(uri: &Uri, headers: &HeaderMap, limits: &Http) -> Result<(), InvalidMessage> {
    let length = |part: Option<&str>| part.map_or(0, str::len);
    let bytes = length(uri.path_and_query().map(PathAndQuery::as_str))
        + length(uri.authority().map(Authority::as_str));
    if bytes > limits.uri_bytes_max {
        return Err(InvalidMessage::UriTooLong { bytes, max: limits.uri_bytes_max });
    }
    // The host is not counted, whichever version names it.
    if headers.len() - usize::from(headers.contains_key(HOST)) > limits.headers_max {
        return Err(InvalidMessage::TooManyHeaders { max: limits.headers_max });
    }
    Ok(())
}

/// Checks the characters of a target.
pub(super) fn check_spelling(target: &[u8]) -> Result<(), InvalidMessage> {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%[]".contains(byte);
    if target.starts_with(b"/") && target.iter().all(is_plain) {
        return Ok(());
    }
    if target.contains(&b'#') {
        return Err(InvalidMessage::Fragment);
    }
    if Uri::try_from(target).is_ok() {
        return Ok(());
    }
    let text = match std::str::from_utf8(target) {
        Ok(text) => text,
        Err(error) => {
            let at = error.valid_up_to();
            let byte = target.get(at).copied().unwrap_or_default();
            return Err(InvalidMessage::Character { character: format!("the byte 0x{byte:02x}"), at });
        }
    };
    let is_fault = |(at, character): &(usize, char)| {
        let is_query = text.get(..*at).is_some_and(|before| before.contains('?'));
        let alone = if is_query { format!("/?{character}") } else { format!("/{character}") };
        !(character.is_ascii() && is_plain(&(*character as u8))) && Uri::try_from(alone).is_err()
    };
    match text.char_indices().find(is_fault) {
        Some((at, character)) => Err(InvalidMessage::Character { character: format!("{character:?}"), at }),
        None => Err(InvalidMessage::NoUri(text.chars().take(TARGET_CHARS_SHOWN).collect())),
    }
}

/// Characters shown of an invalid target.
const TARGET_CHARS_SHOWN: usize = 512;

/// The one authority that target and Host agree on. HTTP/1.1 and HTTP/2 have one, HTTP/1.0 need not (RFC 9112 §3.2,
/// RFC 9113 §8.3.1).
fn authority<B>(request: &Request<B>) -> Result<Option<Authority>, InvalidMessage> {
    let hosts = request.headers().get_all(HOST).iter().count();
    let named = request.uri().authority();
    if let Some(named) = named.filter(|named| named.as_str().contains('@')) {
        return Err(InvalidMessage::Host(named.to_string()));
    }
    let host = match (request.headers().get(HOST), hosts) {
        (_, 2..) => return Err(InvalidMessage::Hosts(hosts)),
        (None, _) if request.version() == Version::HTTP_11 => return Err(InvalidMessage::NoHost),
        (None, _) if named.is_none() && request.version() != Version::HTTP_10 => {
            return Err(InvalidMessage::NoHost);
        }
        (None, _) => return Ok(named.cloned()),
        (Some(host), _) => host,
    };
    let text = || String::from_utf8_lossy(host.as_bytes()).into_owned();
    let parsed = Authority::try_from(host.as_bytes()).ok();
    let host =
        parsed.filter(|host| !host.as_str().contains('@')).ok_or_else(|| InvalidMessage::Host(text()))?;
    match named {
        Some(named) if !named.as_str().eq_ignore_ascii_case(host.as_str()) => {
            Err(InvalidMessage::Disagree { authority: named.to_string(), host: host.to_string() })
        }
        _ => Ok(Some(host)),
    }
}

/// Origin-form, absolute-form, or `*` for OPTIONS alone. CONNECT is left to the policy, which never allows it.
fn path_and_query(method: &Method, uri: &Uri) -> Result<PathAndQuery, InvalidMessage> {
    let form = || InvalidMessage::Form { method: method.clone(), target: uri.to_string() };
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
