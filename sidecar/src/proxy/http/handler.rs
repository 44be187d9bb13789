//! What both sides do with every request: read it, decide it, pass it on, and tell what became of it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;

use http::uri::Authority;
use http::{Method, Request, Response, Version};
use hyper::service::Service;
use tokio_util::sync::CancellationToken;

use super::body::{Answer, To};
use super::call::{Calls, OpenCall, facts_of};
use super::exchange::{ConnectionSource, ExchangeError, PreparedRequest};
use super::failure::Failure;
use super::frames::{Stream, Streams};
use super::framing::{RawHeadCheck, Refused, Seen};
use super::http2::server::StreamReset;
use super::incoming::Incoming;
use super::pool::Kind;
use super::problem::Asked;
use super::target::{self, InvalidMessage, Target};
use super::upgrade::Below;
use super::{fields, passing, websocket};
use crate::proxy::state::ProxyState;

/// One connection: a peer's at an inbound, or the own app's at an outbound.
pub(super) trait RequestHandler: Send + Sync + 'static {
    /// The stream below the connection of whoever asks, and below those to whoever is called.
    type Client: Below;
    type Called: Below;

    /// Who is called, in a sentence.
    const CALLED: &'static str;
    /// Which side of the pair whoever asks is on.
    const ANSWERS_TO: To;

    fn proxy(&self) -> &ProxyState;
    /// The requests under way on it.
    fn calls(&self) -> &Arc<Calls>;
    fn heads(&self) -> &RawHeadCheck;
    fn streams(&self) -> &Arc<Streams>;
    /// The host of a request that names none.
    fn service(&self) -> &Authority;

    fn read_target(&self, request: &Request<Incoming>) -> Result<Target, InvalidMessage> {
        target::read(request, &self.proxy().control.config.http, self.service())
    }

    /// The answer to a request that may not pass.
    fn refusal(&self, call: &OpenCall, asked: Asked) -> Option<Response<Answer>>;
    /// On which kind of connection a request goes on.
    fn kind(&self, is_grpc: bool) -> Result<Kind, Failure>;
    /// Who lends connections of that kind.
    fn lender(&self, kind: Kind) -> impl ConnectionSource;
    /// Takes away what a request does not keep on its way.
    fn prepare(&self, request: Request<Incoming>, target: Target, call: &Arc<OpenCall>) -> PreparedRequest;
    /// What a failed exchange means.
    fn failed(&self, error: ExchangeError) -> Failure;
    /// Spawns what goes on when a connection stops being HTTP.
    fn spawn_switched(&self, relayed: impl Future<Output = ()> + Send + 'static);
    /// Cancelled when the connection of whoever asks is cut.
    fn cut(&self) -> CancellationToken;
    /// Tells a request that is not valid, and so is nobody's.
    fn refuse_bad(&self, call: &OpenCall, bad: &InvalidMessage, asked: Asked) -> Response<Answer>;
    /// Tells a request that might have passed and got no answer.
    fn fail(&self, call: &OpenCall, failure: Failure, asked: Asked) -> Response<Answer>;
}

/// A connection's requests, as hyper hands them over.
#[derive(Debug)]
pub(super) struct HandlerService<S>(pub(super) Arc<S>);

impl<S> Clone for HandlerService<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: RequestHandler, B: Into<Incoming> + Send + 'static> Service<Request<B>> for HandlerService<S> {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answer>, Infallible>> + Send>>;

    fn call(&self, request: Request<B>) -> Self::Future {
        let (side, request) = (self.0.clone(), request.map(Into::into));
        Box::pin(async move { Ok(answer(&*side, request).await) })
    }
}

async fn answer<S: RequestHandler>(side: &S, mut request: Request<Incoming>) -> Response<Answer> {
    websocket::from_extended_connect(&mut request);
    let asked = Asked::of(&request);
    let (facts, refused) = match seen(side, &mut request) {
        Ok(()) => (facts_of(&request), None),
        Err(Refused { bad, facts }) => (facts, Some(bad)),
    };
    // First known to the register, then decided: a policy that comes between is seen by one of the two.
    let call = side.calls().enter(facts);
    if let Some(stream) = request.extensions().get::<Arc<Stream>>() {
        call.expanded(stream.expanded_bytes());
    }
    if let Some(reset) = request.extensions_mut().remove::<StreamReset>() {
        call.reset_by(reset);
    }
    call.record(|record| record.trace_id = fields::trace_id(request.headers()));
    if asked.is_grpc() {
        call.outcome.expect_grpc();
    }
    let response = answer_call(side, request, refused, &call, asked).await;
    // What comes before the answer is sent before it.
    side.calls().interim().sent().await;
    call.continue_is_heard().await;
    call.answered(&response);
    response
}

/// What the check of a request's bytes says of it.
fn seen<S: RequestHandler>(side: &S, request: &mut Request<Incoming>) -> Result<(), Refused> {
    let unseen =
        |request: &Request<Incoming>| Refused { bad: InvalidMessage::Unseen, facts: facts_of(request) };
    if let Some(id) = request.body().stream_id() {
        let taken = side.streams().take(id, request.headers_mut());
        let stream = taken.map_err(|refused| refused.unwrap_or_else(|| unseen(request)))?;
        request.extensions_mut().insert(Arc::new(stream));
        return Ok(());
    }
    match side.heads().next() {
        Seen::Valid => Ok(()),
        Seen::Refused(refused) => Err(refused),
        Seen::Nothing => Err(unseen(request)),
    }
}

async fn answer_call<S: RequestHandler>(
    side: &S,
    request: Request<Incoming>,
    refused: Option<InvalidMessage>,
    call: &Arc<OpenCall>,
    asked: Asked,
) -> Response<Answer> {
    let target = match refused.map_or_else(|| side.read_target(&request), Err) {
        Ok(target) => target,
        Err(bad) => return side.refuse_bad(call, &bad, asked),
    };
    if let Some(refusal) = side.refusal(call, asked) {
        return refusal;
    }
    // Each boxed, so that a request holds the room of its own way alone, and what is refused that of none.
    let answered = async {
        // HTTP/1.0 knows of no upgrade (RFC 9110 §7.8).
        match fields::upgrade(request.headers()).filter(|_| request.version() == Version::HTTP_11) {
            // A policy that only observes does not refuse it.
            _ if request.method() == Method::CONNECT => Err(Failure::connect()),
            _ if websocket::is_extended_connect(&request) => {
                Box::pin(passing::connect_websocket(side, request, target, call)).await
            }
            Some(offer) => Box::pin(passing::switch(side, request, target, offer, call)).await,
            None => Box::pin(passing::pass(side, request, target, call)).await,
        }
    };
    let answered = tokio::select! {
        biased;
        by = call.cut_while_answering() => Err(by.into()),
        answered = answered => answered,
    };
    match answered {
        Ok(response) => response,
        // The body is at fault, whatever broke because of it.
        Err(failure) => match side.heads().fault() {
            Some(bad) => side.refuse_bad(call, &bad, asked),
            None => side.fail(call, failure, asked),
        },
    }
}
