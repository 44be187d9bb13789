//! A connection's place in the register, held by the task that carries it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use postern_proto::identity::{SpiffeId, VerifiedSvid};
use postern_proto::mtls::Denial;
use time::OffsetDateTime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Live, Register, Traffic};
use crate::access_log::{Ended, EndedBy, EndedWith, Story};
use crate::http::ended_with;
use crate::metrics::Direction;
use crate::relay::RelayError;
use crate::share::Place;

/// How a connection gets to its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// In plain mTLS, or not yet at all.
    Direct,
    Tunnel,
    /// By a tunnel, after OPEN and before its answer.
    TunnelUnanswered,
}

/// A connection's place in the register; dropping it leaves the register.
#[derive(Debug)]
pub struct Registration {
    number: u64,
    direction: Direction,
    register: Arc<Register>,
    live: Arc<Live>,
    /// Cancelled when the connection is no longer allowed, or everything ends.
    pub cut: CancellationToken,
    pub traffic: Arc<Traffic>,
    /// What the access log will tell of it.
    pub story: Mutex<Story>,
    /// What it takes of its peer's share.
    place: OnceLock<Place>,
}

impl Registration {
    pub(super) fn new(number: u64, direction: Direction, register: Arc<Register>, live: Arc<Live>) -> Self {
        let (cut, traffic) = (live.cut.clone(), live.traffic.clone());
        let (story, place) = (Mutex::default(), OnceLock::new());
        Self { number, direction, register, live, cut, traffic, story, place }
    }

    /// Under which `/connections` shows it.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Adds to what the access log will tell.
    pub fn tell(&self, add: impl FnOnce(&mut Story)) {
        add(&mut self.story.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Who the peer is, once that is known.
    pub fn peer(&self) -> Option<SpiffeId> {
        self.live.lock().facts.peer.as_ref().map(|peer| peer.id().clone())
    }

    /// The peer's certificate as it was judged, once that is known.
    pub fn verified(&self) -> Option<VerifiedSvid> {
        self.live.lock().facts.peer.clone()
    }

    /// Says who the peer is. Whoever decides about it must read the policy after this.
    pub fn identify(&self, peer: &VerifiedSvid) {
        self.live.lock().facts.peer = Some(peer.clone());
    }

    /// The certificate that the peer was shown holds until then.
    pub fn shown_until(&self, own_not_after: OffsetDateTime) {
        self.live.lock().lasting.shown_until(own_not_after);
    }

    /// Keeps a place of the peer's share until the connection ends.
    pub(crate) fn hold(&self, place: Place) {
        let _the_first_is_kept = self.place.set(place);
    }

    /// Says which path the connection has to its peer from now on. Whatever was true of an earlier one is not of this.
    pub fn set_path(&self, path: Path) {
        self.live.lock().facts.is_tunnel = !matches!(path, Path::Direct);
        self.traffic.unanswered.store(path == Path::TunnelUnanswered, Ordering::Relaxed);
    }

    /// Begins the next connection of the app on a connection that was there before.
    pub fn lease(&self) {
        self.live.lock().lasting.moved(Instant::now());
        if self.live.resting.swap(false, Ordering::Relaxed) {
            self.register.metrics.opened(self.direction);
        }
    }

    /// The app's connection is over; what it was is told, and the next starts from nothing.
    pub fn rest(&self) {
        if !self.live.resting.swap(true, Ordering::Relaxed) {
            let taken = |counter: &AtomicU64| counter.swap(0, Ordering::Relaxed);
            let (to_peer, to_app) = (taken(&self.traffic.to_peer), taken(&self.traffic.to_app));
            let flags = [&self.traffic.half_closed, &self.traffic.app_stalls, &self.traffic.peer_stalls];
            flags.into_iter().for_each(|flag| flag.store(false, Ordering::Relaxed));
            self.register.metrics.carried(self.direction, to_peer, to_app);
            self.register.metrics.closed(self.direction);
            self.tell(|story| *story = Story::default());
        }
    }

    /// Both sides have ended, one of them first.
    pub(crate) fn ended(&self) {
        self.ended_by(self.traffic.app_ended_first.load(Ordering::Relaxed), EndedWith::Fin);
    }

    /// A side has broken off: the access log tells which, and how. One that was given up for dead, as when its machine has
    /// vanished, is logged, too.
    pub(crate) fn broke(&self, error: &RelayError) {
        let (by_app, cause) = match error {
            RelayError::App(cause) => (true, cause),
            RelayError::Peer(cause) => (false, cause),
        };
        let with = ended_with(cause);
        self.ended_by(by_app, with);
        let (connection, direction) = (self.number, self.direction.as_str());
        let side = if by_app { "app" } else { "peer" };
        if matches!(with, EndedWith::Dead) {
            let peer = self.peer();
            let peer = peer.as_ref().map(tracing::field::display);
            tracing::info!(connection, direction, peer, side, error = %cause, "a side is dead");
        } else {
            tracing::debug!(connection, direction, side, error = %cause, "a connection broke");
        }
    }

    fn ended_by(&self, app: bool, with: EndedWith) {
        let by = match (app, self.direction) {
            (true, Direction::Inbound) | (false, Direction::Outbound) => EndedBy::Called,
            (true, Direction::Outbound) | (false, Direction::Inbound) => EndedBy::Caller,
        };
        self.tell(|story| story.ended = Some(Ended { by, with }));
    }

    /// Why it was cut, if it was no longer allowed or had outlived its bounds.
    pub fn cut_for(&self) -> Option<&Denial> {
        self.traffic.cut_for.get()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.register.lock().remove(&self.number);
        self.rest();
    }
}
