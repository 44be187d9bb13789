//! One active request: what it waits for, what has ended it, and its entry in the access log.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use http::Response;
use postern_proto::mtls::Denial;
use tokio::time::timeout;
use tracing::warn;

use super::{Calls, RequestRecorder};
use crate::observability::access_log::{AccessLogEntry, AccessRecord};
use crate::observability::{Ended, EndedBy, EndedWith};
use crate::proxy::connections::RequestInfo;
use crate::proxy::http::body::{BodyError, Destination};
use crate::proxy::http::duplex::WriterDropped;
use crate::proxy::http::http2::server::StreamReset;
use crate::proxy::http::incoming::HttpError;
use crate::proxy::http::interim::InterimQueue;
use crate::proxy::http::outcome::Outcome;
use crate::proxy::http::response_check::InvalidResponse;
use crate::proxy::peer_limits::PeerPermit;

/// How long the final response waits for the request body after `100 Continue`. The client may send the body without
/// waiting for it.
const CONTINUE_HEARD_WITHIN: Duration = Duration::from_millis(250);

/// An active request. It leaves its connection's list when its last part is dropped.
#[derive(Debug)]
pub(in crate::proxy::http) struct OpenCall {
    key: usize,
    calls: Arc<Calls>,
    pub(in crate::proxy::http) facts: RequestInfo,
    termination: AtomicU8,
    waiting: [AtomicWaker; 3],
    /// Time of the last progress, in milliseconds since the connection began.
    pub(super) moved: AtomicU64,
    request_started: AtomicBool,
    request_over: AtomicBool,
    /// `100 Continue` was sent to the client.
    continued: AtomicBool,
    response_started: AtomicBool,
    /// The whole response has been received, and the request was not upgraded.
    response_over: AtomicBool,
    /// The client dropped the response before its end.
    abandoned: AtomicBool,
    /// It was upgraded to a WebSocket.
    pub(super) upgraded: AtomicBool,
    /// It was upgraded to a byte stream. Its relay enforces the idle timeout and records how it ended.
    relayed: AtomicBool,
    /// Bytes that header decompression added to its head.
    expanded_bytes: AtomicUsize,
    pub(in crate::proxy::http) bytes_to_app: AtomicU64,
    pub(in crate::proxy::http) bytes_to_peer: AtomicU64,
    began: Instant,
    record: Mutex<AccessRecord>,
    /// The first cause of its end.
    ended: OnceLock<Ended>,
    /// The code of the client's RST_STREAM, on HTTP/2.
    reset: OnceLock<StreamReset>,
    /// Counts the request against its peer's limits, once it is authorized.
    permit: OnceLock<PeerPermit>,
    pub(in crate::proxy::http) outcome: Outcome,
}

/// Why a request was terminated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy::http) enum TerminatedBy {
    /// The policy no longer allows it.
    Policy = 1,
    /// No progress within the idle timeout.
    Idle = 2,
}

impl TerminatedBy {
    /// A stable reason code.
    pub(in crate::proxy::http) fn code(self) -> &'static str {
        match self {
            Self::Policy => "withdrawn",
            Self::Idle => "stream_idle_timeout",
        }
    }
}

/// The tasks of a request that wait, each with its own waker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy::http) enum RequestPart {
    Response,
    RequestBody,
    ResponseBody,
}

impl OpenCall {
    pub(super) fn new(key: usize, calls: Arc<Calls>, facts: RequestInfo) -> Self {
        Self {
            key,
            facts,
            termination: AtomicU8::new(0),
            waiting: Default::default(),
            moved: AtomicU64::new(calls.millis()),
            request_started: AtomicBool::new(false),
            request_over: AtomicBool::new(false),
            continued: AtomicBool::new(false),
            response_started: AtomicBool::new(false),
            response_over: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            upgraded: AtomicBool::new(false),
            relayed: AtomicBool::new(false),
            expanded_bytes: AtomicUsize::new(0),
            bytes_to_app: AtomicU64::new(0),
            bytes_to_peer: AtomicU64::new(0),
            began: Instant::now(),
            record: Mutex::default(),
            ended: OnceLock::new(),
            reset: OnceLock::new(),
            permit: OnceLock::new(),
            outcome: Outcome::default(),
            calls,
        }
    }

    /// Holds the permit until the request has ended.
    pub(in crate::proxy::http) fn hold(&self, permit: PeerPermit) {
        // The permit is set once.
        let _first = self.permit.set(permit);
    }

    /// Terminates the request: its response, if not yet sent, and both bodies.
    pub(super) fn terminate(&self, by: TerminatedBy) {
        self.termination.store(by as u8, Ordering::Release);
        self.waiting.iter().for_each(AtomicWaker::wake);
    }

    pub(in crate::proxy::http) fn is_terminated(&self) -> bool {
        self.terminated_by().is_some()
    }

    pub(in crate::proxy::http) fn terminated_by(&self) -> Option<TerminatedBy> {
        match self.termination.load(Ordering::Acquire) {
            0 => None,
            1 => Some(TerminatedBy::Policy),
            _ => Some(TerminatedBy::Idle),
        }
    }

    /// Waits until the request is terminated.
    pub(in crate::proxy::http) async fn terminated(&self) -> TerminatedBy {
        poll_fn(|cx| match self.poll_terminated(RequestPart::Response, cx) {
            true => Poll::Ready(self.terminated_by().unwrap_or(TerminatedBy::Policy)),
            false => Poll::Pending,
        })
        .await
    }

    /// Whether the request is terminated. If not, registers the waker of `part`.
    pub(in crate::proxy::http) fn poll_terminated(&self, part: RequestPart, cx: &Context<'_>) -> bool {
        if let Some(waker) = self.waiting.get(part as usize) {
            waker.register(cx.waker());
        }
        self.is_terminated()
    }

    /// Records progress.
    pub(in crate::proxy::http) fn moved(&self) {
        self.moved.store(self.calls.millis(), Ordering::Relaxed);
    }

    pub(in crate::proxy::http) fn interim(&self) -> &InterimQueue {
        &self.calls.interim
    }

    /// Part of the request body was forwarded.
    pub(in crate::proxy::http) fn request_started(&self) {
        if !self.has_request_started() {
            self.request_started.store(true, Ordering::Release);
            if let Some(waker) = self.waiting.get(RequestPart::Response as usize) {
                waker.wake();
            }
        }
    }

    pub(in crate::proxy::http) fn has_request_started(&self) -> bool {
        self.request_started.load(Ordering::Acquire)
    }

    /// `100 Continue` is sent to the client.
    pub(in crate::proxy::http) fn continues(&self) {
        self.continued.store(true, Ordering::Release);
    }

    /// After `100 Continue` the response waits until the body begins: HAProxy 2.6 takes both, arriving together over
    /// HTTP/2, for the end of the response.
    pub(in crate::proxy::http) async fn continue_is_heard(&self) {
        if !self.continued.load(Ordering::Acquire) {
            return;
        }
        let begun = poll_fn(|cx| {
            let over = self.poll_terminated(RequestPart::Response, cx)
                || self.has_request_started()
                || self.is_request_over();
            if over { Poll::Ready(()) } else { Poll::Pending }
        });
        // A client that sends nothing within this time has read `100 Continue`.
        let _begun_or_late = timeout(CONTINUE_HEARD_WITHIN, begun).await;
    }

    /// The whole request body was forwarded.
    pub(in crate::proxy::http) fn request_over(&self) {
        self.request_over.store(true, Ordering::Release);
    }

    /// Records how many bytes header decompression added to the head.
    pub(in crate::proxy::http) fn expanded(&self, bytes: usize) {
        self.expanded_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(in crate::proxy::http) fn expanded_bytes(&self) -> usize {
        self.expanded_bytes.load(Ordering::Relaxed)
    }

    /// Whether the response has started.
    pub(in crate::proxy::http) fn is_response_started(&self) -> bool {
        self.response_started.load(Ordering::Acquire)
    }

    /// The whole response has been received. An upgraded request may end one direction and continue in the other.
    pub(in crate::proxy::http) fn response_over(&self) {
        if !self.is_relayed() && !self.upgraded.load(Ordering::Acquire) {
            self.response_over.store(true, Ordering::Release);
            if let Some(waker) = self.waiting.get(RequestPart::RequestBody as usize) {
                waker.wake();
            }
        }
    }

    /// How long the request body may wait for flow-control capacity after the response has ended.
    pub(in crate::proxy::http) fn half_closed_timeout(&self) -> Option<Duration> {
        Some(self.calls.recorder.get()?.proxy.control.config.limits.half_closed_timeout)
    }

    pub(in crate::proxy::http) fn is_response_over(&self) -> bool {
        self.response_over.load(Ordering::Acquire)
    }

    pub(in crate::proxy::http) fn is_request_over(&self) -> bool {
        self.request_over.load(Ordering::Acquire)
    }

    /// The client needs no more of it. A body that waits for flow-control capacity gives up.
    pub(in crate::proxy::http) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
        self.waiting.iter().for_each(AtomicWaker::wake);
    }

    /// Ready when no more of `part` is to be sent. If not, registers its waker.
    pub(in crate::proxy::http) fn poll_abandoned(
        &self,
        part: RequestPart,
        cx: &Context<'_>,
    ) -> Poll<BodyError> {
        if self.poll_terminated(part, cx) {
            return Poll::Ready(BodyError::Cut);
        }
        match self.abandoned.load(Ordering::Acquire) {
            true => Poll::Ready(BodyError::Broken(WriterDropped.into())),
            false => Poll::Pending,
        }
    }

    /// It was upgraded to a WebSocket, which has the idle timeout of upgraded connections.
    pub(in crate::proxy::http) fn upgraded(&self) {
        self.upgraded.store(true, Ordering::Release);
    }

    /// It was upgraded to a byte stream.
    pub(in crate::proxy::http) fn relayed(&self) {
        self.relayed.store(true, Ordering::Release);
    }

    pub(in crate::proxy::http) fn is_relayed(&self) -> bool {
        self.relayed.load(Ordering::Acquire)
    }

    /// The counter of bytes sent to that side.
    pub(in crate::proxy::http) fn bytes(&self, to: Destination) -> &AtomicU64 {
        match to {
            Destination::App => &self.bytes_to_app,
            Destination::Peer => &self.bytes_to_peer,
        }
    }
}

impl OpenCall {
    /// Updates the access log entry, if the access log is enabled.
    pub(in crate::proxy::http) fn record(&self, add: impl FnOnce(&mut AccessRecord)) {
        if self.calls.recorder.get().is_some_and(|recorder| recorder.proxy.access_log.is_on()) {
            add(&mut self.record.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Sets the source of the client's RST_STREAM code.
    pub(in crate::proxy::http) fn reset_by(&self, reset: StreamReset) {
        // A request has one stream.
        let _first = self.reset.set(reset);
    }

    /// The client cancelled the request.
    pub(in crate::proxy::http) fn client_cancelled(&self) {
        self.ended(EndedBy::Caller, self.reset_with());
    }

    fn reset_with(&self) -> EndedWith {
        let reason = self.reset.get().and_then(StreamReset::reason);
        reason.map_or(EndedWith::Reset, EndedWith::StreamReset)
    }

    /// Records the cause of its end. The first cause counts.
    pub(in crate::proxy::http) fn ended(&self, by: EndedBy, with: EndedWith) {
        let is_terminated = self.calls.terminated_for.get().is_some();
        let terminated = Ended { by: EndedBy::Sidecar, with: EndedWith::Cut };
        let _first = self.ended.set(if is_terminated { terminated } else { Ended { by, with } });
    }

    /// Terminates an upgraded connection for this reason, and logs it.
    pub(in crate::proxy::http) fn terminate_upgraded(&self, denial: Denial) {
        let Denial { code: reason, detail } = denial;
        let RequestInfo { method, path } = &self.facts;
        let recorder = self.calls.recorder.get();
        let direction = recorder.map(|recorder| recorder.direction.as_str());
        let from = recorder.map(|recorder| recorder.from.as_str());
        warn!(direction, from, method, path = %path.escape_debug(), reason, detail, "cut");
        if let Some(recorder) = recorder {
            recorder.proxy.control.metrics.terminated(reason);
        }
        self.record(|record| (record.reason, record.detail) = (Some(reason), Some(detail)));
        self.ended(EndedBy::Sidecar, EndedWith::Cut);
    }

    /// The response head is forwarded.
    pub(in crate::proxy::http) fn answered<B>(&self, response: &Response<B>) {
        self.response_started.store(true, Ordering::Release);
        self.outcome.answered(response.status().as_u16(), response.headers());
        self.record(|record| record.status = Some(response.status().as_u16()));
        if let Some(series) = self.calls.series() {
            series.listener.request_share.observe(self.outcome.own_share(self.began.elapsed()));
        }
    }

    /// Counts a retry on another connection.
    pub(in crate::proxy::http) fn retried(&self) {
        if let Some(series) = self.calls.series() {
            series.retries.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn count(&self) {
        let Some(series) = self.calls.series() else { return };
        series.listener.requests_active.fetch_sub(1, Ordering::Relaxed);
        series.request_ended(self.outcome.class(&self.facts.method), self.began.elapsed());
        let Ended { by, with } = self.what_ended_it();
        if with != EndedWith::Fin {
            series.listener.requests_aborted.count(by);
        }
    }

    /// The cause of its end, once the request is dropped.
    fn what_ended_it(&self) -> Ended {
        let recorded = self.ended.get().copied();
        let is_terminated = self.is_terminated() || self.calls.terminated_for.get().is_some();
        recorded.unwrap_or_else(|| match (is_terminated, self.is_response_started()) {
            (true, _) => Ended { by: EndedBy::Sidecar, with: EndedWith::Cut },
            // A response generated by the sidecar.
            (false, true) => Ended { by: EndedBy::Sidecar, with: EndedWith::Fin },
            // The client cancelled the request.
            (false, false) => Ended { by: EndedBy::Caller, with: self.reset_with() },
        })
    }

    /// Reports an invalid body after its response has started.
    pub(in crate::proxy::http) fn report_invalid(&self, reason: &'static str, detail: String) {
        self.record(|record| record.refused(reason, &detail));
        self.calls.refused(reason, detail);
    }

    /// Reports a response that broke one of our limits.
    pub(in crate::proxy::http) fn response_failed(&self, error: &HttpError) {
        let Some(recorder) = self.calls.recorder.get() else { return };
        if let Some(bad) = InvalidResponse::of_body(error, &recorder.proxy.control.config.http) {
            self.report_invalid(bad.code(), bad.to_string());
        }
    }

    fn write_line(&mut self) {
        let terminated_for =
            self.terminated_by().map(TerminatedBy::code).or_else(|| self.calls.terminated_for.get().copied());
        let ended = self.what_ended_it();
        let Some(RequestRecorder { proxy, direction, from, called, connection, .. }) =
            self.calls.recorder.get()
        else {
            return;
        };
        if !proxy.access_log.is_on() {
            return;
        }
        let record = self.record.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let EndedWith::Cut = ended.with {
            record.reason = record.reason.or(terminated_for);
        }
        record.ended = Some(ended);
        proxy.access_log.write(&AccessLogEntry {
            time: proxy.control.clock.now(),
            direction: *direction,
            protocol: "http",
            from,
            called,
            call: Some((&self.facts.method, &self.facts.path)),
            record,
            bytes: (self.bytes_to_app.load(Ordering::Relaxed), self.bytes_to_peer.load(Ordering::Relaxed)),
            duration: self.began.elapsed(),
            connection: *connection,
        });
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.count();
        self.write_line();
        let mut state = self.calls.lock();
        let _left = state.open.try_remove(self.key);
        if state.open.is_empty() {
            state.quiet_since = Instant::now();
        }
    }
}
