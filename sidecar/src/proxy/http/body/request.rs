//! The body of a request, which a retry on another connection sends again.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use super::{BodyError, Destination, counting};
use crate::observability::EndedBy;
use crate::proxy::http::call::{OpenCall, RequestPart};
use crate::proxy::http::duplex::WriterDropped;
use crate::proxy::http::expect_continue::DeferredBody;
use crate::proxy::http::fields;
use crate::proxy::http::framing::RawHeadCheck;
use crate::proxy::http::http2::pipe::OutgoingBody;
use crate::proxy::http::incoming::Incoming;
use crate::proxy::http::pool::StreamPermit;
use crate::proxy::http::replay::BodyReplay;
use crate::proxy::http::source::Source;

/// How long to wait for the first bytes before forwarding a request that does not declare whether it has a body.
const FIRST_BYTES_AWAITED: Duration = Duration::from_millis(100);

/// A request body on its way to the server.
#[derive(Debug)]
pub(in crate::proxy::http) struct RequestBody {
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

impl RequestBody {
    /// Wraps the body of a received request.
    pub(in crate::proxy::http) fn of(
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
    pub(in crate::proxy::http) fn replaced(&self, body: Incoming) -> Self {
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
    pub(in crate::proxy::http) fn occupy(&mut self, permit: Arc<StreamPermit>) {
        self.permit = Some(permit);
    }

    /// Defers reading until the server asks for the body.
    pub(in crate::proxy::http) fn defer_body(&self, deferred: Option<DeferredBody>) {
        self.lock().deferred = deferred;
    }

    /// Waits up to [`FIRST_BYTES_AWAITED`] for the first bytes if it is unknown whether there is a body: an HTTP/2
    /// request may end with an empty frame, and then has no body (RFC 9113 §8.1).
    pub(in crate::proxy::http) async fn look_ahead(&self) {
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
    pub(in crate::proxy::http) fn replayable(&self) -> Self {
        let (flow, call) = (self.flow.clone(), self.call.clone());
        Self { flow, call, to: self.to, attempt: self.attempt, permit: None, waits: None }
    }

    /// The body from its beginning, if all of it is still buffered. The earlier attempt sends no more.
    pub(in crate::proxy::http) fn restarted(mut self) -> Option<Self> {
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

    pub(in crate::proxy::http) fn call(&self) -> &Arc<OpenCall> {
        &self.call
    }

    /// Drops the replay buffer: the request will not be retried.
    pub(in crate::proxy::http) fn settle(&self) {
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
