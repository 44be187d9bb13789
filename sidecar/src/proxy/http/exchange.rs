//! One request and its response on a leased connection. A request that the server has not processed is retried.

use std::error::Error;
use std::sync::Arc;

use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, TE, TRANSFER_ENCODING};
use http::uri::{PathAndQuery, Scheme};
use http::{Method, Request, Response, Uri, Version};
use http_body::Body as _;

use super::body::{Destination, RequestBody};
use super::call::OpenCall;
use super::expect_continue::DeferredBody;
use super::failure::Failure;
use super::fields::Trailers;
use super::framing::RawHeadCheck;
use super::incoming::{HttpError, Incoming};
use super::interim::Interim;
use super::pool::{ConnectionLease, Unanswered};
use super::replay::{is_repeatable, is_unprocessed};
use super::target::Target;
use super::websocket::into_extended_connect;
use super::{end_cause, expect_continue, fields};
use crate::observability::{EndedBy, EndedWith};

/// Attempts for one request, counting connections that had ended before the request was sent.
const ATTEMPTS_MAX: usize = 4;

/// Leases connections for requests.
pub(super) trait ConnectionSource: Send + Sync {
    fn lease(&self) -> impl Future<Output = Result<ConnectionLease, Failure>> + Send;

    /// Whether this connection broke because its server speaks another version of HTTP.
    fn version_mismatch(&self, _: &ConnectionLease) -> VersionMismatch {
        VersionMismatch::No
    }

    /// Whether the server may have changed its HTTP version since this connection was opened.
    fn may_have_changed_version(&self, _: &ConnectionLease) -> bool {
        false
    }
}

/// Whether a failed connection used another HTTP version than its server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum VersionMismatch {
    No,
    /// The server sent nothing. The request is retried in the other version only.
    Possible,
    /// The server speaks the other version, so it has not processed the request.
    Certain,
}

/// A request without its hop-by-hop fields. The rest is the same on every connection.
pub(super) struct PreparedRequest {
    pub(super) request: Request<RequestBody>,
    target: Target,
    scheme: Scheme,
    trailers: Trailers,
    /// Receives the interim responses.
    interim: Interim,
    /// It is an extended CONNECT for a WebSocket (RFC 8441 §4).
    pub(super) is_extended_connect: bool,
}

/// Why an exchange has no response.
#[derive(Debug)]
pub(super) enum ExchangeError {
    /// No connection could be leased.
    Unreached(Failure),
    /// The connection failed before the response.
    Broken(HttpError, ConnectionLease),
}

impl PreparedRequest {
    /// Removes the hop-by-hop fields from a request.
    pub(super) fn new(
        request: Request<Incoming>,
        target: Target,
        call: &Arc<OpenCall>,
        to: Destination,
        heads: Arc<RawHeadCheck>,
    ) -> Self {
        let mut request = RequestBody::of(request, call.clone(), to, heads);
        let deferred = expect_continue::defer_body(&request);
        let interim =
            Interim::new(&mut request, call.clone(), deferred.as_ref().map(DeferredBody::continue_signal));
        request.body().defer_body(deferred);
        let trailers = fields::remove_hop(request.headers_mut());
        let scheme = match to {
            Destination::App => Scheme::HTTP,
            Destination::Peer => Scheme::HTTPS,
        };
        Self { request, target, scheme, trailers, interim, is_extended_connect: false }
    }

    /// Sends the request on `first`, if given, or on a leased connection. Retries on another connection while the
    /// request is returned unsent.
    pub(super) async fn exchange(
        mut self,
        mut first: Option<ConnectionLease>,
        connections: &impl ConnectionSource,
    ) -> Result<(Response<Incoming>, ConnectionLease), ExchangeError> {
        let (mut attempt, call) = (1, self.request.body().call().clone());
        // The error to report if the request cannot be sent in the other HTTP version.
        let mut unanswered = None;
        let _waiting_for_server = call.outcome.wait();
        loop {
            let mut connection = match first.take() {
                Some(connection) => connection,
                None => match (connections.lease().await, unanswered.take()) {
                    (Ok(connection), None) => connection,
                    (Ok(connection), Some(_)) if connection.is_shared() => connection,
                    (Err(failure), None) => return Err(ExchangeError::Unreached(failure)),
                    (lent, Some((error, connection))) => {
                        if let Ok(lent) = lent {
                            lent.unused();
                        }
                        return Err(broken(&call, error, connection));
                    }
                },
            };
            if self.is_extended_connect && !connection.takes_websockets() {
                connection.unused();
                return Err(ExchangeError::Unreached(Failure::broken(
                    "the connection for the WebSocket has gone, and the next takes none".to_owned(),
                )));
            }
            if !connection.is_shared() {
                self.request.body().look_ahead().await;
            }
            self.address(connection.is_shared());
            let replay = Replayable::of(&self.request, &connection, connections);
            match connection.send(self.request, &self.interim).await {
                Ok(response) => {
                    if let Some(replay) = replay {
                        replay.body.settle();
                    }
                    return Ok((response, connection));
                }
                Err(Unanswered { error, unsent }) => {
                    let version_mismatch = connections.version_mismatch(&connection);
                    let retry = unsent.or_else(|| replay?.retry(&*error, &connection, version_mismatch));
                    match retry.filter(|_| attempt < ATTEMPTS_MAX && connection.alert().is_none()) {
                        Some(request) => {
                            call.retried();
                            (self.request, attempt) = (request, attempt + 1);
                            unanswered = (version_mismatch == VersionMismatch::Possible)
                                .then_some((error, connection));
                        }
                        None => return Err(broken(&call, error, connection)),
                    }
                }
            }
        }
    }

    /// Sets the request target as HTTP/2 (RFC 9113 §8.3.1) or HTTP/1.1 (RFC 9112 §3.2.1) requires.
    fn address(&mut self, http2: bool) {
        let Target { authority, path_and_query } = self.target.clone();
        let request = &mut self.request;
        if http2 {
            *request.version_mut() = Version::HTTP_2;
            *request.uri_mut() = absolute_uri(self.scheme.clone(), authority, path_and_query);
            if self.is_extended_connect {
                into_extended_connect(request);
            }
            request.headers_mut().remove(HOST);
            request.headers_mut().remove(TRANSFER_ENCODING);
            if self.trailers == Trailers::Wanted {
                request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
            }
        } else {
            *request.version_mut() = Version::HTTP_11;
            *request.uri_mut() = Uri::from(path_and_query);
            if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
                request.headers_mut().insert(HOST, host);
            }
            // A content-length without its bytes would make the next request on the connection part of this body.
            let is_empty = |length: &HeaderValue| length.as_bytes() == b"0";
            if request.body().is_end_stream()
                && !request.headers().get(CONTENT_LENGTH).is_none_or(is_empty)
                && request.body().size_hint().exact() == Some(0)
            {
                request.headers_mut().remove(CONTENT_LENGTH);
            }
            // For every method: otherwise hyper would omit the body (RFC 9112 §6.3).
            if !request.body().is_end_stream() && !request.headers().contains_key(CONTENT_LENGTH) {
                request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
        }
    }
}

fn broken(call: &OpenCall, error: HttpError, connection: ConnectionLease) -> ExchangeError {
    match connection.is_terminated() {
        true => call.ended(EndedBy::Sidecar, EndedWith::Cut),
        false => call.ended(EndedBy::Called, connection.ended_with(end_cause::of(&*error))),
    }
    ExchangeError::Broken(error, connection)
}

/// The parts of a request that a retry needs.
struct Replayable {
    method: Method,
    headers: HeaderMap,
    body: RequestBody,
}

impl Replayable {
    /// Returns `None` if the request can never be retried.
    fn of(
        request: &Request<RequestBody>,
        connection: &ConnectionLease,
        connections: &impl ConnectionSource,
    ) -> Option<Self> {
        let reused = connection.was_used() && request.method().is_idempotent();
        if !reused && !connection.is_shared() && !connections.may_have_changed_version(connection) {
            request.body().settle();
            return None;
        }
        let (method, headers) = (request.method().clone(), request.headers().clone());
        Some(Self { method, headers, body: request.body().replayable() })
    }

    /// The request to retry, if this error permits a retry.
    fn retry(
        self,
        error: &(dyn Error + 'static),
        connection: &ConnectionLease,
        version_mismatch: VersionMismatch,
    ) -> Option<Request<RequestBody>> {
        let reused = connection.was_used() && is_repeatable(error, &self.method);
        let unprocessed = match version_mismatch {
            VersionMismatch::Certain => true,
            VersionMismatch::Possible => self.method.is_idempotent(),
            VersionMismatch::No => is_unprocessed(error),
        };
        let mut request = Request::new(self.body.restarted().filter(|_| reused || unprocessed)?);
        (*request.method_mut(), *request.headers_mut()) = (self.method, self.headers);
        Some(request)
    }
}

fn absolute_uri(scheme: Scheme, authority: http::uri::Authority, path_and_query: PathAndQuery) -> Uri {
    let mut parts = http::uri::Parts::default();
    (parts.scheme, parts.authority, parts.path_and_query) =
        (Some(scheme), Some(authority), Some(path_and_query));
    // Scheme, authority and path are all set, so this cannot fail.
    Uri::from_parts(parts).unwrap_or_default()
}
