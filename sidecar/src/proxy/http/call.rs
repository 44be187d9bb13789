//! The requests under way on one connection: each can be decided again, and cut, by itself.

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

use super::answer::InvalidAnswer;
use super::body::{BodyError, To};
use super::duplex::GivenUp;
use super::http2::server::StreamReset;
use super::incoming::HttpError;
use super::interim::InterimQueue;
use super::outcome::Outcome;
use super::target::InvalidMessage;
use crate::observability::Direction;
use crate::observability::access_log::{AccessLogEntry, AccessRecord};
use crate::observability::metrics::PeerSeries;
use crate::observability::refusals::{Called, Refusal};
use crate::observability::{Ended, EndedBy, EndedWith};
use crate::proxy::connections::{RequestInfo, Requests};
use crate::proxy::peer_limits::PeerPermit;
use crate::proxy::state::ProxyState;

/// The request as policy and register see it.
pub(super) fn facts_of<B>(request: &Request<B>) -> RequestInfo {
    RequestInfo { method: request.method().as_str().to_owned(), path: request.uri().path().to_owned() }
}

/// After `100 Continue` the body is awaited so long before a final answer is given, which a client may send without it.
const CONTINUE_HEARD_WITHIN: Duration = Duration::from_millis(250);

/// The requests under way on one connection.
#[derive(Debug)]
pub struct Calls {
    state: Mutex<CallsState>,
    began: Instant,
    /// What its client is told before an answer.
    interim: Arc<InterimQueue>,
    /// Once it is known who calls whom.
    recorder: OnceLock<RequestRecorder>,
    /// Why the connection is cut, with all that is under way on it.
    cut_for: OnceLock<&'static str>,
}

/// Records the requests of one connection in metrics and access log.
#[derive(Debug)]
pub(super) struct RequestRecorder {
    pub(super) proxy: Arc<ProxyState>,
    /// Where the metrics count them.
    pub(super) series: Option<Arc<PeerSeries>>,
    pub(super) direction: Direction,
    pub(super) from: String,
    pub(super) called: Called,
    pub(super) connection: Option<u64>,
}

#[derive(Debug)]
struct CallsState {
    open: Slab<Weak<OpenCall>>,
    /// When the last one ended, or the connection began.
    quiet_since: Instant,
}

/// A request under way; it leaves its connection's list when the last of its parts is dropped.
#[derive(Debug)]
pub(super) struct OpenCall {
    key: usize,
    calls: Arc<Calls>,
    pub(super) facts: RequestInfo,
    cut: AtomicU8,
    waiting: [AtomicWaker; 3],
    /// When something moved last, in milliseconds since the connection began.
    moved: AtomicU64,
    request_begun: AtomicBool,
    request_over: AtomicBool,
    /// Its client was told to send the body.
    continued: AtomicBool,
    answered: AtomicBool,
    /// Its whole answer has come, and it goes on as nothing else.
    answer_over: AtomicBool,
    /// Whoever took its answer has gone before the end of it.
    abandoned: AtomicBool,
    /// It has become a WebSocket.
    upgraded: AtomicBool,
    /// It has become a stream of bytes, whose relay knows how long it may be idle, and how it ended.
    relayed: AtomicBool,
    /// What its head gained by being compressed.
    expanded_bytes: AtomicUsize,
    pub(super) bytes_to_app: AtomicU64,
    pub(super) bytes_to_peer: AtomicU64,
    began: Instant,
    record: Mutex<AccessRecord>,
    /// What ended it first.
    ended: OnceLock<Ended>,
    /// With what its caller takes it back, where that has codes.
    reset: OnceLock<StreamReset>,
    /// Its room among what its caller has under way, once it is let through.
    place: OnceLock<PeerPermit>,
    pub(super) outcome: Outcome,
}

/// Why a request is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TerminatedBy {
    /// It is no longer allowed.
    Policy = 1,
    /// Nothing of it moved for too long.
    Idle = 2,
}

impl TerminatedBy {
    /// A stable word.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::Policy => "withdrawn",
            Self::Idle => "stream_idle_timeout",
        }
    }
}

/// The parts of a request that wait for something, each woken when it is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Answer,
    RequestBody,
    ResponseBody,
}

impl Default for Calls {
    fn default() -> Self {
        let began = Instant::now();
        let state = CallsState { open: Slab::new(), quiet_since: began };
        let (recorder, cut_for) = (OnceLock::new(), OnceLock::new());
        Self { state: Mutex::new(state), began, interim: Arc::default(), recorder, cut_for }
    }
}

impl Calls {
    /// Has its requests recorded.
    pub(super) fn recorded_by(&self, recorder: RequestRecorder) {
        // There is one recorder, set before the first request.
        let _first = self.recorder.set(recorder);
    }

    fn series(&self) -> Option<&PeerSeries> {
        self.recorder.get()?.series.as_deref()
    }

    /// Puts a request into the list, before anything is decided about it.
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
            cut: AtomicU8::new(0),
            waiting: Default::default(),
            moved: AtomicU64::new(self.millis()),
            request_begun: AtomicBool::new(false),
            request_over: AtomicBool::new(false),
            continued: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            answer_over: AtomicBool::new(false),
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
            place: OnceLock::new(),
            outcome: Outcome::default(),
        });
        entry.insert(Arc::downgrade(&call));
        call
    }

    /// Tells of a message that is not valid and reaches nobody.
    pub(super) fn at_fault(&self, bad: &InvalidMessage) {
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

    /// Cuts every request of which nothing has moved for so long, and every WebSocket after its own time.
    pub(super) fn cut_idle(&self, limit: Duration, upgraded_limit: Duration) -> usize {
        let millis = |limit: Duration| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let (limit, upgraded_limit, now) = (millis(limit), millis(upgraded_limit), self.millis());
        let idle = |call: &Arc<OpenCall>| {
            let limit = if call.upgraded.load(Ordering::Acquire) { upgraded_limit } else { limit };
            now.saturating_sub(call.moved.load(Ordering::Relaxed)) > limit
        };
        self.open()
            .into_iter()
            .filter(|call| !call.is_cut() && !call.is_relayed() && idle(call))
            .map(|call| call.cut(TerminatedBy::Idle))
            .count()
    }

    /// For how long there has been no request.
    pub(super) fn quiet_for(&self, now: Instant) -> Option<Duration> {
        let state = self.lock();
        state.open.is_empty().then(|| now.saturating_duration_since(state.quiet_since))
    }

    /// What its client is told before an answer.
    pub(super) fn interim(&self) -> &Arc<InterimQueue> {
        &self.interim
    }

    /// Taken out of the lock: the last holder of a request needs it.
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
        let denied = self.open().into_iter().filter(|call| !call.is_cut() && denied(&call.facts));
        denied.map(|call| call.cut(TerminatedBy::Policy)).count()
    }

    fn connection_terminated(&self, reason: &'static str) {
        let _first = self.cut_for.set(reason);
    }

    fn count(&self) -> usize {
        self.lock().open.len()
    }
}

impl OpenCall {
    /// Keeps the room it was given until it has ended.
    pub(super) fn hold(&self, place: PeerPermit) {
        // It is given room once.
        let _first = self.place.set(place);
    }

    /// Ends it: its answer, if none was given yet, and both its bodies.
    fn cut(&self, by: TerminatedBy) {
        self.cut.store(by as u8, Ordering::Release);
        self.waiting.iter().for_each(AtomicWaker::wake);
    }

    pub(super) fn is_cut(&self) -> bool {
        self.cut_by().is_some()
    }

    pub(super) fn cut_by(&self) -> Option<TerminatedBy> {
        match self.cut.load(Ordering::Acquire) {
            0 => None,
            1 => Some(TerminatedBy::Policy),
            _ => Some(TerminatedBy::Idle),
        }
    }

    /// Waits until it is cut.
    pub(super) async fn cut_while_answering(&self) -> TerminatedBy {
        poll_fn(|cx| match self.poll_cut(Part::Answer, cx) {
            true => Poll::Ready(self.cut_by().unwrap_or(TerminatedBy::Policy)),
            false => Poll::Pending,
        })
        .await
    }

    /// Whether it is cut; if not, `part` is woken when it is.
    pub(super) fn poll_cut(&self, part: Part, cx: &Context<'_>) -> bool {
        if let Some(waker) = self.waiting.get(part as usize) {
            waker.register(cx.waker());
        }
        self.is_cut()
    }

    /// Something of it moved.
    pub(super) fn moved(&self) {
        self.moved.store(self.calls.millis(), Ordering::Relaxed);
    }

    /// What its client is told before its answer.
    pub(super) fn interim(&self) -> &InterimQueue {
        &self.calls.interim
    }

    /// Some of its body was passed on.
    pub(super) fn request_begins(&self) {
        if !self.has_request_begun() {
            self.request_begun.store(true, Ordering::Release);
            if let Some(waker) = self.waiting.get(Part::Answer as usize) {
                waker.wake();
            }
        }
    }

    pub(super) fn has_request_begun(&self) -> bool {
        self.request_begun.load(Ordering::Acquire)
    }

    /// Its client is told to send the body (`100 Continue`).
    pub(super) fn continues(&self) {
        self.continued.store(true, Ordering::Release);
    }

    /// Behind `100 Continue` an answer waits until the body begins: HAProxy 2.6 takes the two of them, when they come
    /// together over HTTP/2, for the end of the answer.
    pub(super) async fn continue_is_heard(&self) {
        if !self.continued.load(Ordering::Acquire) {
            return;
        }
        let begun = poll_fn(|cx| {
            let over = self.poll_cut(Part::Answer, cx) || self.has_request_begun() || self.is_request_over();
            if over { Poll::Ready(()) } else { Poll::Pending }
        });
        // Whoever sends nothing after so long has heard it.
        let _begun_or_late = timeout(CONTINUE_HEARD_WITHIN, begun).await;
    }

    /// Its whole body was passed on.
    pub(super) fn request_over(&self) {
        self.request_over.store(true, Ordering::Release);
    }

    /// Its head is so much longer than what was sent of it.
    pub(super) fn expanded(&self, bytes: usize) {
        self.expanded_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn expanded_bytes(&self) -> usize {
        self.expanded_bytes.load(Ordering::Relaxed)
    }

    /// Whether its answer has begun.
    pub(super) fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Acquire)
    }

    /// Its whole answer has come. What has switched may end one direction and go on in the other.
    pub(super) fn answer_over(&self) {
        if !self.is_relayed() && !self.upgraded.load(Ordering::Acquire) {
            self.answer_over.store(true, Ordering::Release);
            if let Some(waker) = self.waiting.get(Part::RequestBody as usize) {
                waker.wake();
            }
        }
    }

    /// How long its body may wait for room once its answer is over.
    pub(super) fn half_closed_timeout(&self) -> Option<Duration> {
        Some(self.calls.recorder.get()?.proxy.control.config.limits.half_closed_timeout)
    }

    pub(super) fn is_answer_over(&self) -> bool {
        self.answer_over.load(Ordering::Acquire)
    }

    pub(super) fn is_request_over(&self) -> bool {
        self.request_over.load(Ordering::Acquire)
    }

    /// No more of it is wanted. A body that waits for room gives up.
    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
        self.waiting.iter().for_each(AtomicWaker::wake);
    }

    /// Ready when nothing more of `part` is to be sent; if not, it is woken then.
    pub(super) fn poll_given_up(&self, part: Part, cx: &Context<'_>) -> Poll<BodyError> {
        if self.poll_cut(part, cx) {
            return Poll::Ready(BodyError::Cut);
        }
        match self.abandoned.load(Ordering::Acquire) {
            true => Poll::Ready(BodyError::Broken(GivenUp.into())),
            false => Poll::Pending,
        }
    }

    /// It has become a WebSocket, which may be idle as long as any upgraded connection.
    pub(super) fn upgraded(&self) {
        self.upgraded.store(true, Ordering::Release);
    }

    /// It has switched to a stream of bytes.
    pub(super) fn relayed(&self) {
        self.relayed.store(true, Ordering::Release);
    }

    pub(super) fn is_relayed(&self) -> bool {
        self.relayed.load(Ordering::Acquire)
    }

    /// What has gone there.
    pub(super) fn bytes(&self, to: To) -> &AtomicU64 {
        match to {
            To::App => &self.bytes_to_app,
            To::Peer => &self.bytes_to_peer,
        }
    }
}

impl OpenCall {
    /// Adds to what the access log will tell, if there is one.
    pub(super) fn record(&self, add: impl FnOnce(&mut AccessRecord)) {
        if self.calls.recorder.get().is_some_and(|recorder| recorder.proxy.access_log.is_on()) {
            add(&mut self.record.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Says where it is known with which code its caller takes it back.
    pub(super) fn reset_by(&self, reset: StreamReset) {
        // It is one stream's.
        let _first = self.reset.set(reset);
    }

    /// Its caller waits for nothing more.
    pub(super) fn taken_back(&self) {
        self.ended(EndedBy::Caller, self.reset_with());
    }

    fn reset_with(&self) -> EndedWith {
        let reason = self.reset.get().and_then(StreamReset::reason);
        reason.map_or(EndedWith::Reset, EndedWith::StreamReset)
    }

    /// Says what ended it; what ended it first counts.
    pub(super) fn ended(&self, by: EndedBy, with: EndedWith) {
        let is_cut = self.calls.cut_for.get().is_some();
        let cut = Ended { by: EndedBy::Sidecar, with: EndedWith::Cut };
        // It may have ended before.
        let _first = self.ended.set(if is_cut { cut } else { Ended { by, with } });
    }

    /// Says that a connection to which it has been upgraded is cut for this.
    pub(super) fn cut_upgraded(&self, denial: Denial) {
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

    /// Its answer's head is handed on.
    pub(super) fn answered<B>(&self, response: &Response<B>) {
        self.answered.store(true, Ordering::Release);
        self.outcome.answered(response.status().as_u16(), response.headers());
        self.record(|record| record.status = Some(response.status().as_u16()));
        if let Some(series) = self.calls.series() {
            series.listener.request_share.observe(self.outcome.own_share(self.began.elapsed()));
        }
    }

    /// It is sent once more, on another connection.
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

    /// What has ended it, when nothing of it is left.
    fn what_ended_it(&self) -> Ended {
        let told = self.ended.get().copied();
        let is_cut = self.is_cut() || self.calls.cut_for.get().is_some();
        told.unwrap_or_else(|| match (is_cut, self.is_answered()) {
            (true, _) => Ended { by: EndedBy::Sidecar, with: EndedWith::Cut },
            // An answer of our own.
            (false, true) => Ended { by: EndedBy::Sidecar, with: EndedWith::Fin },
            // Nobody waits for an answer any more.
            (false, false) => Ended { by: EndedBy::Caller, with: self.reset_with() },
        })
    }

    /// Tells of a body that is at fault, when its answer has gone and cannot.
    pub(super) fn at_fault(&self, reason: &'static str, detail: String) {
        self.record(|record| record.refused(reason, &detail));
        self.calls.refused(reason, detail);
    }

    /// Tells what broke an answer, if it is one of our limits.
    pub(super) fn answer_broke(&self, error: &HttpError) {
        let Some(recorder) = self.calls.recorder.get() else { return };
        if let Some(bad) = InvalidAnswer::of_body(error, &recorder.proxy.control.config.http) {
            self.at_fault(bad.code(), bad.to_string());
        }
    }

    fn write_line(&mut self) {
        let cut_for = self.cut_by().map(TerminatedBy::code).or_else(|| self.calls.cut_for.get().copied());
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
            record.reason = record.reason.or(cut_for);
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
