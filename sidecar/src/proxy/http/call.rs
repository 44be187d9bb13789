//! The active requests of one connection. Each is authorized again, and terminated, separately.

mod open_call;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use http::Request;
use slab::Slab;

use super::interim::InterimQueue;
use super::target::InvalidMessage;
use crate::observability::Direction;
use crate::observability::metrics::PeerSeries;
use crate::observability::refusals::{Called, Refusal};
use crate::proxy::connections::{RequestInfo, Requests};
use crate::proxy::state::ProxyState;
pub(super) use open_call::{OpenCall, RequestPart, TerminatedBy};

/// The method and path by which the policy and the register identify a request.
pub(super) fn request_info<B>(request: &Request<B>) -> RequestInfo {
    RequestInfo { method: request.method().as_str().to_owned(), path: request.uri().path().to_owned() }
}

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
        let call = Arc::new(OpenCall::new(entry.key(), self.clone(), facts));
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
