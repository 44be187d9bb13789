//! Error responses: RFC 9457 problem documents for HTTP, a status for gRPC.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode, Version};
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};
use serde::Serialize;

use super::body::ResponseBody;
use crate::observability::refusals::Instance;

/// A refusal or failure, as sent to the client.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Problem {
    /// `urn:postern:` and a stable reason code (RFC 9457 §3.1.1).
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) title: &'static str,
    #[serde(serialize_with = "as_number")]
    pub(crate) status: StatusCode,
    /// The failed check, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
    /// The number of the log entry with the details.
    pub(crate) instance: String,
    #[serde(flatten)]
    pub(crate) question: Option<Question>,
}

/// The request that the policy denied.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Question {
    /// The client's SPIFFE ID.
    pub(crate) caller: Option<String>,
    /// The server's SPIFFE ID.
    pub(crate) service: Option<String>,
    /// The inbound's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) port: Option<String>,
    /// Method and path.
    pub(crate) call: Option<String>,
    /// `sha256:…` of the policy that decided.
    pub(crate) policy: Option<String>,
    /// The command that explains the decision.
    pub(crate) explain: Option<String>,
}

fn as_number<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

impl Problem {
    pub(crate) fn new(status: StatusCode, reason: &str, instance: Instance) -> Self {
        let (kind, instance) = (format!("urn:postern:{reason}"), instance.to_string());
        Self { kind, title: title(status), status, detail: None, instance, question: None }
    }

    /// The response in the client's protocol.
    pub(super) fn response(&self, format: ReplyFormat) -> Response<ResponseBody> {
        let mut response = if format.grpc { self.grpc() } else { self.http() };
        if format.head {
            // In HTTP/2 a body would be a protocol error (RFC 9110 §9.3.2).
            *response.body_mut() = ResponseBody::empty();
        }
        if format.version < Version::HTTP_2 && self.status == StatusCode::BAD_REQUEST {
            // The start of the next request is not known (RFC 9112 §6.3).
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// As JSON (RFC 9457 §3).
    pub(crate) fn document(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn http(&self) -> Response<ResponseBody> {
        let body = self.document();
        let length = HeaderValue::from(body.len());
        let mut response = Response::new(ResponseBody::Generated(Bytes::from(body)));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response.headers_mut().insert(CONTENT_LENGTH, length);
        response
    }

    /// A response of trailers only, with the reason in the status message (gRPC over HTTP/2, `Responses`).
    fn grpc(&self) -> Response<ResponseBody> {
        let mut response = Response::new(ResponseBody::empty());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(GRPC_STATUS, HeaderValue::from_static(grpc_status(self.status)));
        let explain = self.question.as_ref().and_then(|question| question.explain.as_deref());
        let words = [self.detail.as_deref().or(Some(self.title)), explain, Some(&self.instance)];
        let message = words.into_iter().flatten().collect::<Vec<_>>().join("; ");
        let message = percent_encode(message.as_bytes(), GRPC_MESSAGE_ENCODED).to_string();
        if let Ok(message) = HeaderValue::try_from(message) {
            headers.insert(GRPC_MESSAGE, message);
        }
        response
    }
}

/// The request properties that determine the format of an error response.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReplyFormat {
    grpc: bool,
    head: bool,
    version: Version,
}

impl ReplyFormat {
    pub(super) fn of<B>(request: &http::Request<B>) -> Self {
        let head = request.method() == Method::HEAD;
        Self { grpc: is_grpc(request.headers()), head, version: request.version() }
    }

    /// Whether it is a gRPC call.
    pub(super) fn is_grpc(self) -> bool {
        self.grpc
    }
}

/// Whether a message is gRPC (gRPC over HTTP/2, `Content-Type`).
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| is_grpc_type(kind.as_bytes()))
}

pub(super) fn is_grpc_type(kind: &[u8]) -> bool {
    kind.strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// gRPC over HTTP/2, `Status-Message`: everything but printable ASCII without `%`.
const GRPC_MESSAGE_ENCODED: &AsciiSet = &CONTROLS.add(b'%');

/// gRPC's mapping of HTTP status codes, except where a more precise code exists.
fn grpc_status(status: StatusCode) -> &'static str {
    match status {
        StatusCode::FORBIDDEN => "7",
        StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT => "4",
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => "14",
        StatusCode::NOT_IMPLEMENTED => "12",
        StatusCode::TOO_MANY_REQUESTS => "8",
        StatusCode::URI_TOO_LONG | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "8",
        _ => "13",
    }
}

fn title(status: StatusCode) -> &'static str {
    match status {
        StatusCode::FORBIDDEN => "The policy does not allow this call",
        StatusCode::BAD_REQUEST => "This is not valid HTTP",
        StatusCode::URI_TOO_LONG => "The target is too long",
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "The header is too large",
        StatusCode::TOO_MANY_REQUESTS => "Too many calls are under way",
        StatusCode::NOT_IMPLEMENTED => "This is not supported",
        StatusCode::BAD_GATEWAY => "The service broke off",
        StatusCode::SERVICE_UNAVAILABLE => "The service cannot be reached",
        StatusCode::GATEWAY_TIMEOUT => "The service did not answer in time",
        _ => "The call failed",
    }
}
