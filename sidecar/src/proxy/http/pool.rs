//! Connections that are kept for the next request, address by address: shared ones (HTTP/2) and single ones (HTTP/1.1).
//!
//! Each request goes to the address with the fewest requests under way that has a connection. An address without one is
//! dialed beside that, and has its share once it is connected. A dial belongs to the pool: a request that is taken back
//! ends none.

mod endpoint;
mod leased;
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
use crate::proxy::upstream::load_balancer::Speaks;
use crate::proxy::upstream::{self, Upstreams};
use endpoint::Endpoint;
pub(super) use leased::{Dialed, End, Leased, StreamPermit, Unanswered};
use leased::{IdlePool, ReturnTo, Sender, Shared, Single};
use state::{Ask, Order, State, Turn};

/// While no address answers, one more is tried after so long (RFC 8305 §5).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);
/// A request waits for a connection no longer than this.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Connections to one place, all made under what its epoch says (identity, its generation), as far as that still holds.
pub(super) struct Pool<P: PoolTarget> {
    state: Mutex<State<P::Epoch>>,
    bounds: Bounds,
    changes: Arc<Changes>,
    tasks: ConnectionTasks,
}

/// How far a pool goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// A connection that has no request for so long is not used again.
    pub(super) idle_timeout: Duration,
    /// Shared connections to one address.
    pub(super) shared_max: usize,
}

/// Makes connections to the addresses of one place.
pub(super) trait PoolTarget: Clone + Send + Sync + 'static {
    type Epoch: Clone + PartialEq + Send + 'static;

    fn upstreams(&self) -> &Arc<Upstreams>;

    /// Makes a connection to the leased address.
    fn dial(
        &self,
        leased: upstream::Leased,
        kind: Kind,
        path: Path,
    ) -> impl Future<Output = Result<Dialed, DialError>> + Send;

    /// Whether an address that could not be reached may speak something else when it is there again.
    fn is_exchangeable(&self) -> bool {
        false
    }

    /// Tells a refusal that no request is answered with.
    fn tell(&self, refusal: Refusal);

    /// Nothing was reached.
    fn unreached(&self, detail: String) -> Failure;
}

/// Which kind of connection a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// What the address speaks.
    Any,
    /// HTTP/2.
    Shared,
    /// HTTP/1.1.
    Single,
    /// HTTP/1.1, on a connection that carried no request before.
    Fresh,
}

/// How a request is carried at one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Path {
    Shared,
    Single,
}

/// Why a dial brought no connection.
#[derive(Debug)]
pub(super) enum DialError {
    Failed(DialFailure),
    /// The address turned out to speak HTTP/1.1: requests of [`Kind::Any`] go on in it, and those of [`Kind::Shared`] are
    /// refused.
    Http1 {
        refused: Option<DialFailure>,
        /// It only did not say that it speaks HTTP/2.
        is_guess: bool,
    },
}

impl DialError {
    fn result(&self) -> DialResult {
        match self {
            Self::Failed(failure) => failure.result,
            // It was to find out.
            Self::Http1 { refused: None, .. } => DialResult::Ok,
            Self::Http1 { refused: Some(failure), .. } => failure.result,
        }
    }
}

/// How a dial failed.
#[derive(Debug, Clone)]
pub(super) struct DialFailure {
    failure: Failure,
    /// Told once, whoever hears of it.
    untold: Arc<Mutex<Option<Refusal>>>,
    result: DialResult,
}

impl DialFailure {
    pub(super) fn new(failure: Failure, untold: Option<Refusal>) -> Self {
        Self { failure, untold: Arc::new(Mutex::new(untold)), result: DialResult::Failed }
    }

    /// Counts it as this.
    pub(super) fn counted_as(self, result: DialResult) -> Self {
        Self { result, ..self }
    }

    fn take_untold(&self) -> Option<Refusal> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Wakes the requests that wait.
#[derive(Debug)]
pub(super) struct Changes {
    count: watch::Sender<u64>,
    /// Who counts those that wait.
    upstreams: Arc<Upstreams>,
}

impl Changes {
    fn happened(&self) {
        self.count.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// There is room for a request.
    fn room(&self) {
        if self.waiting() > 0 {
            self.happened();
        }
    }

    fn waiting(&self) -> usize {
        self.upstreams.waiting.load(Ordering::Relaxed)
    }
}

/// One that waits, counted as such.
struct Waiting<'a>(&'a Changes);

impl<'a> Waiting<'a> {
    fn new(changes: &'a Changes) -> Self {
        changes.upstreams.waiting.fetch_add(1, Ordering::Relaxed);
        Self(changes)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.upstreams.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<P: PoolTarget> Pool<P> {
    /// Its dials are among these tasks.
    pub(super) fn new(upstreams: Arc<Upstreams>, bounds: Bounds, tasks: ConnectionTasks) -> Arc<Self> {
        let series = upstreams.series.clone();
        let changes = Arc::new(Changes { count: watch::Sender::default(), upstreams });
        let pool = Arc::new(Self { state: Mutex::default(), bounds, changes, tasks });
        let counted: Weak<Self> = Arc::downgrade(&pool);
        series.pool.enter(counted);
        pool
    }

    /// A connection of this epoch: one that is there and vouched for at `now`, or a new one.
    pub(super) async fn lease(
        self: &Arc<Self>,
        epoch: &P::Epoch,
        kind: Kind,
        now: OffsetDateTime,
        place: &P,
    ) -> Result<Leased, Failure> {
        let mut request = Request::new();
        loop {
            // Read before the state is: what changes later wakes.
            let seen = request.waits.as_ref().map(|_| *self.changes.count.borrow());
            let (turn, era) = self.turn(epoch, kind, now, place, &mut request);
            match (turn, seen) {
                (Turn::Ready(sender, permit), _) => {
                    self.tell_failed(&request, kind, place);
                    return Ok(self.leased(sender, permit, era));
                }
                (Turn::Own(order, permit), _) => {
                    request.has_waited = true;
                    let (hand, handed) = oneshot::channel();
                    self.dial(order, kind, place, Some(hand));
                    if let Ok(single) = handed.await {
                        self.tell_failed(&request, kind, place);
                        return Ok(self.leased(Sender::Single(Some(single)), permit, era));
                    }
                }
                (Turn::Wait, None) => {
                    request.has_waited = true;
                    request.waits = Some(Waiting::new(&self.changes));
                }
                (Turn::Wait, Some(_)) if request.began.elapsed() > WAIT_MAX => {
                    return Err(self.unreached(&request, kind, place));
                }
                (Turn::Wait, Some(seen)) => {
                    let mut count = self.changes.count.subscribe();
                    let changed = timeout(NEXT_ADDRESS_AFTER, count.wait_for(|count| *count != seen)).await;
                    request.is_late = changed.is_err();
                }
                (Turn::Full, _) => return Err(self.full()),
                (Turn::Failed, _) if self.lock().endpoints.is_empty() && !request.has_asked => {
                    request.has_asked = true;
                    place.upstreams().first_address().await;
                }
                (Turn::Failed, _) => return Err(self.unreached(&request, kind, place)),
            }
        }
    }

    fn turn(
        self: &Arc<Self>,
        epoch: &P::Epoch,
        kind: Kind,
        now: OffsetDateTime,
        place: &P,
        request: &mut Request<'_>,
    ) -> (Turn, u64) {
        let mut state = self.lock();
        state.take_over(epoch, place.upstreams());
        let dials = *request.dials.get_or_insert(state.dials);
        let waiting = self.changes.waiting();
        let (is_late, shared_max) = (request.is_late, self.bounds.shared_max);
        let (turn, order) = state.turn(Ask { kind, now, dials, is_late, waiting, shared_max });
        let era = state.era;
        drop(state);
        if let Some(order) = order {
            self.dial(order, kind, place, None);
        }
        (turn, era)
    }

    /// Uses none of the present connections for another request.
    pub(super) fn retire(&self) {
        self.lock().endpoints.clear();
    }

    /// Closes what is of no use any more.
    pub(super) fn clean(&self, now: OffsetDateTime) {
        let (mut state, instant) = (self.lock(), Instant::now());
        state.endpoints.iter_mut().for_each(|endpoint| endpoint.clean(now, instant));
    }

    fn leased(self: &Arc<Self>, sender: Sender, permit: Arc<StreamPermit>, era: u64) -> Leased {
        let home = matches!(sender, Sender::Single(_)).then(|| ReturnTo { pool: self.clone(), era });
        Leased { sender, home, permit }
    }

    /// Begins a dial, which goes on when whoever it is for has gone.
    fn dial(self: &Arc<Self>, order: Order, kind: Kind, place: &P, hand: Option<oneshot::Sender<Single>>) {
        let (place, dial) = (place.clone(), Dial { pool: self.clone(), order, ended: false });
        self.tasks.spawn(async move {
            let Some(leased) = place.upstreams().lease(order.id) else { return };
            let dialed = place.dial(leased, kind, order.path).await;
            let result = dialed.as_ref().map_or_else(DialError::result, |_| DialResult::Ok);
            place.upstreams().series.pool.dialed(result);
            dial.end(dialed, hand, &place);
        });
    }

    /// What other addresses said before one was reached.
    fn tell_failed(&self, request: &Request<'_>, kind: Kind, place: &P) {
        if request.has_waited {
            let failed = self.lock().failed_since(request.dials.unwrap_or_default(), kind);
            failed.iter().filter_map(DialFailure::take_untold).for_each(|refusal| place.tell(refusal));
        }
    }

    /// All that went wrong since the request came. Whoever hears of it tells it.
    fn unreached(&self, request: &Request<'_>, kind: Kind, place: &P) -> Failure {
        let failed = self.lock().failed_since(request.dials.unwrap_or_default(), kind);
        failed.iter().for_each(|failure| drop(failure.take_untold()));
        let beside = place.upstreams().beside().to_string();
        let beside = beside.strip_prefix("; ").unwrap_or(&beside);
        let beside = (!beside.is_empty() || failed.is_empty()).then(|| place.unreached(beside.to_owned()));
        let failures: Vec<_> = failed.into_iter().map(|failed| failed.failure).chain(beside).collect();
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

/// What is known of a request that needs a connection.
struct Request<'a> {
    began: Instant,
    /// That had ended when it came.
    dials: Option<u64>,
    is_late: bool,
    waits: Option<Waiting<'a>>,
    /// A dial may have failed meanwhile.
    has_waited: bool,
    /// It has waited for the first address.
    has_asked: bool,
}

impl Request<'_> {
    fn new() -> Self {
        let began = Instant::now();
        Self { began, dials: None, is_late: false, waits: None, has_waited: false, has_asked: false }
    }
}

/// A dial under way.
struct Dial<P: PoolTarget> {
    pool: Arc<Pool<P>>,
    order: Order,
    ended: bool,
}

impl<P: PoolTarget> Dial<P> {
    fn end(mut self, dialed: Result<Dialed, DialError>, hand: Option<oneshot::Sender<Single>>, place: &P) {
        let mut refused = None;
        let (pool, instant) = (self.pool.clone(), Instant::now());
        let mut state = pool.lock();
        self.ended = true;
        state.dials += 1;
        let (dials, is_same) = (state.dials, state.era == self.order.era);
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
                let left = match hand {
                    Some(hand) => hand.send(single).err(),
                    None => Some(single),
                };
                if let Some(endpoint) = endpoint {
                    endpoint.succeeded();
                    // Whoever wanted it has gone; the next will.
                    if let Some(single) = left {
                        endpoint.keep_idle(single, instant + pool.bounds.idle_timeout);
                    }
                }
            }
            (Err(DialError::Failed(failure)), endpoint) => {
                let is_awaited = pool.changes.waiting() > 0 || hand.is_some_and(|hand| !hand.is_closed());
                refused = failure.take_untold_unless(is_awaited);
                if let Some(endpoint) = endpoint {
                    if place.is_exchangeable()
                        && failure.result != DialResult::LocalFault
                        && !endpoint.is_open()
                    {
                        endpoint.listing.learn(None);
                    }
                    endpoint.fails(dials, failure, instant);
                }
            }
            // What is open says more than what was not taken.
            (Err(DialError::Http1 { refused, is_guess: true }), Some(endpoint))
                if endpoint.speaks_http2() =>
            {
                endpoint.listing.learn(Some(Speaks::Http2));
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
            // Its address is none any more, or the identity is another.
            (Ok(Dialed::Shared(..)) | Err(DialError::Http1 { .. }), None) => {}
        }
        drop(state);
        pool.changes.happened();
        if let Some(refusal) = refused {
            place.tell(refusal);
        }
    }
}

impl<P: PoolTarget> Drop for Dial<P> {
    fn drop(&mut self) {
        if !self.ended {
            let mut state = self.pool.lock();
            let (id, is_same) = (self.order.id, state.era == self.order.era);
            if let Some(endpoint) = state.endpoints.iter_mut().find(|one| is_same && one.id == id) {
                endpoint.end_dial(self.order.path);
            }
            drop(state);
            self.pool.changes.happened();
        }
    }
}

impl DialFailure {
    fn take_untold_unless(&self, is_awaited: bool) -> Option<Refusal> {
        if is_awaited { None } else { self.take_untold() }
    }
}

impl<P: PoolTarget> IdlePool for Pool<P> {
    fn take(&self, era: u64, single: Single) {
        let mut state = self.lock();
        let (is_same, id) = (state.era == era, single.id());
        if let Some(endpoint) = state.endpoints.iter_mut().find(|one| is_same && one.id == id) {
            let until = Instant::now() + single.idle_for(self.bounds.idle_timeout);
            endpoint.keep_idle(single, until);
        }
    }
}

impl<P: PoolTarget> CountIdle for Pool<P> {
    fn idle(&self) -> usize {
        self.lock().endpoints.iter().map(Endpoint::idle_count).sum()
    }
}

impl<P: PoolTarget> fmt::Debug for Pool<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("bounds", &self.bounds).finish_non_exhaustive()
    }
}
