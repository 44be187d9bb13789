//! Connections that are kept for the next request: shared ones (HTTP/2) and single ones (HTTP/1.1).

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use rustls::AlertDescription;
use time::OffsetDateTime;
use tokio::sync::watch;

use super::body::RequestBody;
use crate::credentials::holds_until;

/// Idle single connections kept at one place; the one used last is used next.
pub(super) const SINGLES_MAX: usize = 1_024;
/// Shared connections to one place. A new one is opened only when all have [`STREAMS_BEFORE_NEXT`] requests.
pub(super) const SHARED_MAX: usize = 16;
/// Measured: fewer connections carry more requests in one record and one system call.
pub(super) const STREAMS_BEFORE_NEXT: usize = 48;

/// Connections to one place, all made under what `E` says (identity, its generation), as far as that still holds.
pub(super) struct Pool<E, F> {
    state: Mutex<State<E, F>>,
    idle_timeout: Duration,
}

struct State<E, F> {
    epoch: Option<E>,
    shared: Vec<Arc<Shared>>,
    /// The longest idle first.
    singles: VecDeque<(Single, Instant)>,
    /// What the one who is connecting for all will say.
    dialing: Option<watch::Receiver<Option<F>>>,
    /// The place speaks HTTP/1.1 only.
    only_singles: bool,
}

/// A connection that many requests share.
struct Shared {
    sender: http2::SendRequest<RequestBody>,
    open: AtomicUsize,
    end: End,
}

/// A connection that one request has at a time.
struct Single {
    sender: http1::SendRequest<RequestBody>,
    end: End,
    /// It has carried a request before.
    kept: bool,
}

/// A connection just made.
pub(super) enum Dialed {
    Shared(http2::SendRequest<RequestBody>, End),
    Single(http1::SendRequest<RequestBody>, End),
}

/// The other end of a connection.
#[derive(Debug, Clone, Default)]
pub(super) struct End {
    pub(super) address: Option<SocketAddr>,
    /// Until then its certificate vouches for it.
    pub(super) vouched_until: Option<OffsetDateTime>,
    /// With which it broke off.
    pub(super) alert: Arc<OnceLock<AlertDescription>>,
}

impl End {
    fn is_vouched_for(&self, now: OffsetDateTime) -> bool {
        self.vouched_until.is_none_or(|until| holds_until(until, now))
    }
}

/// Makes connections to one place.
pub(super) trait Dial<F>: Sync {
    fn dial(&self, kind: Kind) -> impl Future<Output = Result<Dialed, F>> + Send;
}

/// Which kind of connection a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// HTTP/2 where the place speaks it, else HTTP/1.1.
    Any,
    Shared,
    Single,
}

/// A connection for one request.
pub(super) struct Leased {
    sender: Sender,
    home: Option<Arc<dyn Home>>,
}

enum Sender {
    Shared(Arc<Shared>),
    Single(Option<Single>),
}

/// Where a single connection goes when it is free again.
trait Home: Send + Sync {
    fn take(&self, single: Single);
}

impl<E: Clone + PartialEq + Send + Sync + 'static, F: Clone + Send + Sync + 'static> Pool<E, F> {
    pub(super) fn new(idle_timeout: Duration) -> Self {
        let state = State {
            epoch: None,
            shared: Vec::new(),
            singles: VecDeque::new(),
            dialing: None,
            only_singles: false,
        };
        Self { state: Mutex::new(state), idle_timeout }
    }

    /// A connection of this epoch: one that is there and vouched for at `now`, or a new one.
    pub(super) async fn lease(
        self: &Arc<Self>,
        epoch: &E,
        kind: Kind,
        now: OffsetDateTime,
        place: &impl Dial<F>,
    ) -> Result<Leased, F> {
        loop {
            let turn = self.lock().turn(epoch, kind, now, self.idle_timeout);
            match turn {
                Turn::Ready(sender) => return Ok(self.leased(epoch, sender)),
                Turn::Alone => {
                    return match place.dial(Kind::Single).await? {
                        Dialed::Single(sender, end) => {
                            Ok(self.leased(epoch, Sender::Single(Some(Single { sender, end, kept: false }))))
                        }
                        Dialed::Shared(sender, end) => {
                            let sender = self.lock().keep(epoch, sender, end);
                            Ok(self.leased(epoch, sender))
                        }
                    };
                }
                Turn::ForAll(says) => {
                    let dialed = place.dial(kind).await;
                    let mut state = self.lock();
                    state.dialing = None;
                    return match dialed {
                        Ok(Dialed::Shared(sender, end)) => {
                            let sender = state.keep(epoch, sender, end);
                            drop(state);
                            Ok(self.leased(epoch, sender))
                        }
                        Ok(Dialed::Single(sender, end)) => {
                            state.only_singles = true;
                            drop(state);
                            Ok(self.leased(epoch, Sender::Single(Some(Single { sender, end, kept: false }))))
                        }
                        Err(failure) => {
                            drop(state);
                            says.send_replace(Some(failure.clone()));
                            Err(failure)
                        }
                    };
                }
                Turn::Wait(mut says) => {
                    // An end without a word: whoever connected has gone, or has succeeded.
                    let _ended = says.changed().await;
                    let failed = says.borrow().clone();
                    match failed {
                        Some(failure) => return Err(failure),
                        None => self.forget_dial(&says),
                    }
                }
            }
        }
    }

    /// Uses none of the present connections for another request.
    pub(super) fn retire(&self) {
        let mut state = self.lock();
        state.shared.clear();
        state.singles.clear();
    }

    fn leased(self: &Arc<Self>, epoch: &E, sender: Sender) -> Leased {
        let home: Option<Arc<dyn Home>> = match &sender {
            Sender::Shared(_) => None,
            Sender::Single(_) => Some(Arc::new(Place { pool: self.clone(), epoch: epoch.clone() })),
        };
        Leased { sender, home }
    }

    /// Whoever connected for all was dropped on the way.
    fn forget_dial(&self, ended: &watch::Receiver<Option<F>>) {
        let mut state = self.lock();
        if state.dialing.as_ref().is_some_and(|dialing| dialing.same_channel(ended)) {
            state.dialing = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<E, F>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a request does next.
enum Turn<F> {
    Ready(Sender),
    /// Connects for itself.
    Alone,
    /// Connects for all who wait, and tells them when that fails.
    ForAll(watch::Sender<Option<F>>),
    Wait(watch::Receiver<Option<F>>),
}

impl<E: Clone + PartialEq, F> State<E, F> {
    fn turn(&mut self, epoch: &E, kind: Kind, now: OffsetDateTime, idle_timeout: Duration) -> Turn<F> {
        if self.epoch.as_ref() != Some(epoch) {
            (self.shared, self.singles, self.only_singles) = (Vec::new(), VecDeque::new(), false);
            self.epoch = Some(epoch.clone());
        }
        if kind == Kind::Single || (kind == Kind::Any && self.only_singles) {
            return self
                .single(now, idle_timeout)
                .map_or(Turn::Alone, |one| Turn::Ready(Sender::Single(Some(one))));
        }
        self.shared.retain(|shared| !shared.sender.is_closed() && shared.end.is_vouched_for(now));
        let least = self.shared.iter().min_by_key(|shared| shared.open.load(Ordering::Relaxed));
        let room = |shared: &&Arc<Shared>| {
            shared.open.load(Ordering::Relaxed) < STREAMS_BEFORE_NEXT
                || self.shared.len() >= SHARED_MAX
                || self.dialing.is_some()
        };
        if let Some(shared) = least.filter(room) {
            shared.open.fetch_add(1, Ordering::Relaxed);
            return Turn::Ready(Sender::Shared(shared.clone()));
        }
        if let Some(dialing) = &self.dialing {
            return Turn::Wait(dialing.clone());
        }
        let (says, listen) = watch::channel(None);
        self.dialing = Some(listen);
        Turn::ForAll(says)
    }

    fn single(&mut self, now: OffsetDateTime, idle_timeout: Duration) -> Option<Single> {
        self.drop_idle(idle_timeout);
        let newest_first = std::iter::from_fn(|| self.singles.pop_back());
        newest_first
            .map(|(single, _)| single)
            .find(|single| !single.sender.is_closed() && single.end.is_vouched_for(now))
    }

    fn drop_idle(&mut self, idle_timeout: Duration) {
        let now = Instant::now();
        while self.singles.front().is_some_and(|(_, since)| now.duration_since(*since) > idle_timeout) {
            self.singles.pop_front();
        }
    }

    fn keep(&mut self, epoch: &E, sender: http2::SendRequest<RequestBody>, end: End) -> Sender {
        let shared = Arc::new(Shared { sender, open: AtomicUsize::new(1), end });
        if self.epoch.as_ref() == Some(epoch) {
            self.shared.push(shared.clone());
        }
        Sender::Shared(shared)
    }
}

struct Place<E, F> {
    pool: Arc<Pool<E, F>>,
    epoch: E,
}

impl<E: Clone + PartialEq + Send + Sync + 'static, F: Clone + Send + Sync + 'static> Home for Place<E, F> {
    fn take(&self, single: Single) {
        let mut state = self.pool.lock();
        state.drop_idle(self.pool.idle_timeout);
        if state.epoch.as_ref() == Some(&self.epoch)
            && state.singles.len() < SINGLES_MAX
            && !single.sender.is_closed()
        {
            state.singles.push_back((single, Instant::now()));
        }
    }
}

impl Leased {
    /// A connection just made, for one request alone.
    pub(super) fn fresh(dialed: Dialed) -> Self {
        let sender = match dialed {
            Dialed::Single(sender, end) => Sender::Single(Some(Single { sender, end, kept: false })),
            Dialed::Shared(sender, end) => {
                Sender::Shared(Arc::new(Shared { sender, open: AtomicUsize::new(1), end }))
            }
        };
        Self { sender, home: None }
    }

    /// Sends a request. It comes back when nothing of it was sent, because the connection had ended before.
    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        match &mut self.sender {
            Sender::Shared(shared) => shared.sender.clone().try_send_request(request).await,
            Sender::Single(Some(single)) => {
                // A connection that comes back from a request may still be at its end.
                let _closed_shows_below = single.sender.ready().await;
                single.sender.try_send_request(request).await
            }
            Sender::Single(None) => std::future::pending().await,
        }
    }

    /// Who is at the other end.
    pub(super) fn end(&self) -> Option<&End> {
        match &self.sender {
            Sender::Shared(shared) => Some(&shared.end),
            Sender::Single(single) => single.as_ref().map(|single| &single.end),
        }
    }

    /// The alert with which the other end broke off.
    pub(super) fn alert(&self) -> Option<AlertDescription> {
        self.end()?.alert.get().copied()
    }

    /// Whether it is a single connection that carried a request before.
    pub(super) fn was_kept(&self) -> bool {
        matches!(&self.sender, Sender::Single(Some(single)) if single.kept)
    }

    /// Whether requests on it are HTTP/2's.
    pub(super) fn is_shared(&self) -> bool {
        matches!(self.sender, Sender::Shared(_))
    }

    /// The response has ended and the request with it: the next may use it.
    pub(super) fn give_back(mut self) {
        if let (Sender::Single(single), Some(home)) = (&mut self.sender, &self.home)
            && let Some(single) = single.take()
        {
            home.take(Single { kept: true, ..single });
        }
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        if let Sender::Shared(shared) = &self.sender {
            shared.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Leased {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leased").field("shared", &self.is_shared()).finish_non_exhaustive()
    }
}

impl<E, F> fmt::Debug for Pool<E, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("idle_timeout", &self.idle_timeout).finish_non_exhaustive()
    }
}
