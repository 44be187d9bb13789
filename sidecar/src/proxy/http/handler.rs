//! Handles every request on both sides: check, authorize, forward, and record the outcome.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;

use http::uri::Authority;
use http::{Method, Request, Response, Version};
use hyper::service::Service;
use tokio_util::sync::CancellationToken;

use super::body::{Destination, ResponseBody};
use super::call::{Calls, OpenCall, request_info};
use super::exchange::{ConnectionSource, ExchangeError, PreparedRequest};
use super::failure::Failure;
use super::frames::{Stream, Streams};
use super::framing::{RawHeadCheck, Refused, RequestCheck};
use super::http2::server::StreamReset;
use super::incoming::Incoming;
use super::pool::Kind;
use super::problem::ReplyFormat;
use super::target::{self, InvalidMessage, Target};
use super::upgrade::UpgradedIo;
use super::{fields, forward, websocket};
use crate::proxy::state::ProxyState;

/// Handles the requests of one connection: of a peer (inbound) or of the own app (outbound).
pub(super) trait RequestHandler: Send + Sync + 'static {
    /// The I/O types of client and server connections.
    type Client: UpgradedIo;
    type Server: UpgradedIo;

    /// The server's name in error details.
    const SERVER_NAME: &'static str;
    /// The side that responses are sent to.
    const CLIENT_SIDE: Destination;

    fn proxy(&self) -> &ProxyState;
    /// The active requests of the connection.
    fn calls(&self) -> &Arc<Calls>;
    fn heads(&self) -> &RawHeadCheck;
    fn streams(&self) -> &Arc<Streams>;
    /// The host for requests without one.
    fn service(&self) -> &Authority;

    fn read_target(&self, request: &Request<Incoming>) -> Result<Target, InvalidMessage> {
        target::read(request, &self.proxy().control.config.http, self.service())
    }

    /// The response to a request that the policy denies.
    fn refusal(&self, call: &OpenCall, format: ReplyFormat) -> Option<Response<ResponseBody>>;
    /// The kind of upstream connection for the request.
    fn kind(&self, is_grpc: bool) -> Result<Kind, Failure>;
    /// The source of connections of that kind.
    fn connections(&self, kind: Kind) -> impl ConnectionSource;
    /// Removes the fields that are not forwarded.
    fn prepare(&self, request: Request<Incoming>, target: Target, call: &Arc<OpenCall>) -> PreparedRequest;
    /// Classifies a failed exchange.
    fn failed(&self, error: ExchangeError) -> Failure;
    /// Spawns the relay of an upgraded connection.
    fn spawn_switched(&self, relayed: impl Future<Output = ()> + Send + 'static);
    /// Cancelled when the client's connection is terminated.
    fn termination(&self) -> CancellationToken;
    /// Refuses and reports an invalid request.
    fn refuse_invalid(
        &self,
        call: &OpenCall,
        bad: &InvalidMessage,
        format: ReplyFormat,
    ) -> Response<ResponseBody>;
    /// Reports a request that was allowed and got no response.
    fn fail(&self, call: &OpenCall, failure: Failure, format: ReplyFormat) -> Response<ResponseBody>;
}

/// The hyper service of one connection.
#[derive(Debug)]
pub(super) struct HandlerService<S>(pub(super) Arc<S>);

impl<S> Clone for HandlerService<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: RequestHandler, B: Into<Incoming> + Send + 'static> Service<Request<B>> for HandlerService<S> {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Infallible>> + Send>>;

    fn call(&self, request: Request<B>) -> Self::Future {
        let (handler, request) = (self.0.clone(), request.map(Into::into));
        Box::pin(async move { Ok(answer(&*handler, request).await) })
    }
}

async fn answer<S: RequestHandler>(handler: &S, mut request: Request<Incoming>) -> Response<ResponseBody> {
    websocket::from_extended_connect(&mut request);
    let format = ReplyFormat::of(&request);
    let (facts, refused) = match check_request(handler, &mut request) {
        Ok(()) => (request_info(&request), None),
        Err(Refused { bad, facts }) => (facts, Some(bad)),
    };
    // Registered first, then authorized: a policy change in between is seen by one of the two.
    let call = handler.calls().enter(facts);
    if let Some(stream) = request.extensions().get::<Arc<Stream>>() {
        call.expanded(stream.expanded_bytes());
    }
    if let Some(reset) = request.extensions_mut().remove::<StreamReset>() {
        call.reset_by(reset);
    }
    call.record(|record| record.trace_id = fields::trace_id(request.headers()));
    if format.is_grpc() {
        call.outcome.expect_grpc();
    }
    let response = answer_call(handler, request, refused, &call, format).await;
    // Interim responses are sent before the final response.
    handler.calls().interim().sent().await;
    call.continue_is_heard().await;
    call.answered(&response);
    response
}

/// The result of the raw check for this request.
fn check_request<S: RequestHandler>(handler: &S, request: &mut Request<Incoming>) -> Result<(), Refused> {
    let unseen =
        |request: &Request<Incoming>| Refused { bad: InvalidMessage::Unseen, facts: request_info(request) };
    if let Some(id) = request.body().stream_id() {
        let taken = handler.streams().take(id, request.headers_mut());
        let stream = taken.map_err(|refused| refused.unwrap_or_else(|| unseen(request)))?;
        request.extensions_mut().insert(Arc::new(stream));
        return Ok(());
    }
    match handler.heads().next() {
        RequestCheck::Valid => Ok(()),
        RequestCheck::Refused(refused) => Err(refused),
        RequestCheck::Unknown => Err(unseen(request)),
    }
}

async fn answer_call<S: RequestHandler>(
    handler: &S,
    request: Request<Incoming>,
    refused: Option<InvalidMessage>,
    call: &Arc<OpenCall>,
    format: ReplyFormat,
) -> Response<ResponseBody> {
    let target = match refused.map_or_else(|| handler.read_target(&request), Err) {
        Ok(target) => target,
        Err(bad) => return handler.refuse_invalid(call, &bad, format),
    };
    if let Some(refusal) = handler.refusal(call, format) {
        return refusal;
    }
    // Each path is boxed, so that a request only allocates the state of its own path, and a refused one none.
    let answered = async {
        // HTTP/1.0 has no upgrade (RFC 9110 §7.8).
        match fields::upgrade(request.headers()).filter(|_| request.version() == Version::HTTP_11) {
            // Policies in observe mode do not refuse CONNECT.
            _ if request.method() == Method::CONNECT => Err(Failure::connect()),
            _ if websocket::is_extended_connect(&request) => {
                Box::pin(forward::connect_websocket(handler, request, target, call)).await
            }
            Some(offer) => Box::pin(forward::switch(handler, request, target, offer, call)).await,
            None => Box::pin(forward::pass(handler, request, target, call)).await,
        }
    };
    let answered = tokio::select! {
        biased;
        by = call.terminated() => Err(by.into()),
        answered = answered => answered,
    };
    match answered {
        Ok(response) => response,
        // An invalid body is the cause of any other failure.
        Err(failure) => match handler.heads().fault() {
            Some(bad) => handler.refuse_invalid(call, &bad, format),
            None => handler.fail(call, failure, format),
        },
    }
}
