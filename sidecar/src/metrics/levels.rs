//! What has a limit: how much of it there is, and how much there may be.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Direction;
use crate::config::Limits;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByLimit {
    limit: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByListener {
    direction: Direction,
    listener: String,
}

/// The levels of one sidecar.
#[derive(Debug, Default)]
pub struct Levels {
    /// Handshakes of peers under way.
    pub handshakes_pending: Gauge,
    connections: Family<ByListener, Gauge>,
    http_requests_waiting: Family<ByListener, Gauge>,
    most_of_one_peer: Gauge,
    descriptors: Gauge,
    limits: Family<ByLimit, Gauge>,
}

impl Levels {
    pub(super) fn register(&self, registry: &mut Registry) {
        let pending = self.handshakes_pending.clone();
        registry.register("handshakes_pending", "Handshakes of peers under way", pending);
        let connections = self.connections.clone();
        registry.register("listener_connections", "Accepted and still open", connections);
        let waiting = self.http_requests_waiting.clone();
        registry.register("http_requests_waiting", "Requests that wait for a connection", waiting);
        let most = self.most_of_one_peer.clone();
        registry.register("connections_of_one_peer", "The most that one identity has at one inbound", most);
        registry.register("descriptors", "File descriptors in use", self.descriptors.clone());
        registry.register("limit", "How high each level may get", self.limits.clone());
    }

    /// The limits in force.
    pub fn configured(&self, limits: &Limits) {
        self.limit("handshakes_pending_max", limits.handshakes_pending_max as u64);
        self.limit("connections_max", limits.connections_max as u64);
        self.limit("connections_per_peer_max", limits.connections_per_peer_max as u64);
    }

    fn limit(&self, limit: &'static str, value: u64) {
        self.limits.get_or_create(&ByLimit { limit }).set(signed(value));
    }

    /// Open connections of one listener, to be set by it.
    pub fn of_listener(&self, direction: Direction, listener: String) -> Gauge {
        self.connections.get_or_create(&ByListener { direction, listener }).clone()
    }

    /// Requests of one listener that wait for a connection.
    pub fn waiting(&self, direction: Direction, listener: String, requests: usize) {
        let gauge = self.http_requests_waiting.get_or_create(&ByListener { direction, listener });
        gauge.set(signed(requests as u64));
    }

    /// Takes over what is looked at only when somebody asks.
    pub fn measured(&self, most_of_one_peer: usize, descriptors: u64, descriptors_max: Option<u64>) {
        self.most_of_one_peer.set(signed(most_of_one_peer as u64));
        self.descriptors.set(signed(descriptors));
        if let Some(max) = descriptors_max {
            self.limit("descriptors", max);
        }
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
