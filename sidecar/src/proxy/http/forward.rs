//! Forwards a request and its response: unchanged, as an HTTP/1.1 upgrade, or as a WebSocket in the version that each
//! side speaks.

use std::sync::Arc;

use http::header::{CONTENT_LENGTH, HeaderValue, SEC_WEBSOCKET_ACCEPT};
use http::{Request, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use tokio_util::sync::CancellationToken;

use super::body::{RequestBody, ResponseBody};
use super::call::OpenCall;
use super::duplex::{Duplex, piped};
use super::exchange::{ConnectionSource as _, PreparedRequest};
use super::failure::Failure;
use super::handler::RequestHandler;
use super::incoming::Incoming;
use super::pool::{ConnectionLease, Kind};
use super::problem::is_grpc;
use super::response_check;
use super::target::Target;
use super::upgrade::{self, UpgradeRelay, UpgradeSide};
use super::{fields, websocket};

/// Forwards a request that is not upgraded.
pub(super) async fn pass<S: RequestHandler>(
    handler: &S,
    request: Request<Incoming>,
    target: Target,
    call: &Arc<OpenCall>,
) -> Result<Response<ResponseBody>, Failure> {
    let kind = handler.kind(is_grpc(request.headers()))?;
    let prepared = handler.prepare(request, target, call);
    let (response, lease) = exchanged(handler, prepared, None, kind).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Failure::broken(format!("{} switched protocols unasked", S::SERVER_NAME)));
    }
    Ok(forwarded::<S>(response, call, lease))
}

/// Forwards an HTTP/1.1 upgrade request. A WebSocket is forwarded as an extended CONNECT stream if the server accepts
/// it.
pub(super) async fn switch<S: RequestHandler>(
    handler: &S,
    mut request: Request<Incoming>,
    target: Target,
    offer: HeaderValue,
    call: &Arc<OpenCall>,
) -> Result<Response<ResponseBody>, Failure> {
    let client = hyper::upgrade::on(&mut request);
    let key = websocket::key(&request, &offer);
    let mut prepared = handler.prepare(request, target, call);
    if let Some(key) = key
        && let Some(lease) = lease_for_websocket(handler).await?
    {
        return switch_to_stream(handler, prepared, lease, key, client, call).await;
    }
    upgrade::name_protocol(prepared.request.headers_mut(), offer.clone());
    let (mut response, lease) = exchanged(handler, prepared, None, Kind::Fresh).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(forwarded::<S>(response, call, lease));
    }
    let chosen = fields::switched_to(&offer, response.headers());
    let chosen = chosen.ok_or_else(|| not_offered::<S>())?;
    fields::remove_hop(response.headers_mut());
    upgrade::name_protocol(response.headers_mut(), chosen);
    handler.heads().upgraded();
    let called = UpgradeSide::Connection(hyper::upgrade::on(&mut response));
    relay(handler, call, [UpgradeSide::Connection(client), called], lease.termination());
    Ok(response.map(|_| ResponseBody::empty()))
}

/// Forwards an HTTP/1.1 WebSocket as an extended CONNECT.
async fn switch_to_stream<S: RequestHandler>(
    handler: &S,
    mut prepared: PreparedRequest,
    lease: ConnectionLease,
    key: HeaderValue,
    client: OnUpgrade,
    call: &Arc<OpenCall>,
) -> Result<Response<ResponseBody>, Failure> {
    let (body, writer) = piped();
    let body = prepared.request.body().replaced(Incoming::PipedBody(body));
    *prepared.request.body_mut() = body;
    prepared.is_extended_connect = true;
    let termination = lease.termination();
    let (response, lease) = exchanged(handler, prepared, Some(lease), handler.kind(false)?).await?;
    let is_success = response.status().is_success();
    if is_success {
        call.relayed();
    }
    let (mut parts, answer) = forwarded::<S>(response, call, lease).into_parts();
    if !is_success {
        // Only its body follows.
        writer.end_empty();
        websocket::answered(&mut parts);
        return Ok(Response::from_parts(parts, answer));
    }
    parts.status = StatusCode::SWITCHING_PROTOCOLS;
    parts.headers.remove(CONTENT_LENGTH);
    websocket::accept(&mut parts.headers, &key);
    handler.heads().upgraded();
    relay(
        handler,
        call,
        [UpgradeSide::Connection(client), UpgradeSide::Stream(Duplex::new(answer, writer))],
        termination,
    );
    Ok(Response::from_parts(parts, ResponseBody::empty()))
}

/// Forwards an HTTP/2 WebSocket: as extended CONNECT if the server accepts it, else as an HTTP/1.1 upgrade.
pub(super) async fn connect_websocket<S: RequestHandler>(
    handler: &S,
    request: Request<Incoming>,
    target: Target,
    call: &Arc<OpenCall>,
) -> Result<Response<ResponseBody>, Failure> {
    let mut prepared = handler.prepare(request, target, call);
    if let Some(lease) = lease_for_websocket(handler).await? {
        prepared.is_extended_connect = true;
        let (response, lease) = exchanged(handler, prepared, Some(lease), handler.kind(false)?).await?;
        if response.status().is_success() {
            call.upgraded();
        }
        return Ok(forwarded::<S>(response, call, lease));
    }
    let key = websocket::ask(prepared.request.headers_mut())?;
    let none = prepared.request.body().replaced(Incoming::Empty);
    let incoming: RequestBody = std::mem::replace(prepared.request.body_mut(), none);
    // The relay reads the body, once.
    incoming.settle();
    let (mut response, lease) = exchanged(handler, prepared, None, Kind::Fresh).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        // Over HTTP/2 a success status means that the WebSocket is open.
        if response.status().is_success() {
            websocket::is_not_switched(&mut response);
        }
        return Ok(forwarded::<S>(response, call, lease));
    }
    let offer = HeaderValue::from_static(websocket::WEBSOCKET);
    fields::switched_to(&offer, response.headers()).ok_or_else(|| not_offered::<S>())?;
    if !websocket::is_accepted(response.headers(), &key) {
        let detail = format!("{} did not accept the key of the WebSocket (RFC 6455 §4.2.2)", S::SERVER_NAME);
        return Err(Failure::broken(detail));
    }
    call.relayed();
    fields::remove_hop(response.headers_mut());
    response.headers_mut().remove(SEC_WEBSOCKET_ACCEPT);
    *response.status_mut() = StatusCode::OK;
    let (body, writer) = piped();
    let called = UpgradeSide::Connection(hyper::upgrade::on(&mut response));
    relay(handler, call, [UpgradeSide::Stream(Duplex::new(incoming, writer)), called], lease.termination());
    Ok(response.map(|_| ResponseBody::piped(body, call.clone(), S::CLIENT_SIDE)))
}

/// Leases a connection that accepts extended CONNECT, if there is one.
async fn lease_for_websocket<S: RequestHandler>(handler: &S) -> Result<Option<ConnectionLease>, Failure> {
    let kind = handler.kind(false)?;
    if kind == Kind::Single {
        return Ok(None);
    }
    let lease = handler.connections(kind).lease().await?;
    if lease.takes_websockets() {
        return Ok(Some(lease));
    }
    lease.unused();
    Ok(None)
}

async fn exchanged<S: RequestHandler>(
    handler: &S,
    prepared: PreparedRequest,
    first: Option<ConnectionLease>,
    kind: Kind,
) -> Result<(Response<Incoming>, ConnectionLease), Failure> {
    let exchanged = prepared.exchange(first, &handler.connections(kind)).await;
    let (mut response, lease) = exchanged.map_err(|error| handler.failed(error))?;
    response_check::check(&mut response, &lease, &handler.proxy().control.config.http)?;
    Ok((response, lease))
}

fn forwarded<S: RequestHandler>(
    mut response: Response<Incoming>,
    call: &Arc<OpenCall>,
    lease: ConnectionLease,
) -> Response<ResponseBody> {
    fields::remove_hop(response.headers_mut());
    ResponseBody::forwarded(response, call.clone(), S::CLIENT_SIDE, lease)
}

fn not_offered<S: RequestHandler>() -> Failure {
    Failure::broken(format!("{} switched to a protocol that was not offered", S::SERVER_NAME))
}

fn relay<S: RequestHandler>(
    handler: &S,
    call: &Arc<OpenCall>,
    sides: [UpgradeSide; 2],
    termination: CancellationToken,
) {
    let switching = UpgradeRelay::new(handler, call, sides, termination);
    handler.spawn_switched(switching.relay::<S::Client, S::Server>());
}
