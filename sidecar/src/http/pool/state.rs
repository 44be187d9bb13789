//! What a pool holds at one moment, and what a request does next.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hyper::client::conn::http2;
use time::OffsetDateTime;
use tokio::sync::watch;

use super::leased::{End, Sender, Shared, Single};
use super::{Kind, SHARED_MAX, STREAMS_BEFORE_NEXT};
use crate::http::body::RequestBody;

/// The connections of one epoch.
pub(super) struct State<E, F> {
    pub(super) epoch: Option<E>,
    pub(super) shared: Vec<Arc<Shared>>,
    /// The longest idle first.
    pub(super) singles: VecDeque<(Single, Instant)>,
    /// What the one who is connecting for all will say.
    pub(super) dialing: Option<watch::Receiver<Option<F>>>,
    /// The place speaks HTTP/1.1 only.
    pub(super) only_singles: bool,
    /// On shared connections so far.
    requests: u64,
}

/// How far the pool goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) idle_timeout: Duration,
    /// The addresses of the place: so many shared connections are wanted.
    pub(super) spread: usize,
}

/// What a request does next.
pub(super) enum Turn<F> {
    Ready(Sender),
    /// Connects for itself.
    Alone,
    /// Connects for all who wait, and tells them when that fails.
    ForAll(watch::Sender<Option<F>>),
    Wait(watch::Receiver<Option<F>>),
}

impl<E, F> Default for State<E, F> {
    fn default() -> Self {
        Self {
            epoch: None,
            shared: Vec::new(),
            singles: VecDeque::new(),
            dialing: None,
            only_singles: false,
            requests: 0,
        }
    }
}

impl<E: Clone + PartialEq, F> State<E, F> {
    pub(super) fn turn(&mut self, epoch: &E, kind: Kind, now: OffsetDateTime, bounds: Bounds) -> Turn<F> {
        if self.epoch.as_ref() != Some(epoch) {
            (self.shared, self.singles, self.only_singles) = (Vec::new(), VecDeque::new(), false);
            self.epoch = Some(epoch.clone());
        }
        if kind == Kind::Single || (kind == Kind::Any && self.only_singles) {
            return self
                .single(now, bounds.idle_timeout)
                .map_or(Turn::Alone, |one| Turn::Ready(Sender::Single(Some(one))));
        }
        self.shared.retain(|shared| !shared.sender.is_closed() && shared.end.is_good(now));
        let wanted = bounds.spread.min(SHARED_MAX);
        let room = |shared: &Arc<Shared>| {
            (shared.open.load(Ordering::Relaxed) < STREAMS_BEFORE_NEXT && self.shared.len() >= wanted)
                || self.shared.len() >= SHARED_MAX
                || self.dialing.is_some()
        };
        if self.least().is_some_and(room)
            && let Some(sender) = self.share()
        {
            return Turn::Ready(sender);
        }
        if let Some(dialing) = &self.dialing {
            return Turn::Wait(dialing.clone());
        }
        let (says, listen) = watch::channel(None);
        self.dialing = Some(listen);
        Turn::ForAll(says)
    }

    /// The shared connection with the fewest requests.
    fn least(&self) -> Option<&Arc<Shared>> {
        let order = |shared: &&Arc<Shared>| {
            (shared.open.load(Ordering::Relaxed), shared.last.load(Ordering::Relaxed))
        };
        self.shared.iter().min_by_key(order)
    }

    /// One more request on the shared connection with the fewest, if there is any.
    fn share(&mut self) -> Option<Sender> {
        self.requests += 1;
        let least = self.least()?.clone();
        least.last.store(self.requests, Ordering::Relaxed);
        least.open.fetch_add(1, Ordering::Relaxed);
        Some(Sender::Shared(least))
    }

    /// The same, if the connections are still those of this epoch.
    pub(super) fn share_of(&mut self, epoch: &E) -> Option<Sender> {
        if self.epoch.as_ref() == Some(epoch) { self.share() } else { None }
    }

    fn single(&mut self, now: OffsetDateTime, idle_timeout: Duration) -> Option<Single> {
        self.drop_idle(idle_timeout);
        let newest_first = std::iter::from_fn(|| self.singles.pop_back());
        newest_first
            .map(|(single, _)| single)
            .find(|single| !single.sender.is_closed() && single.end.is_good(now))
    }

    pub(super) fn drop_idle(&mut self, idle_timeout: Duration) {
        let now = Instant::now();
        while self.singles.front().is_some_and(|(_, since)| now.duration_since(*since) > idle_timeout) {
            self.singles.pop_front();
        }
    }

    pub(super) fn keep(&mut self, epoch: &E, sender: http2::SendRequest<RequestBody>, end: End) -> Sender {
        let shared = Arc::new(Shared::new(sender, end));
        if self.epoch.as_ref() == Some(epoch) {
            self.shared.push(shared.clone());
        }
        Sender::Shared(shared)
    }
}
