//! Checks the complete head of an HTTP/1 request with the parser that hyper uses and additional rules.

use std::mem::MaybeUninit;

use httparse::{Error as ParseError, Header, Request, Status};

use crate::config::Http;
use crate::proxy::connections::RequestInfo;
use crate::proxy::http::target::{self, InvalidMessage};

/// How long the body is that follows a head (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyLength {
    None,
    Bytes(u64),
    Chunked,
}

/// `Host` and what a hop may add are not counted.
const FIELDS_NOT_COUNTED: usize = 1;
/// Fields for which there is room without an allocation.
const FIELDS_INLINE: usize = 128;
/// hyper's own limit, which has no error of its own.
const TARGET_BYTES_MAX: usize = 65_534;
/// Bytes shown of a refused name or target.
const SHOWN_BYTES_MAX: usize = 512;

/// Checks a head that ends with its empty line.
pub(super) fn check(head: &[u8], limits: &Http) -> Result<BodyLength, InvalidMessage> {
    let room = limits.headers_max + FIELDS_NOT_COUNTED;
    if room <= FIELDS_INLINE {
        let mut fields = [const { MaybeUninit::uninit() }; FIELDS_INLINE];
        parse(head, fields.get_mut(..room).unwrap_or_default(), limits)
    } else {
        parse(head, &mut vec![MaybeUninit::uninit(); room], limits)
    }
}

fn parse<'h>(
    head: &'h [u8],
    fields: &mut [MaybeUninit<Header<'h>>],
    limits: &Http,
) -> Result<BodyLength, InvalidMessage> {
    let mut request = Request::new(&mut []);
    match request.parse_with_uninit_headers(head, fields) {
        Ok(Status::Complete(read)) if read == head.len() => {}
        Ok(_) => return Err(InvalidMessage::Unseen),
        Err(error) => return Err(why(error, head, limits)),
    }
    let path = request.path.unwrap_or_default();
    if path.len() > TARGET_BYTES_MAX {
        return Err(InvalidMessage::UriTooLong { bytes: path.len(), max: limits.uri_bytes_max });
    }
    target::check_spelling(path.as_bytes())?;
    let named = |name: &'static str| {
        request.headers.iter().filter(move |field| field.name.eq_ignore_ascii_case(name))
    };
    let counted = request.headers.len() - named("host").count().min(FIELDS_NOT_COUNTED);
    if counted > limits.headers_max {
        return Err(InvalidMessage::TooManyHeaders { max: limits.headers_max });
    }
    let (mut lengths, mut codings) = (named("content-length"), named("transfer-encoding"));
    let (length, coding) = (lengths.next(), codings.next());
    if length.is_some() && coding.is_some() {
        return Err(InvalidMessage::BothLengths);
    }
    if lengths.next().is_some() {
        return Err(InvalidMessage::RepeatedLength);
    }
    if let Some(coding) = coding {
        let is_chunked = coding.value.trim_ascii().eq_ignore_ascii_case(b"chunked");
        if request.version == Some(0) {
            return Err(InvalidMessage::CodingInOldVersion);
        }
        if !is_chunked || codings.next().is_some() {
            let all = named("transfer-encoding").map(|field| String::from_utf8_lossy(field.value));
            return Err(InvalidMessage::Coding(all.collect::<Vec<_>>().join(", ")));
        }
        return Ok(BodyLength::Chunked);
    }
    length.map_or(Ok(BodyLength::None), |field| body_length(field.value))
}

/// Digits only (RFC 9110 §8.6).
fn body_length(value: &[u8]) -> Result<BodyLength, InvalidMessage> {
    let digits = value.trim_ascii();
    let length =
        std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    // hyper reserves the two largest values.
    match length.and_then(|text| text.parse::<u64>().ok()).filter(|length| *length < u64::MAX - 1) {
        Some(0) => Ok(BodyLength::None),
        Some(length) => Ok(BodyLength::Bytes(length)),
        None => Err(InvalidMessage::Length(String::from_utf8_lossy(value).into_owned())),
    }
}

/// The parse error in words.
fn why(error: ParseError, head: &[u8], limits: &Http) -> InvalidMessage {
    match error {
        ParseError::TooManyHeaders => InvalidMessage::TooManyHeaders { max: limits.headers_max },
        ParseError::Version => InvalidMessage::Version,
        ParseError::HeaderName | ParseError::HeaderValue | ParseError::NewLine => {
            InvalidMessage::Field(bad_field(head))
        }
        ParseError::Token | ParseError::Status => {
            let (_, target) = request_line(head);
            if target.is_empty() {
                return InvalidMessage::RequestLine;
            }
            target::check_spelling(target).err().unwrap_or(InvalidMessage::RequestLine)
        }
    }
}

/// The name of the first field that cannot be parsed. Its value may be a secret.
fn bad_field(head: &[u8]) -> String {
    let mut lines = head.split_inclusive(|byte| *byte == b'\n').skip(1);
    let is_bad = |line: &&[u8]| {
        let mut field = [httparse::EMPTY_HEADER];
        let one = [line, &b"\r\n"[..]].concat();
        !matches!(httparse::parse_headers(&one, &mut field), Ok(Status::Complete((_, [_]))))
    };
    let line = lines.find(is_bad).unwrap_or_default();
    shown(line.split(|byte| *byte == b':').next().unwrap_or_default())
}

/// Method and target, as far as they are present.
fn request_line(head: &[u8]) -> (&[u8], &[u8]) {
    let line = head.trim_ascii_start().split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    let mut words = line.splitn(2, |byte| *byte == b' ');
    let (method, rest) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let target = match rest.iter().rposition(|byte| *byte == b' ') {
        Some(end) if rest.get(end..).unwrap_or_default().starts_with(b" HTTP/") => rest.get(..end),
        _ => Some(rest),
    };
    (method, target.unwrap_or_default())
}

/// Method and path of a refused head, and a replacement head that only triggers the refusal.
pub(super) fn stand_in(head: &[u8]) -> (RequestInfo, Vec<u8>) {
    let (method, target) = request_line(head);
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    let line_end = head.iter().position(|byte| *byte == b'\n').unwrap_or(head.len());
    let line = head.get(..line_end).unwrap_or_default().trim_ascii();
    let version = if line.ends_with(b"HTTP/1.0") { "1.0" } else { "1.1" };
    // A response to HEAD has no body.
    let asks = if method == b"HEAD" { "HEAD" } else { "GET" };
    let instead = format!("{asks} / HTTP/{version}\r\nhost: refused\r\nconnection: close\r\n\r\n");
    (RequestInfo { method: shown(method), path: shown(path) }, instead.into_bytes())
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..bytes.len().min(SHOWN_BYTES_MAX)).unwrap_or_default()).into_owned()
}
