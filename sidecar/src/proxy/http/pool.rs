//! A pool of connections per address: shared ones (HTTP/2) and single ones (HTTP/1.1).
//!
//! Each request goes to the connected address with the fewest active requests. Addresses without a connection are
//! dialed at the same time, and take their share once connected. A dial belongs to the pool: cancelling a request
//! does not cancel it.

mod endpoint;
mod lease;
mod state;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use http::StatusCode;
use time::OffsetDateTime;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::failure::Failure;
use super::tasks::ConnectionTasks;
use crate::observability::metrics::{CountIdle, DialResult};
use crate::observability::refusals::Refusal;
use crate::proxy::upstream::load_balancer::HttpVersion;
use crate::proxy::upstream::{self, Upstreams};
use endpoint::PoolEndpoint;
pub(super) use lease::{ConnectionLease, Dialed, ServerEnd, StreamPermit, Unanswered};
use lease::{IdlePool, ReturnTo, Sender, Shared, Single};
use state::{CheckoutRequest, CheckoutStep, DialOrder, State};

/// While no address responds, the next one is dialed after this delay (RFC 8305 §5).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);
/// The longest time that a request waits for a connection.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Connections to one upstream, all opened under its current epoch (own identity and its generation).
pub(super) struct Pool<P: PoolTarget> {
    state: Mutex<State<P::Epoch>>,
    bounds: Bounds,
    changes: Arc<Changes>,
    tasks: ConnectionTasks,
}

/// Limits of a pool.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// An idle connection is closed after this time.
    pub(super) idle_timeout: Duration,
    /// Most shared connections per address.
    pub(super) shared_max: usize,
}

/// Opens connections to the addresses of one upstream.
pub(super) trait PoolTarget: Clone + Send + Sync + 'static {
    type Epoch: Clone + PartialEq + Send + 'static;

    fn upstreams(&self) -> &Arc<Upstreams>;

    /// Opens a connection to the selected address.
    fn dial(
        &self,
        leased: upstream::SelectedAddress,
        kind: Kind,
        path: ConnectionType,
    ) -> impl Future<Output = Result<Dialed, DialError>> + Send;

    /// Whether the server at an unreachable address may speak another HTTP version when it returns.
    fn is_exchangeable(&self) -> bool {
        false
    }

    /// Reports a refusal that no request fails with.
    fn report(&self, refusal: Refusal);

    /// The failure when no address was reached.
    fn unreached(&self, detail: String) -> Failure;
}

/// The kind of connection that a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Whichever version the address speaks.
    Any,
    /// HTTP/2.
    Shared,
    /// HTTP/1.1.
    Single,
    /// HTTP/1.1 on a new connection.
    Fresh,
}

/// The kind of connection used for a request to one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionType {
    Shared,
    Single,
}

/// Why a dial returned no connection.
#[derive(Debug)]
pub(super) enum DialError {
    Failed(DialFailure),
    /// The address speaks HTTP/1.1: requests of [`Kind::Any`] use it, and those of [`Kind::Shared`] are refused.
    Http1 {
        refused: Option<DialFailure>,
        /// The server did not confirm HTTP/2 within the probe timeout.
        is_guess: bool,
    },
}

impl DialError {
    fn result(&self) -> DialResult {
        match self {
            Self::Failed(failure) => failure.result,
            // The dial was a version probe, which succeeded.
            Self::Http1 { refused: None, .. } => DialResult::Ok,
            Self::Http1 { refused: Some(failure), .. } => failure.result,
        }
    }
}

/// How a dial failed.
#[derive(Debug, Clone)]
pub(super) struct DialFailure {
    failure: Failure,
    /// Reported once, by the first task that takes it.
    unreported: Arc<Mutex<Option<Refusal>>>,
    result: DialResult,
}

impl DialFailure {
    pub(super) fn new(failure: Failure, unreported: Option<Refusal>) -> Self {
        Self { failure, unreported: Arc::new(Mutex::new(unreported)), result: DialResult::Failed }
    }

    /// Sets the result that the metrics count.
    pub(super) fn counted_as(self, result: DialResult) -> Self {
        Self { result, ..self }
    }

    fn take_unreported(&self) -> Option<Refusal> {
        self.unreported.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Wakes the waiting requests.
#[derive(Debug)]
pub(super) struct Changes {
    count: watch::Sender<u64>,
    /// Counts the waiting requests.
    upstreams: Arc<Upstreams>,
}

impl Changes {
    fn happened(&self) {
        self.count.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// A shared connection has capacity again.
    fn room(&self) {
        if self.waiting() > 0 {
            self.happened();
        }
    }

    fn waiting(&self) -> usize {
        self.upstreams.waiting.load(Ordering::Relaxed)
    }
}

/// A waiting request; counted until it is dropped.
struct WaitingRequest<'a>(&'a Changes);

impl<'a> WaitingRequest<'a> {
    fn new(changes: &'a Changes) -> Self {
        changes.upstreams.waiting.fetch_add(1, Ordering::Relaxed);
        Self(changes)
    }
}

impl Drop for WaitingRequest<'_> {
    fn drop(&mut self) {
        self.0.upstreams.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<P: PoolTarget> Pool<P> {
    /// `tasks` run the dials.
    pub(super) fn new(upstreams: Arc<Upstreams>, bounds: Bounds, tasks: ConnectionTasks) -> Arc<Self> {
        let series = upstreams.series.clone();
        let changes = Arc::new(Changes { count: watch::Sender::default(), upstreams });
        let pool = Arc::new(Self { state: Mutex::default(), bounds, changes, tasks });
        let counted: Weak<Self> = Arc::downgrade(&pool);
        series.pool.enter(counted);
        pool
    }

    /// Leases a connection of this epoch: an existing one whose peer certificate is valid at `now`, or a new one.
    pub(super) async fn lease(
        self: &Arc<Self>,
        epoch: &P::Epoch,
        kind: Kind,
        now: OffsetDateTime,
        target: &P,
    ) -> Result<ConnectionLease, Failure> {
        let mut request = PendingRequest::new();
        loop {
            // Read before the state, so that a later change wakes this request.
            let seen = request.waits.as_ref().map(|_| *self.changes.count.borrow());
            let (next_step, epoch_number) = self.next_step(epoch, kind, now, target, &mut request);
            match (next_step, seen) {
                (CheckoutStep::Ready(sender, permit), _) => {
                    self.report_failed(&request, kind, target);
                    return Ok(self.leased(sender, permit, epoch_number));
                }
                (CheckoutStep::Dedicated(order, permit), _) => {
                    request.has_waited = true;
                    let (handover, handed_over) = oneshot::channel();
                    self.dial(order, kind, target, Some(handover));
                    if let Ok(single) = handed_over.await {
                        self.report_failed(&request, kind, target);
                        return Ok(self.leased(Sender::Single(Some(single)), permit, epoch_number));
                    }
                }
                (CheckoutStep::Wait, None) => {
                    request.has_waited = true;
                    request.waits = Some(WaitingRequest::new(&self.changes));
                }
                (CheckoutStep::Wait, Some(_)) if request.began.elapsed() > WAIT_MAX => {
                    return Err(self.unreached(&request, kind, target));
                }
                (CheckoutStep::Wait, Some(seen)) => {
                    let mut count = self.changes.count.subscribe();
                    let changed = timeout(NEXT_ADDRESS_AFTER, count.wait_for(|count| *count != seen)).await;
                    request.is_late = changed.is_err();
                }
                (CheckoutStep::Full, _) => return Err(self.full()),
                (CheckoutStep::Failed, _) if self.lock().endpoints.is_empty() && !request.has_asked => {
                    request.has_asked = true;
                    target.upstreams().first_address().await;
                }
                (CheckoutStep::Failed, _) => return Err(self.unreached(&request, kind, target)),
            }
        }
    }

    fn next_step(
        self: &Arc<Self>,
        epoch: &P::Epoch,
        kind: Kind,
        now: OffsetDateTime,
        target: &P,
        request: &mut PendingRequest<'_>,
    ) -> (CheckoutStep, u64) {
        let mut state = self.lock();
        state.take_over(epoch, target.upstreams());
        let dials = *request.dials.get_or_insert(state.dials);
        let waiting = self.changes.waiting();
        let (is_late, shared_max) = (request.is_late, self.bounds.shared_max);
        let (next_step, order) =
            state.next_step(CheckoutRequest { kind, now, dials, is_late, waiting, shared_max });
        let epoch_number = state.epoch_number;
        drop(state);
        if let Some(order) = order {
            self.dial(order, kind, target, None);
        }
        (next_step, epoch_number)
    }

    /// Uses no existing connection for further requests.
    pub(super) fn retire(&self) {
        self.lock().endpoints.clear();
    }

    /// Closes unusable connections.
    pub(super) fn clean(&self, now: OffsetDateTime) {
        let (mut state, instant) = (self.lock(), Instant::now());
        state.endpoints.iter_mut().for_each(|endpoint| endpoint.clean(now, instant));
    }

    fn leased(
        self: &Arc<Self>,
        sender: Sender,
        permit: Arc<StreamPermit>,
        epoch_number: u64,
    ) -> ConnectionLease {
        let return_to =
            matches!(sender, Sender::Single(_)).then(|| ReturnTo { pool: self.clone(), epoch_number });
        ConnectionLease { sender, return_to, permit }
    }

    /// Starts a dial, which continues even if the request that needed it is cancelled.
    fn dial(
        self: &Arc<Self>,
        order: DialOrder,
        kind: Kind,
        target: &P,
        handover: Option<oneshot::Sender<Single>>,
    ) {
        let (target, dial) = (target.clone(), Dial { pool: self.clone(), order, ended: false });
        self.tasks.spawn(async move {
            let Some(leased) = target.upstreams().lease(order.id) else { return };
            let dialed = target.dial(leased, kind, order.path).await;
            let result = dialed.as_ref().map_or_else(DialError::result, |_| DialResult::Ok);
            target.upstreams().series.pool.dialed(result);
            dial.end(dialed, handover, &target);
        });
    }

    /// Reports the failures of other addresses after one was reached.
    fn report_failed(&self, request: &PendingRequest<'_>, kind: Kind, target: &P) {
        if request.has_waited {
            let failed = self.lock().failed_since(request.dials.unwrap_or_default(), kind);
            failed.iter().filter_map(DialFailure::take_unreported).for_each(|refusal| target.report(refusal));
        }
    }

    /// All failures since the request arrived. The caller reports them.
    fn unreached(&self, request: &PendingRequest<'_>, kind: Kind, target: &P) -> Failure {
        let failed = self.lock().failed_since(request.dials.unwrap_or_default(), kind);
        failed.iter().for_each(|failure| drop(failure.take_unreported()));
        let other_failures = target.upstreams().other_failures().to_string();
        let other_failures = other_failures.strip_prefix("; ").unwrap_or(&other_failures);
        let other_failures = (!other_failures.is_empty() || failed.is_empty())
            .then(|| target.unreached(other_failures.to_owned()));
        let failures: Vec<_> =
            failed.into_iter().map(|failed| failed.failure).chain(other_failures).collect();
        Failure::joined(failures)
    }

    fn full(&self) -> Failure {
        let (state, max) = (self.lock(), self.bounds.shared_max);
        let connections: usize = state.endpoints.iter().map(|endpoint| endpoint.shared_count()).sum();
        let failed = state.endpoints.iter().filter_map(|endpoint| endpoint.failed.as_ref());
        let failed: Vec<_> = failed.map(|(_, failure)| failure.failure.detail.clone()).collect();
        drop(state);
        let detail = format!(
            "all {connections} HTTP/2 connections carry as many requests as the other side allows \
             (SETTINGS_MAX_CONCURRENT_STREAMS), and no more are opened: http.http2_connections_max = {max} for each address{}",
            failed.iter().map(|detail| format!("; {detail}")).collect::<String>(),
        );
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Failure { status, reason: "http2_connections_max", detail, explain: None, is_unreachable: false }
    }

    fn lock(&self) -> MutexGuard<'_, State<P::Epoch>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The state of a request that needs a connection.
struct PendingRequest<'a> {
    began: Instant,
    /// Number of dials that had ended when the request arrived.
    dials: Option<u64>,
    is_late: bool,
    waits: Option<WaitingRequest<'a>>,
    /// A dial may have failed since the request arrived.
    has_waited: bool,
    /// The request has waited for the first address.
    has_asked: bool,
}

impl PendingRequest<'_> {
    fn new() -> Self {
        let began = Instant::now();
        Self { began, dials: None, is_late: false, waits: None, has_waited: false, has_asked: false }
    }
}

/// A dial in progress.
struct Dial<P: PoolTarget> {
    pool: Arc<Pool<P>>,
    order: DialOrder,
    ended: bool,
}

impl<P: PoolTarget> Dial<P> {
    fn end(
        mut self,
        dialed: Result<Dialed, DialError>,
        handover: Option<oneshot::Sender<Single>>,
        target: &P,
    ) {
        let mut refused = None;
        let (pool, instant) = (self.pool.clone(), Instant::now());
        let mut state = pool.lock();
        self.ended = true;
        state.dials += 1;
        let (dials, is_same) = (state.dials, state.epoch_number == self.order.epoch_number);
        let mut endpoint =
            state.endpoints.iter_mut().find(|endpoint| is_same && endpoint.id == self.order.id);
        if let Some(endpoint) = &mut endpoint {
            endpoint.end_dial(self.order.path);
        }
        match (dialed, endpoint) {
            (Ok(Dialed::Shared(sender, end)), Some(endpoint)) => {
                endpoint.succeeded();
                endpoint.keep_shared(Shared::new(sender, end, pool.changes.clone()), dials);
            }
            (Ok(Dialed::Single(sender, end)), endpoint) => {
                let single = Single::new(sender, end);
                let left = match handover {
                    Some(handover) => handover.send(single).err(),
                    None => Some(single),
                };
                if let Some(endpoint) = endpoint {
                    endpoint.succeeded();
                    // The request was cancelled. The next request uses the connection.
                    if let Some(single) = left {
                        endpoint.keep_idle(single, instant + pool.bounds.idle_timeout);
                    }
                }
            }
            (Err(DialError::Failed(failure)), endpoint) => {
                let is_awaited =
                    pool.changes.waiting() > 0 || handover.is_some_and(|handover| !handover.is_closed());
                refused = failure.take_unreported_unless(is_awaited);
                if let Some(endpoint) = endpoint {
                    if target.is_exchangeable()
                        && failure.result != DialResult::LocalFault
                        && !endpoint.is_open()
                    {
                        endpoint.handle.learn(None);
                    }
                    endpoint.fails(dials, failure, instant);
                }
            }
            // An open HTTP/2 connection is stronger evidence than a refused one.
            (Err(DialError::Http1 { refused, is_guess: true }), Some(endpoint))
                if endpoint.speaks_http2() =>
            {
                endpoint.handle.learn(Some(HttpVersion::Http2));
                let not_taken = || {
                    let detail = "the app took no further connection of HTTP/2".to_owned();
                    DialFailure::new(Failure::unreachable("app_unreachable", detail), None)
                };
                endpoint.fails(dials, refused.unwrap_or_else(not_taken), instant);
            }
            (Err(DialError::Http1 { refused: Some(failure), .. }), Some(endpoint)) => {
                endpoint.has_no_http2(dials, failure, instant);
            }
            (Err(DialError::Http1 { refused: None, .. }), Some(_)) => {}
            // The address was removed, or the own identity was replaced.
            (Ok(Dialed::Shared(..)) | Err(DialError::Http1 { .. }), None) => {}
        }
        drop(state);
        pool.changes.happened();
        if let Some(refusal) = refused {
            target.report(refusal);
        }
    }
}

impl<P: PoolTarget> Drop for Dial<P> {
    fn drop(&mut self) {
        if !self.ended {
            let mut state = self.pool.lock();
            let (id, is_same) = (self.order.id, state.epoch_number == self.order.epoch_number);
            if let Some(endpoint) = state.endpoints.iter_mut().find(|one| is_same && one.id == id) {
                endpoint.end_dial(self.order.path);
            }
            drop(state);
            self.pool.changes.happened();
        }
    }
}

impl DialFailure {
    fn take_unreported_unless(&self, is_awaited: bool) -> Option<Refusal> {
        if is_awaited { None } else { self.take_unreported() }
    }
}

impl<P: PoolTarget> IdlePool for Pool<P> {
    fn take(&self, epoch_number: u64, single: Single) {
        let mut state = self.lock();
        let (is_same, id) = (state.epoch_number == epoch_number, single.id());
        if let Some(endpoint) = state.endpoints.iter_mut().find(|one| is_same && one.id == id) {
            let until = Instant::now() + single.idle_for(self.bounds.idle_timeout);
            endpoint.keep_idle(single, until);
        }
    }
}

impl<P: PoolTarget> CountIdle for Pool<P> {
    fn idle(&self) -> usize {
        self.lock().endpoints.iter().map(PoolEndpoint::idle_count).sum()
    }
}

impl<P: PoolTarget> fmt::Debug for Pool<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("bounds", &self.bounds).finish_non_exhaustive()
    }
}
