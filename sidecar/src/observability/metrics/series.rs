//! What is counted of each listener and of each peer at it: looked up once per connection, bounded in number.

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

/// All series of one sidecar that are counted by listener or peer.
#[derive(Debug)]
pub struct SeriesRegister {
    listeners: Mutex<HashMap<(Direction, String), Arc<ListenerSeries>>>,
    peers: Mutex<HashMap<PeerKey, Arc<PeerSeries>>>,
    /// Peers that are counted apart.
    peers_max: AtomicUsize,
    /// Connections of peers beyond that.
    overflowed: AtomicU64,
}

/// A peer, as seen by one listener.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct PeerKey {
    direction: Direction,
    listener: String,
    peer: String,
    service: String,
}

/// What is counted of one listener.
#[derive(Debug)]
pub struct ListenerSeries {
    pub direction: Direction,
    /// The inbound's name or the outbound's service.
    pub listener: String,
    /// Connections that carry something now, or are in their handshake.
    pub connections_active: AtomicI64,
    /// Connections that ended before their peer had shown an identity.
    pub unidentified: AtomicU64,
    /// Of `tcp`: from the connection's begin to its end...
    pub connection_duration: DurationHistogram,
    /// ...and what of that the sidecar took until bytes could pass.
    pub connection_share: DurationHistogram,
    pub requests_active: AtomicI64,
    pub requests_aborted: AbortedRequests,
    /// By status class.
    pub request_duration: [DurationHistogram; STATUS_CLASSES.len()],
    /// What the sidecar took of the time until the answer's head was passed on.
    pub request_share: DurationHistogram,
    pub pool: PoolSeries,
}

/// What is counted of one peer at one listener.
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

    /// The series of a listener, the same for all that have one name.
    pub fn listener(&self, direction: Direction, listener: &str) -> Arc<ListenerSeries> {
        let mut listeners = lock(&self.listeners);
        let new = || Arc::new(ListenerSeries::new(direction, listener));
        listeners.entry((direction, listener.to_owned())).or_insert_with(new).clone()
    }

    /// The series of a peer at a listener: its own while there is room, else the one that all others share.
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

    /// Connections whose peer had no series of its own.
    pub fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }

    /// In the order of their labels.
    pub fn listeners(&self) -> Vec<Arc<ListenerSeries>> {
        let mut all: Vec<_> = lock(&self.listeners).values().cloned().collect();
        all.sort_by(|one, other| one.labels().cmp(&other.labels()));
        all
    }

    /// In the order of their labels.
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

    /// Whether it has had requests.
    pub fn has_had_requests(&self) -> bool {
        self.request_duration.iter().any(|histogram| histogram.count() > 0)
    }

    /// Labels that all metrics of a listener have.
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

    /// Labels that all metrics of a peer have.
    pub fn labels(&self) -> [(&'static str, &str); 4] {
        let [direction, listener] = self.listener.labels();
        [direction, listener, ("peer", &self.key.peer), ("service", &self.key.service)]
    }

    /// Whether it is the series of this peer, so that it need not be looked up.
    pub fn is_of(&self, peer: &str) -> bool {
        self.key.peer == peer
    }

    /// Counts a request that has ended.
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
