//! Passes a request on and its answer back: as it is, as an upgrade of HTTP/1.1, or as a WebSocket in whichever version
//! each side speaks.

use std::sync::Arc;

use http::header::{CONTENT_LENGTH, HeaderValue, SEC_WEBSOCKET_ACCEPT};
use http::{Request, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use tokio_util::sync::CancellationToken;

use super::answer;
use super::body::{Answer, RequestBody};
use super::call::OpenCall;
use super::duplex::{Duplex, piped};
use super::exchange::{ConnectionSource as _, PreparedRequest};
use super::failure::Failure;
use super::handler::RequestHandler;
use super::incoming::Incoming;
use super::pool::{Kind, Leased};
use super::problem::is_grpc;
use super::target::Target;
use super::upgrade::{self, Switching, Way};
use super::{fields, websocket};

/// A request that stays one.
pub(super) async fn pass<S: RequestHandler>(
    side: &S,
    request: Request<Incoming>,
    target: Target,
    call: &Arc<OpenCall>,
) -> Result<Response<Answer>, Failure> {
    let kind = side.kind(is_grpc(request.headers()))?;
    let prepared = side.prepare(request, target, call);
    let (response, lease) = exchanged(side, prepared, None, kind).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Failure::broken(format!("{} switched protocols unasked", S::CALLED)));
    }
    Ok(carried::<S>(response, call, lease))
}

/// A request of HTTP/1.1 for another protocol. One for a WebSocket goes on as a stream of a shared connection, where the
/// other side takes that.
pub(super) async fn switch<S: RequestHandler>(
    side: &S,
    mut request: Request<Incoming>,
    target: Target,
    offer: HeaderValue,
    call: &Arc<OpenCall>,
) -> Result<Response<Answer>, Failure> {
    let client = hyper::upgrade::on(&mut request);
    let key = websocket::key(&request, &offer);
    let mut prepared = side.prepare(request, target, call);
    if let Some(key) = key
        && let Some(lease) = lease_for_websocket(side).await?
    {
        return switch_to_stream(side, prepared, lease, key, client, call).await;
    }
    upgrade::name_protocol(prepared.request.headers_mut(), offer.clone());
    let (mut response, lease) = exchanged(side, prepared, None, Kind::Fresh).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(carried::<S>(response, call, lease));
    }
    let chosen = fields::switched_to(&offer, response.headers());
    let chosen = chosen.ok_or_else(|| not_offered::<S>())?;
    fields::remove_hop(response.headers_mut());
    upgrade::name_protocol(response.headers_mut(), chosen);
    side.heads().upgraded();
    let called = Way::Connection(hyper::upgrade::on(&mut response));
    relay(side, call, [Way::Connection(client), called], lease.cut());
    Ok(response.map(|_| Answer::empty()))
}

/// A WebSocket of HTTP/1.1 that goes on as an extended CONNECT.
async fn switch_to_stream<S: RequestHandler>(
    side: &S,
    mut prepared: PreparedRequest,
    lease: Leased,
    key: HeaderValue,
    client: OnUpgrade,
    call: &Arc<OpenCall>,
) -> Result<Response<Answer>, Failure> {
    let (body, feed) = piped();
    let body = prepared.request.body().replaced(Incoming::Piped(body));
    *prepared.request.body_mut() = body;
    prepared.is_extended_connect = true;
    let cut = lease.cut();
    let (response, lease) = exchanged(side, prepared, Some(lease), side.kind(false)?).await?;
    let is_success = response.status().is_success();
    if is_success {
        call.relayed();
    }
    let (mut parts, answer) = carried::<S>(response, call, lease).into_parts();
    if !is_success {
        // Its body is all that is still to come.
        feed.end_empty();
        websocket::answered(&mut parts);
        return Ok(Response::from_parts(parts, answer));
    }
    parts.status = StatusCode::SWITCHING_PROTOCOLS;
    parts.headers.remove(CONTENT_LENGTH);
    websocket::accept(&mut parts.headers, &key);
    side.heads().upgraded();
    relay(side, call, [Way::Connection(client), Way::Stream(Duplex::new(answer, feed))], cut);
    Ok(Response::from_parts(parts, Answer::empty()))
}

/// A WebSocket of HTTP/2: goes on as one where the other side takes that, and as an upgrade of HTTP/1.1 otherwise.
pub(super) async fn connect_websocket<S: RequestHandler>(
    side: &S,
    request: Request<Incoming>,
    target: Target,
    call: &Arc<OpenCall>,
) -> Result<Response<Answer>, Failure> {
    let mut prepared = side.prepare(request, target, call);
    if let Some(lease) = lease_for_websocket(side).await? {
        prepared.is_extended_connect = true;
        let (response, lease) = exchanged(side, prepared, Some(lease), side.kind(false)?).await?;
        if response.status().is_success() {
            call.upgraded();
        }
        return Ok(carried::<S>(response, call, lease));
    }
    let key = websocket::ask(prepared.request.headers_mut())?;
    let none = prepared.request.body().replaced(Incoming::Empty);
    let incoming: RequestBody = std::mem::replace(prepared.request.body_mut(), none);
    // What it says goes to the relay, once.
    incoming.settle();
    let (mut response, lease) = exchanged(side, prepared, None, Kind::Fresh).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        // Over HTTP/2 a success is a WebSocket.
        if response.status().is_success() {
            websocket::is_not_switched(&mut response);
        }
        return Ok(carried::<S>(response, call, lease));
    }
    let offer = HeaderValue::from_static(websocket::WEBSOCKET);
    fields::switched_to(&offer, response.headers()).ok_or_else(|| not_offered::<S>())?;
    if !websocket::is_accepted(response.headers(), &key) {
        let detail = format!("{} did not accept the key of the WebSocket (RFC 6455 §4.2.2)", S::CALLED);
        return Err(Failure::broken(detail));
    }
    call.relayed();
    fields::remove_hop(response.headers_mut());
    response.headers_mut().remove(SEC_WEBSOCKET_ACCEPT);
    *response.status_mut() = StatusCode::OK;
    let (body, feed) = piped();
    let called = Way::Connection(hyper::upgrade::on(&mut response));
    relay(side, call, [Way::Stream(Duplex::new(incoming, feed)), called], lease.cut());
    Ok(response.map(|_| Answer::piped(body, call.clone(), S::ANSWERS_TO)))
}

/// A connection on which a WebSocket may be a stream, if there is such a one.
async fn lease_for_websocket<S: RequestHandler>(side: &S) -> Result<Option<Leased>, Failure> {
    let kind = side.kind(false)?;
    if kind == Kind::Single {
        return Ok(None);
    }
    let lease = side.lender(kind).lease().await?;
    if lease.takes_websockets() {
        return Ok(Some(lease));
    }
    lease.unused();
    Ok(None)
}

async fn exchanged<S: RequestHandler>(
    side: &S,
    prepared: PreparedRequest,
    first: Option<Leased>,
    kind: Kind,
) -> Result<(Response<Incoming>, Leased), Failure> {
    let exchanged = prepared.exchange(first, &side.lender(kind)).await;
    let (mut response, lease) = exchanged.map_err(|error| side.failed(error))?;
    answer::check(&mut response, &lease, &side.proxy().control.config.http)?;
    Ok((response, lease))
}

fn carried<S: RequestHandler>(
    mut response: Response<Incoming>,
    call: &Arc<OpenCall>,
    lease: Leased,
) -> Response<Answer> {
    fields::remove_hop(response.headers_mut());
    Answer::carried(response, call.clone(), S::ANSWERS_TO, lease)
}

fn not_offered<S: RequestHandler>() -> Failure {
    Failure::broken(format!("{} switched to a protocol that was not offered", S::CALLED))
}

fn relay<S: RequestHandler>(side: &S, call: &Arc<OpenCall>, ways: [Way; 2], cut: CancellationToken) {
    let switching = Switching::new(side, call, ways, cut);
    side.spawn_switched(switching.relay::<S::Client, S::Called>());
}
