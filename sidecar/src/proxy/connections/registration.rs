//! A connection's entry in the register, held by its task.

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

/// The transport of a connection to its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// Plain mTLS, or not connected yet.
    Direct,
    Tunnel,
    /// A tunnel, after OPEN and before its answer.
    TunnelUnanswered,
}

/// The side that failed, and its error.
#[derive(Debug, Error)]
pub enum RelayError {
    /// The own app's connection.
    #[error("the app's connection broke")]
    App(#[source] io::Error),
    /// The peer's connection.
    #[error("the peer's connection broke")]
    Peer(#[source] io::Error),
}

/// A connection's entry in the register. Dropping it removes the entry.
#[derive(Debug)]
pub struct Registration {
    number: u64,
    direction: Direction,
    register: Arc<Register>,
    live: Arc<ConnectionEntry>,
    /// Cancelled when the connection is no longer allowed, or the sidecar stops.
    pub termination: CancellationToken,
    pub traffic: Arc<Traffic>,
    /// The access log entry of the connection, if there is an access log.
    record: Option<Box<Mutex<AccessRecord>>>,
    /// Counts it against the limit of its peer.
    permit: OnceLock<PeerPermit>,
}

impl Registration {
    pub(super) fn new(
        number: u64,
        direction: Direction,
        register: Arc<Register>,
        live: Arc<ConnectionEntry>,
    ) -> Self {
        let (termination, traffic) = (live.termination.clone(), live.traffic.clone());
        let (record, permit) = (register.has_access_log().then(Box::default), OnceLock::new());
        Self { number, direction, register, live, termination, traffic, record, permit }
    }

    /// The number that `/connections` shows.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Updates the access log entry, if there is an access log.
    pub fn record(&self, add: impl FnOnce(&mut AccessRecord)) {
        if let Some(record) = &self.record {
            add(&mut record.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// The access log entry, if there is an access log.
    pub fn recorded(&self) -> Option<AccessRecord> {
        let record = self.record.as_ref()?;
        Some(record.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// The peer's identity, once verified.
    pub fn peer(&self) -> Option<SpiffeId> {
        self.live.lock().facts.peer.as_ref().map(|peer| peer.id().clone())
    }

    /// The peer's verified certificate.
    pub fn verified(&self) -> Option<VerifiedSvid> {
        self.live.lock().facts.peer.clone()
    }

    /// Records the verified peer. The policy must be read after this.
    pub fn identify(&self, peer: &VerifiedSvid) {
        let mut state = self.live.lock();
        if state.series.as_ref().is_none_or(|series| !series.is_of(peer.id().as_str())) {
            state.count_bytes(&self.traffic);
            state.series = self.register.peer_series(&state.facts, peer.id().as_str());
        }
        state.facts.peer = Some(peer.clone());
    }

    /// The metrics of the peer, once it is known.
    pub fn series(&self) -> Option<Arc<PeerSeries>> {
        self.live.lock().series.clone()
    }

    /// The metrics of its listener.
    pub fn listener_series(&self) -> Option<&Arc<ListenerSeries>> {
        self.live.listener.as_ref()
    }

    /// Waits for the app or the peer. This time does not count as the sidecar's own.
    pub async fn wait_for<T>(&self, other_side: impl Future<Output = T>) -> T {
        let since = std::time::Instant::now();
        let answer = other_side.await;
        let waited = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.live.waited.fetch_add(waited, Ordering::Relaxed);
        answer
    }

    /// An app connection begins: starts its timers.
    pub fn begin(&self) {
        self.live.waited.store(0, Ordering::Relaxed);
        self.live.lock().begun = std::time::Instant::now();
    }

    /// The app connection is established.
    pub fn established(&self) {
        self.opened();
        if let Some(listener) = &self.live.listener {
            let waited = Duration::from_nanos(self.live.waited.load(Ordering::Relaxed));
            let elapsed = self.live.lock().begun.elapsed();
            listener.connection_share.observe(elapsed.saturating_sub(waited));
        }
    }

    /// Counts the connection in the metrics, once. Inbound connections without a verified peer are counted
    /// separately.
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

    /// Records the expiry of the certificate that the peer was shown.
    pub fn set_own_not_after(&self, own_not_after: OffsetDateTime) {
        self.live.lock().lifetime.set_own_not_after(own_not_after);
    }

    /// Holds the peer's permit until the connection ends.
    pub(crate) fn hold(&self, permit: PeerPermit) {
        let _the_first_is_kept = self.permit.set(permit);
    }

    /// Sets the path to the peer, and resets the state that belonged to an earlier path.
    pub fn set_path(&self, path: Path) {
        self.live.lock().facts.is_tunnel = !matches!(path, Path::Direct);
        self.traffic.unanswered.store(path == Path::TunnelUnanswered, Ordering::Relaxed);
    }

    /// Starts the next app connection on an existing tunnel.
    pub fn lease(&self) {
        self.live.lock().lifetime.moved(Instant::now());
        if self.live.is_idle_tunnel.swap(false, Ordering::Relaxed) {
            self.live.begin();
        }
    }

    /// Ends the app connection: records it, and resets the state for the next one.
    pub fn rest(&self) {
        if !self.live.is_idle_tunnel.swap(true, Ordering::Relaxed) {
            self.live.finish();
            let flags = [&self.traffic.half_closed, &self.traffic.app_stalls, &self.traffic.peer_stalls];
            flags.into_iter().for_each(|flag| flag.store(false, Ordering::Relaxed));
            self.record(|record| *record = AccessRecord::default());
        }
    }

    /// Both directions have ended.
    pub(crate) fn ended(&self) {
        self.ended_by(self.traffic.app_ended_first.load(Ordering::Relaxed), EndedWith::Fin);
    }

    /// Records the side that failed and its error in the access log. A dead peer, such as a vanished host, is also
    /// logged.
    pub(crate) fn failed_with(&self, error: &RelayError) {
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

    /// Why it was terminated, if it was no longer allowed or exceeded its bounds.
    pub fn terminated_for(&self) -> Option<&Denial> {
        self.traffic.terminated_for.get()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.register.lock().remove(&self.number);
        self.rest();
    }
}
