//! Request and response bodies: streamed without buffering, counted, and ended with an error when their request is
//! terminated.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use thiserror::Error;
use tokio::time::{Sleep, sleep};

use super::call::{OpenCall, RequestPart};
use super::duplex::{PipedBody, WriterDropped};
use super::expect_continue::DeferredBody;
use super::framing::RawHeadCheck;
use super::http2::pipe::OutgoingBody;
use super::incoming::{HttpError, Incoming};
use super::pool::{ConnectionLease, StreamPermit};
use super::replay::BodyReplay;
use super::source::Source;
use super::target::InvalidMessage;
use super::{end_cause, fields};
use crate::observability::{EndedBy, EndedWith};

/// How long to wait for the first bytes before forwarding a request that does not declare whether it has a body.
const FIRST_BYTES_AWAITED: Duration = Duration::from_millis(100);

/// Why a body ended before its end.
#[derive(Debug, Error)]
pub(super) enum BodyError {
    #[error("the request is no longer allowed, or nothing of it moved for too long")]
    Cut,
    #[error(transparent)]
    InvalidMessage(InvalidMessage),
    #[error("the body is sent on another connection")]
    Elsewhere,
    #[error("the message broke off")]
    Broken(#[source] HttpError),
}

/// A request body on its way to the server.
#[derive(Debug)]
pub(super) struct RequestBody {
    flow: Arc<Mutex<Flow>>,
    call: Arc<OpenCall>,
    to: Destination,
    /// The attempt that this body belongs to.
    attempt: usize,
    /// Counts the request on its connection until the body is dropped.
    permit: Option<Arc<StreamPermit>>,
    /// After the response has ended: how long the body may still wait for flow-control capacity.
    waits: Option<Pin<Box<Sleep>>>,
}

/// The state of a request body that all attempts share.
#[derive(Debug)]
struct Flow {
    source: Source,
    /// Defers the body until the server asks for it (`100 Continue`).
    deferred: Option<DeferredBody>,
    /// The check of the HTTP/1 connection that the body comes from.
    heads: Arc<RawHeadCheck>,
    kept: BodyReplay,
    /// A frame that was read ahead; `None` is the end of the body.
    ahead: Option<Result<Option<Frame<Bytes>>, BodyError>>,
    attempt: usize,
}

impl Flow {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, BodyError>> {
        match self.ahead.take() {
            // The end of the body can be polled again.
            Some(Ok(None)) => {
                self.ahead = Some(Ok(None));
                Poll::Ready(Ok(None))
            }
            Some(ahead) => Poll::Ready(ahead),
            None => self.source.poll(cx),
        }
    }

    /// Whether the client sends no more of the body.
    fn is_over(&self) -> bool {
        match &self.ahead {
            Some(ahead) => matches!(ahead, Ok(None)),
            None => self.source.is_end_stream(),
        }
    }

    /// Whether the presence or length of the body is known without reading.
    fn is_known(&self) -> bool {
        self.source.is_end_stream() || self.source.size_hint().exact().is_some() || self.kept.left() > 0
    }
}

/// The side that a message is sent to, for byte counts and for the fields to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Destination {
    App,
    Peer,
}

impl Destination {
    pub(super) fn other(self) -> Self {
        match self {
            Self::App => Self::Peer,
            Self::Peer => Self::App,
        }
    }
}

impl RequestBody {
    /// Wraps the body of a received request.
    pub(super) fn of(
        request: Request<Incoming>,
        call: Arc<OpenCall>,
        to: Destination,
        heads: Arc<RawHeadCheck>,
    ) -> Request<Self> {
        let (mut parts, body) = request.into_parts();
        let source = Source::new(body, &mut parts.extensions);
        Request::from_parts(parts, Self::new(source, call, to, heads))
    }

    /// A body that the sidecar writes, for the same request.
    pub(super) fn replaced(&self, body: Incoming) -> Self {
        let heads = self.lock().heads.clone();
        Self::new(Source::made(body), self.call.clone(), self.to, heads)
    }

    fn new(source: Source, call: Arc<OpenCall>, to: Destination, heads: Arc<RawHeadCheck>) -> Self {
        if source.is_end_stream() {
            call.request_over();
        }
        let flow =
            Flow { source, deferred: None, heads, kept: BodyReplay::default(), ahead: None, attempt: 0 };
        Self { flow: Arc::new(Mutex::new(flow)), call, to, attempt: 0, permit: None, waits: None }
    }

    /// Holds the permit until the body has ended.
    pub(super) fn occupy(&mut self, permit: Arc<StreamPermit>) {
        self.permit = Some(permit);
    }

    /// Defers reading until the server asks for the body.
    pub(super) fn defer_body(&self, deferred: Option<DeferredBody>) {
        self.lock().deferred = deferred;
    }

    /// Waits up to [`FIRST_BYTES_AWAITED`] for the first bytes if it is unknown whether there is a body: an HTTP/2
    /// request may end with an empty frame, and then has no body (RFC 9113 §8.1).
    pub(super) async fn look_ahead(&self) {
        let first = poll_fn(|cx| {
            let mut flow = self.lock();
            if flow.ahead.is_some() || flow.deferred.is_some() || flow.is_known() {
                return Poll::Ready(());
            }
            let frame = ready!(flow.source.poll(cx));
            let is_empty = matches!(&frame, Ok(Some(frame)) if frame.data_ref().is_some_and(Bytes::is_empty));
            flow.ahead = Some(if is_empty && flow.source.is_end_stream() { Ok(None) } else { frame });
            Poll::Ready(())
        });
        if tokio::time::timeout(FIRST_BYTES_AWAITED, first).await.is_ok() && self.is_end_stream() {
            self.call.request_over();
        }
    }

    /// A second handle for a retry of the same body.
    pub(super) fn replayable(&self) -> Self {
        let (flow, call) = (self.flow.clone(), self.call.clone());
        Self { flow, call, to: self.to, attempt: self.attempt, permit: None, waits: None }
    }

    /// The body from its beginning, if all of it is still buffered. The earlier attempt sends no more.
    pub(super) fn restarted(mut self) -> Option<Self> {
        let mut flow = self.lock();
        if !flow.kept.rewind() {
            return None;
        }
        flow.attempt += 1;
        let attempt = flow.attempt;
        drop(flow);
        self.attempt = attempt;
        Some(self)
    }

    pub(super) fn call(&self) -> &Arc<OpenCall> {
        &self.call
    }

    /// Drops the replay buffer: the request will not be retried.
    pub(super) fn settle(&self) {
        self.lock().kept.forget();
    }

    /// The error to report. After the response has started, only the log can report an invalid message.
    fn broken(&self, flow: &Flow, error: BodyError) -> BodyError {
        self.call.ended(EndedBy::Caller, error.ended_with());
        let Some(bad) = flow.heads.fault() else { return error };
        if self.call.is_response_started() {
            self.call.report_invalid(bad.code(), bad.to_string());
        }
        BodyError::InvalidMessage(bad)
    }

    fn lock(&self) -> MutexGuard<'_, Flow> {
        self.flow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.waits = None;
        if self.call.poll_terminated(RequestPart::RequestBody, cx) {
            return Poll::Ready(Some(Err(BodyError::Cut)));
        }
        let mut flow = self.lock();
        if flow.attempt != self.attempt {
            return Poll::Ready(Some(Err(BodyError::Elsewhere)));
        }
        if let Some(deferred) = &mut flow.deferred {
            ready!(deferred.poll(cx));
            flow.deferred = None;
        }
        if let Some(data) = flow.kept.next() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let frame = ready!(flow.poll(cx)).map_err(|error| self.broken(&flow, error))?;
        let frame = frame.map(|frame| counting(frame, self.call.bytes(self.to)));
        self.call.moved();
        self.call.request_started();
        if frame.is_none() || flow.is_over() {
            self.call.request_over();
        }
        let Some(frame) = frame else { return Poll::Ready(None) };
        flow.kept.keep(&frame);
        Poll::Ready(Some(Ok(match (frame.into_trailers(), self.to) {
            (Ok(mut trailers), Destination::App) => {
                fields::clean_trailers(&mut trailers);
                Frame::trailers(trailers)
            }
            (Ok(mut trailers), Destination::Peer) => {
                fields::remove_hop(&mut trailers);
                Frame::trailers(trailers)
            }
            (Err(data), _) => data,
        })))
    }

    fn is_end_stream(&self) -> bool {
        let flow = self.lock();
        flow.kept.left() == 0 && flow.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        let flow = self.lock();
        if flow.is_over() {
            return SizeHint::with_exact(flow.kept.left());
        }
        let (inner, restarted) = (flow.source.size_hint(), flow.kept.left());
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(restarted));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(restarted));
        }
        hint
    }
}

impl OutgoingBody for RequestBody {
    fn poll_abandoned(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        if let Poll::Ready(error) = self.call.poll_abandoned(RequestPart::RequestBody, cx) {
            return Poll::Ready(error);
        }
        if !self.call.is_response_over() {
            return Poll::Pending;
        }
        // A server may respond before it has read the whole request (RFC 9113 §8.1), and need not say that it reads
        // no more.
        let Some(limit) = self.call.half_closed_timeout() else { return Poll::Pending };
        let waits = self.waits.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(waits.as_mut().poll(cx));
        Poll::Ready(BodyError::Broken(WriterDropped.into()))
    }
}

impl OutgoingBody for ResponseBody {
    fn poll_abandoned(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        match self {
            Self::Generated(_) => Poll::Pending,
            Self::PipedBody(answer) => answer.call.poll_abandoned(RequestPart::ResponseBody, cx),
            Self::ForwardedBody(forwarded)
                if forwarded.lease.as_ref().is_some_and(ConnectionLease::is_terminated) =>
            {
                Poll::Ready(BodyError::Cut)
            }
            Self::ForwardedBody(forwarded) => forwarded.call.poll_abandoned(RequestPart::ResponseBody, cx),
        }
    }
}

/// The body of a response: forwarded from the server or generated here.
#[derive(Debug)]
pub(super) enum ResponseBody {
    ForwardedBody(Box<ForwardedBody>),
    Generated(Bytes),
    /// The response to a request that became a tunnel, such as a WebSocket.
    PipedBody(PipedResponse),
}

/// A response body that a relay writes.
#[derive(Debug)]
pub(super) struct PipedResponse {
    piped: PipedBody,
    call: Arc<OpenCall>,
    to: Destination,
}

/// A response body forwarded from the server.
#[derive(Debug)]
pub(super) struct ForwardedBody {
    source: Source,
    call: Arc<OpenCall>,
    to: Destination,
    lease: Option<ConnectionLease>,
}

impl ResponseBody {
    /// A body from a leased connection. The connection returns to its pool when the body has ended cleanly.
    pub(super) fn forwarded(
        response: Response<Incoming>,
        call: Arc<OpenCall>,
        to: Destination,
        lease: ConnectionLease,
    ) -> Response<Self> {
        let (mut parts, body) = response.into_parts();
        let source = Source::new(body, &mut parts.extensions);
        let mut forwarded = ForwardedBody { source, call, to, lease: Some(lease) };
        forwarded.give_back_at_end();
        Response::from_parts(parts, Self::ForwardedBody(Box::new(forwarded)))
    }

    pub(super) fn empty() -> Self {
        Self::Generated(Bytes::new())
    }

    pub(super) fn piped(piped: PipedBody, call: Arc<OpenCall>, to: Destination) -> Self {
        Self::PipedBody(PipedResponse { piped, call, to })
    }
}

impl ForwardedBody {
    /// A connection on which the request is still being sent is not reused (RFC 9112 §9.3).
    fn give_back_at_end(&mut self) {
        if self.source.is_end_stream() {
            self.give_back();
        }
    }

    fn broken(&self, error: &BodyError) {
        let with = error.ended_with();
        let with = self.lease.as_ref().map_or(with, |lease| lease.ended_with(with));
        self.call.ended(EndedBy::Called, with);
        if let BodyError::Broken(error) = error {
            self.call.response_failed(error);
        }
    }

    fn give_back(&mut self) {
        if !self.call.is_relayed() {
            self.call.ended(EndedBy::Called, EndedWith::Fin);
        }
        self.call.response_over();
        if let Some(lease) = self.lease.take().filter(|_| self.call.is_request_over()) {
            lease.give_back();
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.call.poll_terminated(RequestPart::ResponseBody, cx)
            || self.lease.as_ref().is_some_and(ConnectionLease::is_terminated)
        {
            return Poll::Ready(Some(Err(BodyError::Cut)));
        }
        let frame = ready!(self.source.poll(cx)).inspect_err(|error| self.broken(error))?;
        let frame = frame.map(|frame| counting(frame, self.call.bytes(self.to)));
        self.call.moved();
        let frame = frame.map(|frame| match frame.into_trailers() {
            Ok(mut trailers) => {
                fields::remove_hop(&mut trailers);
                self.call.outcome.read_grpc_status(&trailers);
                Frame::trailers(trailers)
            }
            Err(data) => data,
        });
        match &frame {
            Some(_) => self.give_back_at_end(),
            None => self.give_back(),
        }
        Poll::Ready(frame.map(Ok))
    }
}

impl PipedResponse {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.call.poll_terminated(RequestPart::ResponseBody, cx) {
            return Poll::Ready(Some(Err(BodyError::Cut)));
        }
        let frame = ready!(self.piped.poll(cx)).transpose().map_err(|gone| BodyError::Broken(gone.into()))?;
        self.call.moved();
        Poll::Ready(frame.map(|frame| Ok(counting(frame, self.call.bytes(self.to)))))
    }
}

impl Drop for ForwardedBody {
    /// The client reads no more of the body, unless the body has ended or was terminated.
    fn drop(&mut self) {
        if self.lease.as_ref().is_some_and(ConnectionLease::is_terminated) {
            self.call.ended(EndedBy::Sidecar, EndedWith::Cut);
        } else if !self.call.is_terminated() {
            self.call.client_cancelled();
        }
        // The response has not ended, so the rest of the request body is not needed either.
        if self.lease.is_some() {
            self.call.abandon();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::ForwardedBody(forwarded) => forwarded.poll_frame(cx),
            Self::PipedBody(piped) => piped.poll_frame(cx),
            Self::Generated(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Generated(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::ForwardedBody(forwarded) => forwarded.source.is_end_stream(),
            Self::PipedBody(answer) => answer.piped.is_end_stream(),
            Self::Generated(bytes) => bytes.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::ForwardedBody(forwarded) => forwarded.source.size_hint(),
            Self::PipedBody(_) => SizeHint::new(),
            Self::Generated(bytes) => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}

impl BodyError {
    /// How the body ended.
    fn ended_with(&self) -> EndedWith {
        match self {
            Self::Broken(error) => end_cause::of(&**error),
            Self::Cut | Self::Elsewhere => EndedWith::Cut,
            Self::InvalidMessage(_) => EndedWith::Invalid,
        }
    }
}

fn counting(frame: Frame<Bytes>, counted: &std::sync::atomic::AtomicU64) -> Frame<Bytes> {
    if let Some(data) = frame.data_ref() {
        counted.fetch_add(data.len() as u64, Ordering::Relaxed);
    }
    frame
}
