//! A connection's place in the register, held by the task that carries it.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use postern_proto::identity::{SpiffeId, VerifiedSvid};
use postern_proto::mtls::Denial;
use thiserror::Error;
use time::OffsetDateTime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{ConnectionEntry, Register, Traffic};
use crate::observability::Direction;
use crate::observability::access_log::AccessRecord;
use crate::observability::metrics::{ListenerSeries, PeerSeries, UNKNOWN_PEER};
use crate::observability::{Ended, EndedBy, EndedWith};
use crate::proxy::peer_limits::PeerPermit;

/// How a connection gets to its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// In plain mTLS, or not yet at all.
    Direct,
    Tunnel,
    /// By a tunnel, after OPEN and before its answer.
    TunnelUnanswered,
}

/// Which side broke, and how.
#[derive(Debug, Error)]
pub enum RelayError {
    /// The own app's connection.
    #[error("the app's connection broke")]
    App(#[source] io::Error),
    /// The way to the peer.
    #[error("the peer's connection broke")]
    Peer(#[source] io::Error),
}

/// A connection's place in the register; dropping it leaves the register.
#[derive(Debug)]
pub struct Registration {
    number: u64,
    direction: Direction,
    register: Arc<Register>,
    live: Arc<ConnectionEntry>,
    /// Cancelled when the connection is no longer allowed, or everything ends.
    pub cut: CancellationToken,
    pub traffic: Arc<Traffic>,
    /// For the access log, where there is one.
    record: Option<Box<Mutex<AccessRecord>>>,
    /// What it takes of its peer's share.
    place: OnceLock<PeerPermit>,
}

impl Registration {
    pub(super) fn new(
        number: u64,
        direction: Direction,
        register: Arc<Register>,
        live: Arc<ConnectionEntry>,
    ) -> Self {
        let (cut, traffic) = (live.cut.clone(), live.traffic.clone());
        let (record, place) = (register.has_access_log().then(Box::default), OnceLock::new());
        Self { number, direction, register, live, cut, traffic, record, place }
    }

    /// Under which `/connections` shows it.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Adds to its line in the access log, where there is one.
    pub fn record(&self, add: impl FnOnce(&mut AccessRecord)) {
        if let Some(record) = &self.record {
            add(&mut record.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// What was recorded for the access log, where there is one.
    pub fn recorded(&self) -> Option<AccessRecord> {
        let record = self.record.as_ref()?;
        Some(record.lock().unwrap_or_else(PoisonError::into_inner).clone())
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
        let mut state = self.live.lock();
        if state.series.as_ref().is_none_or(|series| !series.is_of(peer.id().as_str())) {
            state.count_bytes(&self.traffic);
            state.series = self.register.peer_series(&state.facts, peer.id().as_str());
        }
        state.facts.peer = Some(peer.clone());
    }

    /// Where the metrics count it, once the peer is known.
    pub fn series(&self) -> Option<Arc<PeerSeries>> {
        self.live.lock().series.clone()
    }

    /// Where the metrics count its listener.
    pub fn listener_series(&self) -> Option<&Arc<ListenerSeries>> {
        self.live.listener.as_ref()
    }

    /// Waits for the app or the peer, which is not the sidecar's own share of the connection's time.
    pub async fn wait_for<T>(&self, other_side: impl Future<Output = T>) -> T {
        let since = std::time::Instant::now();
        let answer = other_side.await;
        let waited = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.live.waited.fetch_add(waited, Ordering::Relaxed);
        answer
    }

    /// A connection of the app begins: from here on its time counts.
    pub fn begin(&self) {
        self.live.waited.store(0, Ordering::Relaxed);
        self.live.lock().begun = std::time::Instant::now();
    }

    /// Bytes can pass on a connection of the app.
    pub fn carries(&self) {
        self.opened();
        if let Some(listener) = &self.live.listener {
            let waited = Duration::from_nanos(self.live.waited.load(Ordering::Relaxed));
            let elapsed = self.live.lock().begun.elapsed();
            listener.connection_share.observe(elapsed.saturating_sub(waited));
        }
    }

    /// Has the metrics count a connection, once; of an inbound those apart whose peer has shown no identity.
    pub fn opened(&self) {
        if self.live.opened.swap(true, Ordering::Relaxed) {
            return;
        }
        let state = self.live.lock();
        let series = match (&state.series, self.direction) {
            (Some(series), _) => Some(series.clone()),
            (None, Direction::Outbound) => self.register.peer_series(&state.facts, UNKNOWN_PEER),
            (None, Direction::Inbound) => None,
        };
        let counter = match (&series, &self.live.listener) {
            (Some(series), _) => &series.connections,
            (None, Some(listener)) => &listener.unidentified,
            (None, None) => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The certificate that the peer was shown holds until then.
    pub fn shown_until(&self, own_not_after: OffsetDateTime) {
        self.live.lock().lifetime.shown_until(own_not_after);
    }

    /// Keeps a place of the peer's share until the connection ends.
    pub(crate) fn hold(&self, place: PeerPermit) {
        let _the_first_is_kept = self.place.set(place);
    }

    /// Says which path the connection has to its peer from now on. Whatever was true of an earlier one is not of this.
    pub fn set_path(&self, path: Path) {
        self.live.lock().facts.is_tunnel = !matches!(path, Path::Direct);
        self.traffic.unanswered.store(path == Path::TunnelUnanswered, Ordering::Relaxed);
    }

    /// Begins the next connection of the app on a connection that was there before.
    pub fn lease(&self) {
        self.live.lock().lifetime.moved(Instant::now());
        if self.live.resting.swap(false, Ordering::Relaxed) {
            self.live.begin();
        }
    }

    /// The app's connection is over; what it was is told, and the next starts from nothing.
    pub fn rest(&self) {
        if !self.live.resting.swap(true, Ordering::Relaxed) {
            self.live.finish();
            let flags = [&self.traffic.half_closed, &self.traffic.app_stalls, &self.traffic.peer_stalls];
            flags.into_iter().for_each(|flag| flag.store(false, Ordering::Relaxed));
            self.record(|record| *record = AccessRecord::default());
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
        let with = EndedWith::of_io(cause);
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
        self.record(|record| record.ended = Some(Ended { by, with }));
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
