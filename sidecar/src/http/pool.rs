//! Connections that are kept for the next request: shared ones (HTTP/2) and single ones (HTTP/1.1).

mod leased;
mod state;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::sync::watch;

pub(super) use leased::{Dialed, End, Leased};
use leased::{Home, Sender, Single};
use state::{Bounds, State, Turn};

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

/// Makes connections to one place.
pub(super) trait Dial<F>: Sync {
    fn dial(&self, kind: Kind) -> impl Future<Output = Result<Dialed, F>> + Send;

    /// Over how many addresses its requests are spread.
    fn spread(&self) -> usize;
}

/// Which kind of connection a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// HTTP/2 where the place speaks it, else HTTP/1.1.
    Any,
    Shared,
    Single,
}

impl<E: Clone + PartialEq + Send + Sync + 'static, F: Clone + Send + Sync + 'static> Pool<E, F> {
    pub(super) fn new(idle_timeout: Duration) -> Self {
        Self { state: Mutex::default(), idle_timeout }
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
            let bounds = Bounds { idle_timeout: self.idle_timeout, spread: place.spread() };
            let turn = self.lock().turn(epoch, kind, now, bounds);
            match turn {
                Turn::Ready(sender) => return Ok(self.leased(epoch, sender)),
                Turn::Alone => {
                    return match place.dial(Kind::Single).await? {
                        Dialed::Single(sender, end) => Ok(self.leased(epoch, Sender::single(sender, end))),
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
                            Ok(self.leased(epoch, Sender::single(sender, end)))
                        }
                        Err(failure) => {
                            // Where another address was wanted, one that is reached will do.
                            if let Some(sender) = state.share_of(epoch) {
                                drop(state);
                                return Ok(self.leased(epoch, sender));
                            }
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

impl<E, F> fmt::Debug for Pool<E, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("idle_timeout", &self.idle_timeout).finish_non_exhaustive()
    }
}
