//! WebSockets in both versions of HTTP: an upgrade of HTTP/1.1 (RFC 6455 §4), an extended CONNECT of HTTP/2 (RFC 8441).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use h2::ext::Protocol;
use http::header::{
    CONTENT_LENGTH, EXPECT, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, TRAILER,
};
use http::{Method, Request, Response, StatusCode, response};
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use ring::rand::{SecureRandom as _, SystemRandom};

use super::failure::Failure;
use super::upgrade::name_protocol;

pub(super) const WEBSOCKET: &str = "websocket";
/// RFC 6455 §1.3.
const ACCEPT_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const KEY_BYTES: usize = 16;

/// Marks a request that came as an extended CONNECT.
#[derive(Debug, Clone, Copy)]
struct ExtendedConnect;

/// Converts an extended CONNECT for a WebSocket to the GET that it is in HTTP/1.1, so that the policy has one method
/// for both.
pub(super) fn from_extended_connect<B>(request: &mut Request<B>) {
    let is_websocket = request
        .extensions()
        .get::<Protocol>()
        .is_some_and(|protocol| protocol.as_str().eq_ignore_ascii_case(WEBSOCKET));
    if *request.method() == Method::CONNECT && is_websocket {
        request.extensions_mut().remove::<Protocol>();
        *request.method_mut() = Method::GET;
        request.extensions_mut().insert(ExtendedConnect);
    }
}

/// Whether a request came as an extended CONNECT for a WebSocket.
pub(super) fn is_extended_connect<B>(request: &Request<B>) -> bool {
    request.extensions().get::<ExtendedConnect>().is_some()
}

/// Converts a request to an extended CONNECT (RFC 8441 §4). Key and accept exist in HTTP/1.1 only (§5).
pub(super) fn into_extended_connect<B>(request: &mut Request<B>) {
    *request.method_mut() = Method::CONNECT;
    request.extensions_mut().insert(Protocol::from_static(WEBSOCKET));
    request.headers_mut().remove(SEC_WEBSOCKET_KEY);
    remove_body_fields(request.headers_mut());
}

/// A handshake has no body. A server that trusted its body fields would read the following bytes as that body.
fn remove_body_fields(headers: &mut HeaderMap) {
    for name in [CONTENT_LENGTH, EXPECT, TRAILER] {
        headers.remove(name);
    }
}

/// The key of an HTTP/1.1 handshake that an extended CONNECT can replace: one that offers WebSocket only.
pub(super) fn key<B>(request: &Request<B>, offer: &HeaderValue) -> Option<HeaderValue> {
    let is_websocket = offer.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes());
    let is_handshake = is_websocket && *request.method() == Method::GET;
    request.headers().get(SEC_WEBSOCKET_KEY).filter(|_| is_handshake).cloned()
}

/// Adds the fields of an HTTP/1.1 handshake to a request, and returns its key.
pub(super) fn ask(headers: &mut HeaderMap) -> Result<HeaderValue, Failure> {
    let mut nonce = [0; KEY_BYTES];
    let key = SystemRandom::new()
        .fill(&mut nonce)
        .ok()
        .and_then(|()| HeaderValue::try_from(STANDARD.encode(nonce)).ok())
        .ok_or_else(|| {
            Failure::broken("this machine gives no random bytes for a WebSocket's key".to_owned())
        })?;
    remove_body_fields(headers);
    name_protocol(headers, HeaderValue::from_static(WEBSOCKET));
    headers.insert(SEC_WEBSOCKET_KEY, key.clone());
    headers.entry(SEC_WEBSOCKET_VERSION).or_insert(HeaderValue::from_static("13"));
    Ok(key)
}

/// Whether an HTTP/1.1 response accepts the handshake with this key.
pub(super) fn is_accepted(answer: &HeaderMap, key: &HeaderValue) -> bool {
    answer.get(SEC_WEBSOCKET_ACCEPT).is_some_and(|accept| accept.as_bytes() == accept_of(key).as_bytes())
}

/// Converts the fields of an HTTP/2 response to those of an HTTP/1.1 response to the handshake with this key.
pub(super) fn accept(answer: &mut HeaderMap, key: &HeaderValue) {
    name_protocol(answer, HeaderValue::from_static(WEBSOCKET));
    if let Ok(accept) = HeaderValue::try_from(accept_of(key)) {
        answer.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
}

/// RFC 6455 §4.2.2.
fn accept_of(key: &HeaderValue) -> String {
    let mut digest = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(key.as_bytes());
    digest.update(ACCEPT_GUID);
    STANDARD.encode(digest.finish())
}

/// The status of an app that did not switch: over HTTP/2 that status would mean that it did.
const NOT_SWITCHED: HeaderName = HeaderName::from_static("postern-not-switched");

/// Replaces a success status that did not switch, which over HTTP/2 would mean success (RFC 8441 §5), and records the
/// original.
pub(super) fn is_not_switched<B>(answer: &mut Response<B>) {
    let status = HeaderValue::from(answer.status().as_u16());
    answer.headers_mut().insert(NOT_SWITCHED, status);
    *answer.status_mut() = StatusCode::BAD_GATEWAY;
}

/// Restores the status of a response that did not switch: a success, which would otherwise have been forwarded
/// unchanged. It was not 101.
pub(super) fn answered(answer: &mut response::Parts) {
    if let Some(status) = answer.headers.remove(NOT_SWITCHED)
        && let Ok(status) = StatusCode::from_bytes(status.as_bytes())
        && status.is_success()
    {
        answer.status = status;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_of_the_standards_example_is_its_own() {
        let (key, mut answer) = (HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="), HeaderMap::new());
        accept(&mut answer, &key);
        assert_eq!(answer[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "RFC 6455 §1.3");
        assert!(is_accepted(&answer, &key));
        assert!(!is_accepted(&answer, &HeaderValue::from_static("AAAAAAAAAAAAAAAAAAAAAA==")));
        assert!(!is_accepted(&HeaderMap::new(), &key));
    }

    #[test]
    fn each_key_is_new_and_the_clients_version_stays() {
        let mut headers = HeaderMap::new();
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("8"));
        let (one, other) = (ask(&mut headers).unwrap(), ask(&mut headers).unwrap());
        assert_ne!(one, other);
        assert_eq!(STANDARD.decode(other.as_bytes()).unwrap().len(), KEY_BYTES);
        assert_eq!(headers[SEC_WEBSOCKET_VERSION], "8");
    }

    #[test]
    fn an_answer_that_has_not_switched_is_the_success_that_it_was_and_nothing_else() {
        let mut answer = Response::new(());
        *answer.status_mut() = StatusCode::CREATED;
        is_not_switched(&mut answer);
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY, "over HTTP/2 it is no success");
        let (mut parts, ()) = answer.into_parts();
        answered(&mut parts);
        assert_eq!(parts.status, StatusCode::CREATED);
        assert!(parts.headers.is_empty(), "{:?}", parts.headers);
        for forged in ["101", "404", "200 OK", ""] {
            parts.status = StatusCode::NOT_FOUND;
            parts.headers.insert(NOT_SWITCHED, HeaderValue::from_static(forged));
            answered(&mut parts);
            assert_eq!(parts.status, StatusCode::NOT_FOUND, "{forged:?}");
            assert!(parts.headers.is_empty(), "{:?}", parts.headers);
        }
    }

    #[test]
    fn only_the_handshake_of_a_websocket_alone_has_a_key() {
        let mut request = Request::new(());
        let offer = HeaderValue::from_static("WebSocket");
        assert_eq!(key(&request, &offer), None, "no key");
        request.headers_mut().insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static("k"));
        assert_eq!(key(&request, &offer).unwrap(), "k");
        assert_eq!(key(&request, &HeaderValue::from_static("websocket, foo")), None);
        *request.method_mut() = Method::POST;
        assert_eq!(key(&request, &offer), None);
    }
}
