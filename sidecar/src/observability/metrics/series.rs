//! The metric series of listeners and of their peers. They are looked up once per connection, and their number is
//! bounded.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Direction;
use super::histogram::{DURATION_BOUNDS, DurationHistogram, SHARE_BOUNDS};
use super::pool::PoolSeries;
use super::requests::{AbortedRequests, RequestClass, RequestCounts, STATUS_CLASSES};
use crate::config::PEER_SERIES_DEFAULT;

/// The label of a peer whose identity is not known.
pub const UNKNOWN_PEER: &str = "unknown";
/// The label of peers beyond the limit.
pub const OTHER_PEERS: &str = "other";

/// All listener and peer series of one sidecar.
#[derive(Debug)]
pub struct SeriesRegister {
    listeners: Mutex<HashMap<(Direction, String), Arc<ListenerSeries>>>,
    peers: Mutex<HashMap<PeerKey, Arc<PeerSeries>>>,
    /// Maximum number of peers with their own series.
    peers_max: AtomicUsize,
    /// Connections of peers without their own series.
    overflowed: AtomicU64,
}

/// The key of a peer at one listener.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct PeerKey {
    direction: Direction,
    listener: String,
    peer: String,
    service: String,
}

/// The metrics of one listener.
#[derive(Debug)]
pub struct ListenerSeries {
    pub direction: Direction,
    /// The inbound's name or the outbound's service.
    pub listener: String,
    /// Connections that are in use or in their handshake.
    pub connections_active: AtomicI64,
    /// Connections that ended before their peer presented an identity.
    pub unidentified: AtomicU64,
    /// Duration of a `tcp` connection.
    pub connection_duration: DurationHistogram,
    /// Time that the sidecar needed until the `tcp` connection could carry bytes.
    pub connection_share: DurationHistogram,
    pub requests_active: AtomicI64,
    pub requests_aborted: AbortedRequests,
    /// Duration of requests by status class.
    pub request_duration: [DurationHistogram; STATUS_CLASSES.len()],
    /// Time that the sidecar itself added until it forwarded the response head.
    pub request_share: DurationHistogram,
    pub pool: PoolSeries,
}

/// The metrics of one peer at one listener.
#[derive(Debug)]
pub struct PeerSeries {
    key: PeerKey,
    pub listener: Arc<ListenerSeries>,
    pub connections: AtomicU64,
    pub bytes_to_app: AtomicU64,
    pub bytes_to_peer: AtomicU64,
    pub requests: RequestCounts,
    pub retries: AtomicU64,
}

impl Default for SeriesRegister {
    fn default() -> Self {
        Self {
            listeners: Mutex::default(),
            peers: Mutex::default(),
            peers_max: AtomicUsize::new(PEER_SERIES_DEFAULT),
            overflowed: AtomicU64::new(0),
        }
    }
}

impl SeriesRegister {
    pub(super) fn limit_peers(&self, max: usize) {
        self.peers_max.store(max, Ordering::Relaxed);
    }

    /// The series of a listener; listeners of one name share it.
    pub fn listener(&self, direction: Direction, listener: &str) -> Arc<ListenerSeries> {
        let mut listeners = lock(&self.listeners);
        let new = || Arc::new(ListenerSeries::new(direction, listener));
        listeners.entry((direction, listener.to_owned())).or_insert_with(new).clone()
    }

    /// The series of a peer at a listener: its own up to the limit, beyond it the shared series `other`.
    pub fn peer(&self, listener: &Arc<ListenerSeries>, peer: &str, service: &str) -> Arc<PeerSeries> {
        let key = |peer: &str, service: &str| PeerKey {
            direction: listener.direction,
            listener: listener.listener.clone(),
            peer: peer.to_owned(),
            service: service.to_owned(),
        };
        let mut peers = lock(&self.peers);
        let mut wanted = key(peer, service);
        if !peers.contains_key(&wanted) && peers.len() >= self.peers_max.load(Ordering::Relaxed) {
            self.overflowed.fetch_add(1, Ordering::Relaxed);
            wanted = key(OTHER_PEERS, OTHER_PEERS);
        }
        let new = |key: &PeerKey| Arc::new(PeerSeries::new(key.clone(), listener.clone()));
        peers.entry(wanted).or_insert_with_key(new).clone()
    }

    /// Number of connections whose peer had no series of its own.
    pub fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }

    /// All listener series, sorted by labels.
    pub fn listeners(&self) -> Vec<Arc<ListenerSeries>> {
        let mut all: Vec<_> = lock(&self.listeners).values().cloned().collect();
        all.sort_by(|one, other| one.labels().cmp(&other.labels()));
        all
    }

    /// All peer series, sorted by labels.
    pub fn peers(&self) -> Vec<Arc<PeerSeries>> {
        let mut all: Vec<_> = lock(&self.peers).values().cloned().collect();
        all.sort_by(|one, other| one.labels().cmp(&other.labels()));
        all
    }
}

impl ListenerSeries {
    fn new(direction: Direction, listener: &str) -> Self {
        let duration = || DurationHistogram::new(DURATION_BOUNDS);
        let share = || DurationHistogram::new(SHARE_BOUNDS);
        Self {
            direction,
            listener: listener.to_owned(),
            connections_active: AtomicI64::new(0),
            unidentified: AtomicU64::new(0),
            connection_duration: duration(),
            connection_share: share(),
            requests_active: AtomicI64::new(0),
            requests_aborted: AbortedRequests::default(),
            request_duration: std::array::from_fn(|_| duration()),
            request_share: share(),
            pool: PoolSeries::default(),
        }
    }

    /// Whether any request was counted.
    pub fn has_had_requests(&self) -> bool {
        self.request_duration.iter().any(|histogram| histogram.count() > 0)
    }

    /// The labels of all metrics of a listener.
    pub fn labels(&self) -> [(&'static str, &str); 2] {
        [("direction", self.direction.as_str()), ("listener", &self.listener)]
    }
}

impl PeerSeries {
    fn new(key: PeerKey, listener: Arc<ListenerSeries>) -> Self {
        Self {
            key,
            listener,
            connections: AtomicU64::new(0),
            bytes_to_app: AtomicU64::new(0),
            bytes_to_peer: AtomicU64::new(0),
            requests: RequestCounts::default(),
            retries: AtomicU64::new(0),
        }
    }

    /// The labels of all metrics of a peer.
    pub fn labels(&self) -> [(&'static str, &str); 4] {
        let [direction, listener] = self.listener.labels();
        [direction, listener, ("peer", &self.key.peer), ("service", &self.key.service)]
    }

    /// Whether this is the peer's own series, so that no lookup is needed.
    pub fn is_of(&self, peer: &str) -> bool {
        self.key.peer == peer
    }

    /// Counts a finished request.
    pub fn request_ended(&self, class: RequestClass, duration: Duration) {
        self.requests.count(class);
        if let Some(histogram) = self.listener.request_duration.get(class.status_class()) {
            histogram.observe(duration);
        }
    }
}

fn lock<T>(series: &Mutex<T>) -> MutexGuard<'_, T> {
    series.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_beyond_the_limit_share_a_series_and_are_counted() {
        let series = SeriesRegister::default();
        series.limit_peers(2);
        let api = series.listener(Direction::Inbound, "api");
        for name in ["a", "b", "c", "d", "a"] {
            let peer = series.peer(&api, &format!("spiffe://shop.example/{name}"), "payments");
            peer.connections.fetch_add(1, Ordering::Relaxed);
        }
        let counts = series.peers();
        let count_of = |peer: &str| {
            let found = counts.iter().find(|series| series.is_of(peer));
            found.map(|series| series.connections.load(Ordering::Relaxed))
        };
        assert_eq!(count_of("spiffe://shop.example/a"), Some(2));
        assert_eq!(count_of("spiffe://shop.example/c"), None);
        assert_eq!((count_of(OTHER_PEERS), series.overflowed(), counts.len()), (Some(2), 2, 3));
    }

    #[test]
    fn listeners_of_one_name_are_one_series() {
        let series = SeriesRegister::default();
        let one = series.listener(Direction::Outbound, "payments");
        assert!(Arc::ptr_eq(&one, &series.listener(Direction::Outbound, "payments")));
        assert!(!Arc::ptr_eq(&one, &series.listener(Direction::Inbound, "payments")));
    }
}
