//! Gauges of limited resources: current use and limit.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Direction;
use crate::config::Limits;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByListener {
    direction: Direction,
    listener: String,
}

/// The gauges of one sidecar.
#[derive(Debug, Default)]
pub struct LimitGauges {
    /// Pending handshakes of peers.
    pub handshakes_pending: Gauge,
    handshakes_pending_limit: Gauge,
    connections: Family<ByListener, Gauge>,
    http_requests_waiting: Family<ByListener, Gauge>,
    connections_limit: Gauge,
    most_of_one_peer: Gauge,
    most_of_one_peer_limit: Gauge,
    open_fds: Gauge,
    max_fds: Gauge,
}

impl LimitGauges {
    pub(super) fn register(&self, registry: &mut Registry) {
        let pending = self.handshakes_pending.clone();
        registry.register("handshakes_pending", "Handshakes of peers under way", pending);
        let limit = self.handshakes_pending_limit.clone();
        registry.register("handshakes_pending_limit", "As many one inbound may have", limit);
        let connections = self.connections.clone();
        registry.register("listener_connections", "Connections accepted and still open", connections);
        let limit = self.connections_limit.clone();
        registry.register("listener_connections_limit", "As many one listener may have", limit);
        let waiting = self.http_requests_waiting.clone();
        registry.register("http_requests_waiting", "Requests that wait for a connection", waiting);
        let most = self.most_of_one_peer.clone();
        registry.register("connections_of_one_peer", "The most that one identity has at one inbound", most);
        let limit = self.most_of_one_peer_limit.clone();
        registry.register("connections_of_one_peer_limit", "As many one identity may have", limit);
    }

    /// Registers the process metrics under the names of the Prometheus client libraries.
    pub(super) fn register_process(&self, registry: &mut Registry) {
        registry.register("process_open_fds", "Open file descriptors", self.open_fds.clone());
        registry.register("process_max_fds", "File descriptors that may be open", self.max_fds.clone());
    }

    /// Sets the configured limits.
    pub fn configured(&self, limits: &Limits) {
        self.handshakes_pending_limit.set(signed(limits.handshakes_pending_max as u64));
        self.connections_limit.set(signed(limits.connections_max as u64));
        self.most_of_one_peer_limit.set(signed(limits.connections_per_peer_max as u64));
    }

    /// The gauge of open connections of a listener, which the listener sets.
    pub fn of_listener(&self, direction: Direction, listener: String) -> Gauge {
        self.connections.get_or_create(&ByListener { direction, listener }).clone()
    }

    /// Sets the number of requests of a listener that wait for a connection.
    pub fn waiting(&self, direction: Direction, listener: String, requests: usize) {
        let gauge = self.http_requests_waiting.get_or_create(&ByListener { direction, listener });
        gauge.set(signed(requests as u64));
    }

    /// Sets the gauges that are measured only at a scrape.
    pub fn measured(&self, most_of_one_peer: usize, descriptors: u64, descriptors_max: Option<u64>) {
        self.most_of_one_peer.set(signed(most_of_one_peer as u64));
        self.open_fds.set(signed(descriptors));
        if let Some(max) = descriptors_max {
            self.max_fds.set(signed(max));
        }
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
