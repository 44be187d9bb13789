//! Checks responses by the same framing rules as requests, and corrects what a proxy may correct.

use std::sync::Arc;

use http::header::{CONTENT_LENGTH, DATE, HeaderValue, TRANSFER_ENCODING};
use http::{Response, StatusCode, Version};
use thiserror::Error;

use super::failure::Failure;
use super::incoming::{HttpError, Incoming};
use super::pool::ConnectionLease;
use super::target::InvalidMessage;
use crate::config::Http;

/// Why a response is not forwarded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum InvalidResponse {
    #[error("the answer has Transfer-Encoding {0:?}, and only \"chunked\" is understood (RFC 9112 §6.1)")]
    Coding(String),
    #[error("the answer is of HTTP/1.0 and has a Transfer-Encoding (RFC 9112 §6.1)")]
    CodingInOldVersion,
    #[error("the answer has Content-Length {0:?}, which is not one number of bytes (RFC 9110 §8.6)")]
    Length(String),
    /// For HTTP/2.
    #[error("this sidecar takes no such answer: {0}")]
    Head(InvalidMessage),
    #[error("the answer has more than the {max} fields that headers_max of this sidecar allows")]
    TooManyFields { max: usize },
    /// hyper has one error for both.
    #[error(
        "the answer's head has more than the {bytes} bytes that header_bytes_max of this sidecar allows, or far more than \
         the {fields} fields that headers_max allows"
    )]
    HeadTooLarge { bytes: usize, fields: usize },
    /// hyper has one error for both.
    #[error(
        "the answer's trailer section has more than the {bytes} bytes that header_bytes_max of this sidecar allows, or \
         more than the {fields} fields that headers_max allows"
    )]
    TrailersTooLarge { bytes: usize, fields: usize },
}

impl InvalidResponse {
    /// A stable reason code.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Head(bad) => bad.code(),
            Self::Coding(_) | Self::CodingInOldVersion | Self::Length(_) => "answer_framing",
            Self::TooManyFields { .. } => "headers_max",
            Self::HeadTooLarge { .. } | Self::TrailersTooLarge { .. } => "header_bytes_max",
        }
    }

    /// The fault of a response head, if the error is one of these.
    pub(super) fn of_head(error: &HttpError, limits: &Http) -> Option<Self> {
        // The field limit is checked by us: hyper is given room for more (`client::http1_builder`).
        let is_large = error.downcast_ref().is_some_and(hyper::Error::is_parse_too_large);
        let (bytes, fields) = (limits.header_bytes_max, limits.headers_max);
        is_large.then_some(Self::HeadTooLarge { bytes, fields })
    }

    /// The fault of a response body, if the error is one of these.
    pub(super) fn of_body(error: &HttpError, limits: &Http) -> Option<Self> {
        let Http { header_bytes_max: bytes, headers_max: fields, .. } = *limits;
        let cause = error.source()?.downcast_ref::<std::io::Error>()?;
        // hyper 1 has no other indication of it; a test covers it.
        let is_limit =
            cause.kind() == std::io::ErrorKind::InvalidData && cause.to_string().contains("trailers");
        is_limit.then_some(Self::TrailersTooLarge { bytes, fields })
    }
}

impl From<InvalidResponse> for Failure {
    fn from(bad: InvalidResponse) -> Self {
        Self { reason: bad.code(), ..Self::broken(bad.to_string()) }
    }
}

/// Checks a response received on a leased connection.
pub(super) fn check(
    response: &mut Response<Incoming>,
    lease: &ConnectionLease,
    limits: &Http,
) -> Result<(), InvalidResponse> {
    let streams = lease.end().and_then(|end| end.streams.as_ref());
    if let Some((streams, id)) = streams.zip(response.body().stream_id()) {
        let taken = streams.take(id, response.headers_mut());
        let stream = taken
            .map_err(|refused| InvalidResponse::Head(refused.map_or(InvalidMessage::Unseen, |it| it.bad)))?;
        response.extensions_mut().insert(Arc::new(stream));
    }
    mend(response, limits)
}

/// Checks the framing of a response, and leaves at most one content-length in it.
fn mend<B>(response: &mut Response<B>, limits: &Http) -> Result<(), InvalidResponse> {
    let (version, status) = (response.version(), response.status());
    let headers = response.headers_mut();
    // A hop adds the date if there is none.
    if headers.len() - usize::from(headers.contains_key(DATE)) > limits.headers_max {
        return Err(InvalidResponse::TooManyFields { max: limits.headers_max });
    }
    if status == StatusCode::NO_CONTENT || status.is_informational() {
        // RFC 9110 §8.6.
        headers.remove(CONTENT_LENGTH);
    }
    if version >= Version::HTTP_2 {
        return Ok(());
    }
    let all = |name| {
        let values = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
        values.collect::<Vec<_>>().join(", ")
    };
    if headers.contains_key(TRANSFER_ENCODING) {
        let codings = all(TRANSFER_ENCODING);
        if version < Version::HTTP_11 {
            return Err(InvalidResponse::CodingInOldVersion);
        }
        if !codings.trim().eq_ignore_ascii_case("chunked") {
            return Err(InvalidResponse::Coding(codings));
        }
        // Transfer-encoding overrides content-length, which is then not forwarded (RFC 9112 §6.3).
        headers.remove(CONTENT_LENGTH);
        return Ok(());
    }
    if headers.contains_key(CONTENT_LENGTH) {
        let lengths = all(CONTENT_LENGTH);
        let length = one_length(&lengths).ok_or(InvalidResponse::Length(lengths))?;
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(())
}

/// The length that a list repeats (RFC 9110 §8.6).
fn one_length(lengths: &str) -> Option<u64> {
    let mut numbers = lengths.split(',').map(str::trim).map(|text| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| text.parse::<u64>().ok()).flatten()
    });
    let first = numbers.next()??;
    numbers.all(|other| other == Some(first)).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mended(version: Version, fields: &[(&'static str, &str)]) -> Result<Vec<String>, &'static str> {
        let mut response = Response::new(());
        *response.version_mut() = version;
        for (name, value) in fields {
            response.headers_mut().append(*name, value.parse().unwrap());
        }
        mend(&mut response, &Http::default()).map_err(|bad| bad.code())?;
        let lengths = response.headers().get_all(CONTENT_LENGTH).iter();
        Ok(lengths.map(|value| value.to_str().unwrap().to_owned()).collect())
    }

    #[test]
    fn an_answer_has_one_length_or_one_coding_that_is_chunked() {
        let (length, coding) = ("content-length", "transfer-encoding");
        for (fields, left) in [
            (&[(length, "5")][..], Ok(vec!["5".to_owned()])),
            (&[(length, "5, 5")], Ok(vec!["5".to_owned()])),
            (&[(length, "5"), (length, "5")], Ok(vec!["5".to_owned()])),
            (&[(length, "5"), (length, "6")], Err("answer_framing")),
            (&[(length, "5,")], Err("answer_framing")),
            (&[(length, "+5")], Err("answer_framing")),
            (&[(coding, "Chunked")], Ok(vec![])),
            (&[(coding, "chunked"), (length, "5")], Ok(vec![])),
            (&[(coding, "gzip, chunked")], Err("answer_framing")),
            (&[(coding, "gzip")], Err("answer_framing")),
            (&[(coding, "chunked, chunked")], Err("answer_framing")),
            (&[(coding, "chunked"), (coding, "chunked")], Err("answer_framing")),
            (&[(coding, "chunked;q=1")], Err("answer_framing")),
            (&[(coding, "")], Err("answer_framing")),
        ] {
            assert_eq!(mended(Version::HTTP_11, fields), left, "{fields:?}");
        }
        assert_eq!(mended(Version::HTTP_10, &[(coding, "chunked")]), Err("answer_framing"));
    }
}
