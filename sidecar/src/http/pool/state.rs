//! What a pool holds at one moment, and what a request does next.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
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
        Self { epoch: None, shared: Vec::new(), singles: VecDeque::new(), dialing: None, only_singles: false }
    }
}

impl<E: Clone + PartialEq, F> State<E, F> {
    pub(super) fn turn(
        &mut self,
        epoch: &E,
        kind: Kind,
        now: OffsetDateTime,
        idle_timeout: Duration,
    ) -> Turn<F> {
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

    pub(super) fn drop_idle(&mut self, idle_timeout: Duration) {
        let now = Instant::now();
        while self.singles.front().is_some_and(|(_, since)| now.duration_since(*since) > idle_timeout) {
            self.singles.pop_front();
        }
    }

    pub(super) fn keep(&mut self, epoch: &E, sender: http2::SendRequest<RequestBody>, end: End) -> Sender {
        let shared = Arc::new(Shared { sender, open: AtomicUsize::new(1), end });
        if self.epoch.as_ref() == Some(epoch) {
            self.shared.push(shared.clone());
        }
        Sender::Shared(shared)
    }
}
