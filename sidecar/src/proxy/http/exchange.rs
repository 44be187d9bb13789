//! One request and its answer on a leased connection, tried again while the other side has not looked at it.

use std::error::Error;
use std::sync::Arc;

use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, TE, TRANSFER_ENCODING};
use http::uri::{PathAndQuery, Scheme};
use http::{Method, Request, Response, Uri, Version};
use http_body::Body as _;

use super::body::{RequestBody, To};
use super::call::OpenCall;
use super::expect::Held;
use super::failure::Failure;
use super::fields::Trailers;
use super::framing::RawHeadCheck;
use super::incoming::{HttpError, Incoming};
use super::interim::Interim;
use super::pool::{Leased, Unanswered};
use super::replay::{is_repeatable, is_unprocessed};
use super::target::Target;
use super::websocket::into_extended_connect;
use super::{ended, expect, fields};
use crate::observability::{EndedBy, EndedWith};

/// Connections that turn out to have ended before a request was sent, one after another.
const ATTEMPTS_MAX: usize = 4;

/// Lends connections to whoever answers.
pub(super) trait ConnectionSource: Send + Sync {
    fn lease(&self) -> impl Future<Output = Result<Leased, Failure>> + Send;

    /// Whether this connection broke because another version of HTTP is spoken at its other end.
    fn otherwise(&self, _: &Leased) -> Otherwise {
        Otherwise::No
    }

    /// Whether another version than that of this connection may be spoken at its other end by now.
    fn may_be_exchanged(&self, _: &Leased) -> bool {
        false
    }
}

/// Whether another version of HTTP is spoken than was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Otherwise {
    No,
    /// The other side said nothing: a request is sent again in the other version only.
    Perhaps,
    /// So it has understood nothing of the request.
    Surely,
}

/// A request without its hop: what is left is the same on every connection.
pub(super) struct PreparedRequest {
    pub(super) request: Request<RequestBody>,
    target: Target,
    scheme: Scheme,
    trailers: Trailers,
    /// Told what comes before its answer.
    interim: Interim,
    /// It asks for a WebSocket as HTTP/2 does.
    pub(super) is_extended_connect: bool,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum ExchangeError {
    /// No connection was to be had.
    Unreached(Failure),
    /// The connection broke.
    Broken(HttpError, Leased),
}

impl PreparedRequest {
    /// Without what is of the hop on which it came.
    pub(super) fn new(
        request: Request<Incoming>,
        target: Target,
        call: &Arc<OpenCall>,
        to: To,
        heads: Arc<RawHeadCheck>,
    ) -> Self {
        let mut request = RequestBody::of(request, call.clone(), to, heads);
        let held = expect::hold(&request);
        let interim = Interim::new(&mut request, call.clone(), held.as_ref().map(Held::asked));
        request.body().hold(held);
        let trailers = fields::remove_hop(request.headers_mut());
        let scheme = match to {
            To::App => Scheme::HTTP,
            To::Peer => Scheme::HTTPS,
        };
        Self { request, target, scheme, trailers, interim, is_extended_connect: false }
    }

    /// Sends it, first on this connection if there is one, and on another while one that had ended gives it back.
    pub(super) async fn exchange(
        mut self,
        mut first: Option<Leased>,
        lender: &impl ConnectionSource,
    ) -> Result<(Response<Incoming>, Leased), ExchangeError> {
        let (mut attempt, call) = (1, self.request.body().call().clone());
        // Why the request has no answer, unless it can be sent in the other version.
        let mut doubted = None;
        let _for_the_other_side = call.outcome.wait();
        loop {
            let mut leased = match first.take() {
                Some(leased) => leased,
                None => match (lender.lease().await, doubted.take()) {
                    (Ok(leased), None) => leased,
                    (Ok(leased), Some(_)) if leased.is_shared() => leased,
                    (Err(failure), None) => return Err(ExchangeError::Unreached(failure)),
                    (lent, Some((error, leased))) => {
                        if let Ok(lent) = lent {
                            lent.unused();
                        }
                        return Err(broken(&call, error, leased));
                    }
                },
            };
            if self.is_extended_connect && !leased.takes_websockets() {
                leased.unused();
                return Err(ExchangeError::Unreached(Failure::broken(
                    "the connection for the WebSocket has gone, and the next takes none".to_owned(),
                )));
            }
            if !leased.is_shared() {
                self.request.body().look_ahead().await;
            }
            self.address(leased.is_shared());
            let spare = Replayable::of(&self.request, &leased, lender);
            match leased.send(self.request, &self.interim).await {
                Ok(response) => {
                    if let Some(spare) = spare {
                        spare.body.settle();
                    }
                    return Ok((response, leased));
                }
                Err(Unanswered { error, unsent }) => {
                    let otherwise = lender.otherwise(&leased);
                    let again = unsent.or_else(|| spare?.again(&*error, &leased, otherwise));
                    match again.filter(|_| attempt < ATTEMPTS_MAX && leased.alert().is_none()) {
                        Some(request) => {
                            call.retried();
                            (self.request, attempt) = (request, attempt + 1);
                            doubted = (otherwise == Otherwise::Perhaps).then_some((error, leased));
                        }
                        None => return Err(broken(&call, error, leased)),
                    }
                }
            }
        }
    }

    /// Addresses it as HTTP/2 (RFC 9113 §8.3.1) or as HTTP/1.1 (RFC 9112 §3.2.1) does.
    fn address(&mut self, http2: bool) {
        let Target { authority, path_and_query } = self.target.clone();
        let request = &mut self.request;
        if http2 {
            *request.version_mut() = Version::HTTP_2;
            *request.uri_mut() = whole(self.scheme.clone(), authority, path_and_query);
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
            // A length without its bytes would make the next request on the connection the body of this one.
            let is_empty = |length: &HeaderValue| length.as_bytes() == b"0";
            if request.body().is_end_stream()
                && !request.headers().get(CONTENT_LENGTH).is_none_or(is_empty)
                && request.body().size_hint().exact() == Some(0)
            {
                request.headers_mut().remove(CONTENT_LENGTH);
            }
            // Whatever the method, or the body would be left out (RFC 9112 §6.3).
            if !request.body().is_end_stream() && !request.headers().contains_key(CONTENT_LENGTH) {
                request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
        }
    }
}

fn broken(call: &OpenCall, error: HttpError, leased: Leased) -> ExchangeError {
    match leased.is_cut() {
        true => call.ended(EndedBy::Sidecar, EndedWith::Cut),
        false => call.ended(EndedBy::Called, leased.ended_with(ended::of(&*error))),
    }
    ExchangeError::Broken(error, leased)
}

/// What it takes to send a request again.
struct Replayable {
    method: Method,
    headers: HeaderMap,
    body: RequestBody,
}

impl Replayable {
    /// Only where the request might be sent again.
    fn of(request: &Request<RequestBody>, leased: &Leased, lender: &impl ConnectionSource) -> Option<Self> {
        let kept = leased.was_kept() && request.method().is_idempotent();
        if !kept && !leased.is_shared() && !lender.may_be_exchanged(leased) {
            request.body().settle();
            return None;
        }
        let (method, headers) = (request.method().clone(), request.headers().clone());
        Some(Self { method, headers, body: request.body().spare() })
    }

    /// The request once more, if this error says that it may be sent once more.
    fn again(
        self,
        error: &(dyn Error + 'static),
        leased: &Leased,
        otherwise: Otherwise,
    ) -> Option<Request<RequestBody>> {
        let kept = leased.was_kept() && is_repeatable(error, &self.method);
        let untaken = match otherwise {
            Otherwise::Surely => true,
            Otherwise::Perhaps => self.method.is_idempotent(),
            Otherwise::No => is_unprocessed(error),
        };
        let mut request = Request::new(self.body.again().filter(|_| kept || untaken)?);
        (*request.method_mut(), *request.headers_mut()) = (self.method, self.headers);
        Some(request)
    }
}

fn whole(scheme: Scheme, authority: http::uri::Authority, path_and_query: PathAndQuery) -> Uri {
    let mut parts = http::uri::Parts::default();
    (parts.scheme, parts.authority, parts.path_and_query) =
        (Some(scheme), Some(authority), Some(path_and_query));
    // All three are there, which is all that can be asked of them.
    Uri::from_parts(parts).unwrap_or_default()
}
