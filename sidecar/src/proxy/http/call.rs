//! The active requests of one connection. Each is authorized again, and terminated, separately.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use http::{Request, Response};
use postern_proto::mtls::Denial;
use slab::Slab;
use tokio::time::timeout;
use tracing::warn;

use super::body::{BodyError, Destination};
use super::duplex::WriterDropped;
use super::http2::server::StreamReset;
use super::incoming::HttpError;
use super::interim::InterimQueue;
use super::outcome::Outcome;
use super::response_check::InvalidResponse;
use super::target::InvalidMessage;
use crate::observability::Direction;
use crate::observability::access_log::{AccessLogEntry, AccessRecord};
use crate::observability::metrics::PeerSeries;
use crate::observability::refusals::{Called, Refusal};
use crate::observability::{Ended, EndedBy, EndedWith};
use crate::proxy::connections::{RequestInfo, Requests};
use crate::proxy::peer_limits::PeerPermit;
use crate::proxy::state::ProxyState;

/// The method and path by which the policy and the register identify a request.
pub(super) fn request_info<B>(request: &Request<B>) -> RequestInfo {
    RequestInfo { method: request.method().as_str().to_owned(), path: request.uri().path().to_owned() }
}

/// How long the final response waits for the request body after `100 Continue`. The client may send the body without
/// waiting for it.
const CONTINUE_HEARD_WITHIN: Duration = Duration::from_millis(250);

/// The active requests of one connection.
#[derive(Debug)]
pub struct Calls {
    state: Mutex<CallsState>,
    began: Instant,
    /// Interim responses to the client.
    interim: Arc<InterimQueue>,
    /// Set once client and server are identified.
    recorder: OnceLock<RequestRecorder>,
    /// The reason for which the connection and all its requests were terminated.
    terminated_for: OnceLock<&'static str>,
}

/// Records the requests of one connection in the metrics and the access log.
#[derive(Debug)]
pub(super) struct RequestRecorder {
    pub(super) proxy: Arc<ProxyState>,
    /// Metrics of the peer.
    pub(super) series: Option<Arc<PeerSeries>>,
    pub(super) direction: Direction,
    pub(super) from: String,
    pub(super) called: Called,
    pub(super) connection: Option<u64>,
}

#[derive(Debug)]
struct CallsState {
    open: Slab<Weak<OpenCall>>,
    /// When the last request ended, or the connection began.
    quiet_since: Instant,
}

/// An active request. It leaves its connection's list when its last part is dropped.
#[derive(Debug)]
pub(super) struct OpenCall {
    key: usize,
    calls: Arc<Calls>,
    pub(super) facts: RequestInfo,
    termination: AtomicU8,
    waiting: [AtomicWaker; 3],
    /// Time of the last progress, in milliseconds since the connection began.
    moved: AtomicU64,
    request_started_flag: AtomicBool,
    request_over: AtomicBool,
    /// `100 Continue` was sent to the client.
    continued: AtomicBool,
    answered: AtomicBool,
    /// The whole response has been received, and the request was not upgraded.
    response_over: AtomicBool,
    /// The client dropped the response before its end.
    abandoned: AtomicBool,
    /// It was upgraded to a WebSocket.
    upgraded: AtomicBool,
    /// It was upgraded to a byte stream. Its relay enforces the idle timeout and records how it ended.
    relayed: AtomicBool,
    /// Bytes that header decompression added to its head.
    expanded_bytes: AtomicUsize,
    pub(super) bytes_to_app: AtomicU64,
    pub(super) bytes_to_peer: AtomicU64,
    began: Instant,
    record: Mutex<AccessRecord>,
    /// The first cause of its end.
    ended: OnceLock<Ended>,
    /// The code of the client's RST_STREAM, on HTTP/2.
    reset: OnceLock<StreamReset>,
    /// Counts the request against its peer's limits, once it is authorized.
    permit: OnceLock<PeerPermit>,
    pub(super) outcome: Outcome,
}

/// Why a request was terminated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TerminatedBy {
    /// The policy no longer allows it.
    Policy = 1,
    /// No progress within the idle timeout.
    Idle = 2,
}

impl TerminatedBy {
    /// A stable reason code.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::Policy => "withdrawn",
            Self::Idle => "stream_idle_timeout",
        }
    }
}

/// The tasks of a request that wait, each with its own waker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestPart {
    Response,
    RequestBody,
    ResponseBody,
}

impl Default for Calls {
    fn default() -> Self {
        let began = Instant::now();
        let state = CallsState { open: Slab::new(), quiet_since: began };
        let (recorder, terminated_for) = (OnceLock::new(), OnceLock::new());
        Self { state: Mutex::new(state), began, interim: Arc::default(), recorder, terminated_for }
    }
}

impl Calls {
    /// Sets the recorder of the connection's requests.
    pub(super) fn recorded_by(&self, recorder: RequestRecorder) {
        // Each connection has one recorder, set before its first request.
        let _first = self.recorder.set(recorder);
    }

    fn series(&self) -> Option<&PeerSeries> {
        self.recorder.get()?.series.as_deref()
    }

    /// Adds a request to the list before it is authorized.
    pub(super) fn enter(self: &Arc<Self>, facts: RequestInfo) -> Arc<OpenCall> {
        if let Some(series) = self.series() {
            series.listener.requests_active.fetch_add(1, Ordering::Relaxed);
        }
        let mut state = self.lock();
        let entry = state.open.vacant_entry();
        let call = Arc::new(OpenCall {
            key: entry.key(),
            calls: self.clone(),
            facts,
            termination: AtomicU8::new(0),
            waiting: Default::default(),
            moved: AtomicU64::new(self.millis()),
            request_started_flag: AtomicBool::new(false),
            request_over: AtomicBool::new(false),
            continued: AtomicBool::new(false),
            answered: AtomicBool::new(false),
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
        });
        entry.insert(Arc::downgrade(&call));
        call
    }

    /// Reports an invalid message that is not forwarded.
    pub(super) fn report_invalid(&self, bad: &InvalidMessage) {
        self.refused(bad.code(), bad.to_string());
    }

    fn refused(&self, reason: &'static str, detail: String) {
        let Some(RequestRecorder { proxy, direction, from, called, .. }) = self.recorder.get() else {
            return;
        };
        let (direction, from, called) = (*direction, from.clone(), called.clone());
        proxy.refusals.tell(Refusal {
            direction,
            from,
            called,
            reason,
            detail,
            explain: None,
            instance: None,
        });
    }

    /// Terminates requests without progress for longer than `limit`, and WebSockets for longer than `upgraded_limit`.
    /// Returns how many.
    pub(super) fn terminate_idle(&self, limit: Duration, upgraded_limit: Duration) -> usize {
        let millis = |limit: Duration| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let (limit, upgraded_limit, now) = (millis(limit), millis(upgraded_limit), self.millis());
        let idle = |call: &Arc<OpenCall>| {
            let limit = if call.upgraded.load(Ordering::Acquire) { upgraded_limit } else { limit };
            now.saturating_sub(call.moved.load(Ordering::Relaxed)) > limit
        };
        self.open()
            .into_iter()
            .filter(|call| !call.is_terminated() && !call.is_relayed() && idle(call))
            .map(|call| call.terminate(TerminatedBy::Idle))
            .count()
    }

    /// How long there has been no active request, or `None` if there is one.
    pub(super) fn quiet_for(&self, now: Instant) -> Option<Duration> {
        let state = self.lock();
        state.open.is_empty().then(|| now.saturating_duration_since(state.quiet_since))
    }

    /// Interim responses to the client.
    pub(super) fn interim(&self) -> &Arc<InterimQueue> {
        &self.interim
    }

    /// Collected first, because dropping the last reference to a request takes the lock.
    fn open(&self) -> Vec<Arc<OpenCall>> {
        let state = self.lock();
        state.open.iter().filter_map(|(_, call)| call.upgrade()).collect()
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, CallsState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Requests for Calls {
    fn terminate(&self, denied: &dyn Fn(&RequestInfo) -> bool) -> usize {
        let denied = self.open().into_iter().filter(|call| !call.is_terminated() && denied(&call.facts));
        denied.map(|call| call.terminate(TerminatedBy::Policy)).count()
    }

    fn connection_terminated(&self, reason: &'static str) {
        let _first = self.terminated_for.set(reason);
    }

    fn count(&self) -> usize {
        self.lock().open.len()
    }
}

impl OpenCall {
    /// Holds the permit until the request has ended.
    pub(super) fn hold(&self, permit: PeerPermit) {
        // The permit is set once.
        let _first = self.permit.set(permit);
    }

    /// Terminates the request: its response, if not yet sent, and both bodies.
    fn terminate(&self, by: TerminatedBy) {
        self.termination.store(by as u8, Ordering::Release);
        self.waiting.iter().for_each(AtomicWaker::wake);
    }

    pub(super) fn is_terminated(&self) -> bool {
        self.terminated_by().is_some()
    }

    pub(super) fn terminated_by(&self) -> Option<TerminatedBy> {
        match self.termination.load(Ordering::Acquire) {
            0 => None,
            1 => Some(TerminatedBy::Policy),
            _ => Some(TerminatedBy::Idle),
        }
    }

    /// Waits until the request is terminated.
    pub(super) async fn terminated(&self) -> TerminatedBy {
        poll_fn(|cx| match self.poll_terminated(RequestPart::Response, cx) {
            true => Poll::Ready(self.terminated_by().unwrap_or(TerminatedBy::Policy)),
            false => Poll::Pending,
        })
        .await
    }

    /// Whether the request is terminated. If not, registers the waker of `part`.
    pub(super) fn poll_terminated(&self, part: RequestPart, cx: &Context<'_>) -> bool {
        if let Some(waker) = self.waiting.get(part as usize) {
            waker.register(cx.waker());
        }
        self.is_terminated()
    }

    /// Records progress.
    pub(super) fn moved(&self) {
        self.moved.store(self.calls.millis(), Ordering::Relaxed);
    }

    pub(super) fn interim(&self) -> &InterimQueue {
        &self.calls.interim
    }

    /// Part of the request body was forwarded.
    pub(super) fn request_started(&self) {
        if !self.has_request_started() {
            self.request_started_flag.store(true, Ordering::Release);
            if let Some(waker) = self.waiting.get(RequestPart::Response as usize) {
                waker.wake();
            }
        }
    }

    pub(super) fn has_request_started(&self) -> bool {
        self.request_started_flag.load(Ordering::Acquire)
    }

    /// `100 Continue` is sent to the client.
    pub(super) fn continues(&self) {
        self.continued.store(true, Ordering::Release);
    }

    /// After `100 Continue` the response waits until the body begins: HAProxy 2.6 takes both, arriving together over
    /// HTTP/2, for the end of the response.
    pub(super) async fn continue_is_heard(&self) {
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
    pub(super) fn request_over(&self) {
        self.request_over.store(true, Ordering::Release);
    }

    /// Records how many bytes header decompression added to the head.
    pub(super) fn expanded(&self, bytes: usize) {
        self.expanded_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn expanded_bytes(&self) -> usize {
        self.expanded_bytes.load(Ordering::Relaxed)
    }

    /// Whether the response has started.
    pub(super) fn is_response_started(&self) -> bool {
        self.answered.load(Ordering::Acquire)
    }

    /// The whole response has been received. An upgraded request may end one direction and continue in the other.
    pub(super) fn response_over(&self) {
        if !self.is_relayed() && !self.upgraded.load(Ordering::Acquire) {
            self.response_over.store(true, Ordering::Release);
            if let Some(waker) = self.waiting.get(RequestPart::RequestBody as usize) {
                waker.wake();
            }
        }
    }

    /// How long the request body may wait for flow-control capacity after the response has ended.
    pub(super) fn half_closed_timeout(&self) -> Option<Duration> {
        Some(self.calls.recorder.get()?.proxy.control.config.limits.half_closed_timeout)
    }

    pub(super) fn is_response_over(&self) -> bool {
        self.response_over.load(Ordering::Acquire)
    }

    pub(super) fn is_request_over(&self) -> bool {
        self.request_over.load(Ordering::Acquire)
    }

    /// The client needs no more of it. A body that waits for flow-control capacity gives up.
    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
        self.waiting.iter().for_each(AtomicWaker::wake);
    }

    /// Ready when no more of `part` is to be sent. If not, registers its waker.
    pub(super) fn poll_abandoned(&self, part: RequestPart, cx: &Context<'_>) -> Poll<BodyError> {
        if self.poll_terminated(part, cx) {
            return Poll::Ready(BodyError::Cut);
        }
        match self.abandoned.load(Ordering::Acquire) {
            true => Poll::Ready(BodyError::Broken(WriterDropped.into())),
            false => Poll::Pending,
        }
    }

    /// It was upgraded to a WebSocket, which has the idle timeout of upgraded connections.
    pub(super) fn upgraded(&self) {
        self.upgraded.store(true, Ordering::Release);
    }

    /// It was upgraded to a byte stream.
    pub(super) fn relayed(&self) {
        self.relayed.store(true, Ordering::Release);
    }

    pub(super) fn is_relayed(&self) -> bool {
        self.relayed.load(Ordering::Acquire)
    }

    /// The counter of bytes sent to that side.
    pub(super) fn bytes(&self, to: Destination) -> &AtomicU64 {
        match to {
            Destination::App => &self.bytes_to_app,
            Destination::Peer => &self.bytes_to_peer,
        }
    }
}

impl OpenCall {
    /// Updates the access log entry, if the access log is enabled.
    pub(super) fn record(&self, add: impl FnOnce(&mut AccessRecord)) {
        if self.calls.recorder.get().is_some_and(|recorder| recorder.proxy.access_log.is_on()) {
            add(&mut self.record.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Sets the source of the client's RST_STREAM code.
    pub(super) fn reset_by(&self, reset: StreamReset) {
        // A request has one stream.
        let _first = self.reset.set(reset);
    }

    /// The client cancelled the request.
    pub(super) fn client_cancelled(&self) {
        self.ended(EndedBy::Caller, self.reset_with());
    }

    fn reset_with(&self) -> EndedWith {
        let reason = self.reset.get().and_then(StreamReset::reason);
        reason.map_or(EndedWith::Reset, EndedWith::StreamReset)
    }

    /// Records the cause of its end. The first cause counts.
    pub(super) fn ended(&self, by: EndedBy, with: EndedWith) {
        let is_terminated = self.calls.terminated_for.get().is_some();
        let terminated = Ended { by: EndedBy::Sidecar, with: EndedWith::Cut };
        let _first = self.ended.set(if is_terminated { terminated } else { Ended { by, with } });
    }

    /// Terminates an upgraded connection for this reason, and logs it.
    pub(super) fn terminate_upgraded(&self, denial: Denial) {
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
    pub(super) fn answered<B>(&self, response: &Response<B>) {
        self.answered.store(true, Ordering::Release);
        self.outcome.answered(response.status().as_u16(), response.headers());
        self.record(|record| record.status = Some(response.status().as_u16()));
        if let Some(series) = self.calls.series() {
            series.listener.request_share.observe(self.outcome.own_share(self.began.elapsed()));
        }
    }

    /// Counts a retry on another connection.
    pub(super) fn retried(&self) {
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
        let told = self.ended.get().copied();
        let is_terminated = self.is_terminated() || self.calls.terminated_for.get().is_some();
        told.unwrap_or_else(|| match (is_terminated, self.is_response_started()) {
            (true, _) => Ended { by: EndedBy::Sidecar, with: EndedWith::Cut },
            // A response generated by the sidecar.
            (false, true) => Ended { by: EndedBy::Sidecar, with: EndedWith::Fin },
            // The client cancelled the request.
            (false, false) => Ended { by: EndedBy::Caller, with: self.reset_with() },
        })
    }

    /// Reports an invalid body after its response has started.
    pub(super) fn report_invalid(&self, reason: &'static str, detail: String) {
        self.record(|record| record.refused(reason, &detail));
        self.calls.refused(reason, detail);
    }

    /// Reports a response that broke one of our limits.
    pub(super) fn response_failed(&self, error: &HttpError) {
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
