//! The metrics for Prometheus; docs/METRICS.md describes each name, type and label.

mod exposition;
mod histogram;
mod labels;
mod limit_gauges;
mod pool;
mod requests;
mod series;

use std::collections::HashSet;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use time::OffsetDateTime;

use crate::config::Limits;
use crate::observability::Direction;
use histogram::DURATION_BOUNDS;
use labels::{ByDirection, ByHandshake, ByReason, ByResult, ByTunnel};
pub use labels::{HandshakeResult, RefusalLabels};
pub use limit_gauges::LimitGauges;
pub use pool::{CountIdle, DialResult, PooledConnection};
pub use requests::RequestClass;
pub use series::{ListenerSeries, OTHER_PEERS, PeerSeries, SeriesRegister, UNKNOWN_PEER};

/// Maximum number of refusal series. Further refusals share the label `other`, so that peers cannot grow the metrics
/// without bound.
pub const REFUSAL_SERIES_MAX: usize = 1_000;

/// All metrics of one sidecar.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Series by listener and peer.
    pub series: Arc<SeriesRegister>,
    /// Gauges of limited resources.
    pub levels: LimitGauges,
    terminated: Family<ByReason, Counter>,
    handshakes: Family<ByHandshake, Histogram, fn() -> Histogram>,
    upstream_failures: Family<ByDirection, Counter>,
    upstream_ejections: Family<ByDirection, Counter>,
    name_lookups: Family<ByResult, Counter>,
    refusals: Family<RefusalLabels, Counter>,
    refusals_seen: Mutex<HashSet<RefusalLabels>>,
    refusals_overflowed: Counter,
    policy_reloads: Family<ByResult, Counter>,
    policy_version: Gauge,
    subscription_connected: Gauge,
    svid_not_after: Gauge,
    svid_rotations: Counter,
    vouched_again: Counter,
    tunnels_idle: Gauge,
    tunnel_leases: Family<ByTunnel, Counter>,
    log_lines_dropped: Counter,
    access_log_lines_dropped: Counter,
    access_log_lines_failed: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            series: Arc::default(),
            levels: LimitGauges::default(),
            terminated: Family::default(),
            handshakes: Family::new_with_constructor(handshake_histogram),
            upstream_failures: Family::default(),
            upstream_ejections: Family::default(),
            name_lookups: Family::default(),
            refusals: Family::default(),
            refusals_seen: Mutex::default(),
            refusals_overflowed: Counter::default(),
            policy_reloads: Family::default(),
            policy_version: Gauge::default(),
            subscription_connected: Gauge::default(),
            svid_not_after: Gauge::default(),
            svid_rotations: Counter::default(),
            vouched_again: Counter::default(),
            tunnels_idle: Gauge::default(),
            tunnel_leases: Family::default(),
            log_lines_dropped: Counter::default(),
            access_log_lines_dropped: Counter::default(),
            access_log_lines_failed: Counter::default(),
        };
        metrics.initialize_counters();
        metrics.register();
        metrics
    }
}

/// Values that other components maintain.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExternalValues {
    pub svid_not_after: Option<OffsetDateTime>,
    pub svid_rotations: u64,
    pub log_lines_dropped: u64,
    pub access_log_lines_dropped: u64,
    pub access_log_lines_failed: u64,
}

fn handshake_histogram() -> Histogram {
    Histogram::new(DURATION_BOUNDS.iter().map(Duration::as_secs_f64))
}

impl Metrics {
    /// Creates counters with value zero: `rate` would miss the first event of a counter that appears with it.
    fn initialize_counters(&self) {
        for direction in [Direction::Inbound, Direction::Outbound] {
            let _created = self.upstream_failures.get_or_create(&ByDirection { direction });
            let _created = self.upstream_ejections.get_or_create(&ByDirection { direction });
        }
        for result in ["answered", "absent", "failed"] {
            let _created = self.name_lookups.get_or_create(&ByResult { result });
        }
        for result in ["ok", "error"] {
            let _created = self.policy_reloads.get_or_create(&ByResult { result });
        }
        for tunnel in ["new", "kept"] {
            let _created = self.tunnel_leases.get_or_create(&ByTunnel { tunnel });
        }
    }

    fn register(&mut self) {
        let mut root = std::mem::take(&mut self.registry);
        self.levels.register_process(&mut root);
        let registry = root.sub_registry_with_prefix("postern");
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "This program", build);
        registry.register_collector(Box::new(self.series.clone()));
        self.levels.register(registry);
        let terminated = self.terminated.clone();
        registry.register("connections_terminated", "Connections and requests cut, by reason", terminated);
        let handshakes = self.handshakes.clone();
        let help = "From accept or connect to the end of the TLS handshake, by how that ended";
        registry.register_with_unit("handshake_duration", help, Unit::Seconds, handshakes);
        let failures = self.upstream_failures.clone();
        registry.register("upstream_failures", "Attempts at an address that failed", failures);
        let ejections = self.upstream_ejections.clone();
        registry.register("upstream_ejections", "Addresses ejected after failures in a row", ejections);
        let lookups = self.name_lookups.clone();
        registry.register("name_lookups", "Questions to name servers, by how that ended", lookups);
        registry.register("refusals", "Refused connections and requests", self.refusals.clone());
        let overflowed = self.refusals_overflowed.clone();
        let help = "Refusals that were counted as other, for want of room";
        registry.register("refusal_series_overflowed", help, overflowed);
        registry.register("policy_reloads", "Changes of the policy", self.policy_reloads.clone());
        let version = self.policy_version.clone();
        registry.register("policy_version", "Version of the CA's policy in force, or 0", version);
        let connected = self.subscription_connected.clone();
        registry.register("subscription_connected", "Whether the stream from the CA is up", connected);
        let not_after = self.svid_not_after.clone();
        registry.register("svid_not_after_timestamp_seconds", "End of the own certificate", not_after);
        registry.register("svid_rotations", "Own certificates replaced", self.svid_rotations.clone());
        registry.register(
            "tunnels_idle",
            "Tunnels that wait for the next connection",
            self.tunnels_idle.clone(),
        );
        let leases = self.tunnel_leases.clone();
        registry.register("tunnel_leases", "App connections begun on tunnels of outbounds", leases);
        let again = self.vouched_again.clone();
        registry.register("tunnel_reauthentications", "Newer certificates proved in place by peers", again);
        let dropped = self.log_lines_dropped.clone();
        registry.register("log_lines_dropped", "Log lines that found their queue full", dropped);
        let dropped = self.access_log_lines_dropped.clone();
        registry.register("access_log_lines_dropped", "Access log lines that found the queue full", dropped);
        let failed = self.access_log_lines_failed.clone();
        registry.register("access_log_lines_failed", "Access log lines that could not be written", failed);
        self.registry = root;
    }

    /// Sets the configured limits.
    pub fn configured(&self, limits: &Limits) {
        self.levels.configured(limits);
        self.series.limit_peers(limits.peer_series_max);
    }

    /// Counts a terminated connection or request.
    pub fn terminated(&self, reason: &'static str) {
        self.terminated.get_or_create(&ByReason { reason }).inc();
    }

    pub fn tunnels_idle(&self, count: usize) {
        self.tunnels_idle.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts a lease on a tunnel that is `new`, or was `kept`.
    pub fn leased(&self, tunnel: &'static str) {
        self.tunnel_leases.get_or_create(&ByTunnel { tunnel }).inc();
    }

    pub fn vouched_again(&self) {
        self.vouched_again.inc();
    }

    pub fn handshake(&self, direction: Direction, result: HandshakeResult, duration: Duration) {
        self.handshakes.get_or_create(&ByHandshake { direction, result }).observe(duration.as_secs_f64());
    }

    /// Counts a failed attempt at an address.
    pub fn upstream_failed(&self, direction: Direction) {
        self.upstream_failures.get_or_create(&ByDirection { direction }).inc();
    }

    /// Counts an ejected address. It is not tried for a while, unless no other address is left.
    pub fn ejected(&self, direction: Direction) {
        self.upstream_ejections.get_or_create(&ByDirection { direction }).inc();
    }

    pub fn looked_up(&self, result: &'static str) {
        self.name_lookups.get_or_create(&ByResult { result }).inc();
    }

    pub fn refused(&self, labels: RefusalLabels) {
        let mut seen = self.refusals_seen.lock().unwrap_or_else(PoisonError::into_inner);
        let known =
            seen.contains(&labels) || (seen.len() < REFUSAL_SERIES_MAX && seen.insert(labels.clone()));
        drop(seen);
        let other = || OTHER_PEERS.to_owned();
        let labels = if known {
            labels
        } else {
            self.refusals_overflowed.inc();
            RefusalLabels { peer: other(), service: other(), ..labels }
        };
        self.refusals.get_or_create(&labels).inc();
    }

    pub fn policy_reloaded(&self, result: &'static str) {
        self.policy_reloads.get_or_create(&ByResult { result }).inc();
    }

    /// Sets the policy version; 0 if no policy of the CA is in force.
    pub fn policy_version(&self, version: u64) {
        self.policy_version.set(i64::try_from(version).unwrap_or(i64::MAX));
    }

    /// Sets whether the stream from the CA is connected.
    pub fn subscription_connected(&self, connected: bool) {
        self.subscription_connected.set(connected.into());
    }

    /// Numbers of connections opened so far and open now, in both directions.
    pub fn connections(&self) -> (u64, i64) {
        let opened = self.series.peers().iter().map(|one| one.connections.load(Ordering::Relaxed)).sum();
        let active = |one: &Arc<ListenerSeries>| AtomicI64::load(&one.connections_active, Ordering::Relaxed);
        (opened, self.series.listeners().iter().map(active).sum())
    }

    /// Records the values of other components; called before each scrape.
    pub fn record_external(&self, values: &ExternalValues) {
        self.access_log_lines_dropped.inner().store(values.access_log_lines_dropped, Ordering::Relaxed);
        self.access_log_lines_failed.inner().store(values.access_log_lines_failed, Ordering::Relaxed);
        self.log_lines_dropped.inner().store(values.log_lines_dropped, Ordering::Relaxed);
        self.svid_rotations.inner().store(values.svid_rotations, Ordering::Relaxed);
        self.svid_not_after.set(values.svid_not_after.map_or(0, OffsetDateTime::unix_timestamp));
    }

    /// Encodes the metrics in the exposition format.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_names_do_not_make_a_million_series() {
        let metrics = Metrics::default();
        for at in 0..REFUSAL_SERIES_MAX * 3 {
            metrics.refused(RefusalLabels {
                direction: Direction::Inbound,
                peer: format!("spiffe://shop.example/{at}"),
                service: "payments".to_owned(),
                reason: "denied",
            });
        }
        let text = metrics.text().unwrap();
        let series = text.lines().filter(|line| line.starts_with("postern_refusals_total{")).count();
        assert_eq!(series, REFUSAL_SERIES_MAX + 1);
        let overflowed = REFUSAL_SERIES_MAX * 2;
        let other = format!("peer=\"other\",service=\"other\",reason=\"denied\"}} {overflowed}");
        assert!(text.contains(&other), "{other}");
        assert!(text.contains(&format!("postern_refusal_series_overflowed_total {overflowed}")));
    }
}
