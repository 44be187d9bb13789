//! What Prometheus is told, by its naming conventions.

mod levels;

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use time::OffsetDateTime;

use crate::access_log::AccessLog;
use crate::holder::IdentityStatus;
use crate::subscription::SubscriptionState;
pub use levels::Levels;

/// So many different refusals are counted apart; further ones share the label `other`, so that peers cannot make
/// metrics grow.
pub const REFUSAL_SERIES_MAX: usize = 1_000;

/// Which way a connection goes, seen from the own app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    Inbound,
    Outbound,
}

impl Direction {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

impl EncodeLabelValue for Direction {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        self.as_str().encode(encoder)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByDirection {
    direction: Direction,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByFlow {
    direction: Direction,
    flow: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByResult {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByTunnel {
    tunnel: &'static str,
}

/// Who was refused, by whom and why.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusalLabels {
    pub direction: Direction,
    /// The caller.
    pub peer: String,
    /// The called.
    pub service: String,
    pub reason: &'static str,
}

/// All metrics of one sidecar.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    connections: Family<ByDirection, Counter>,
    live: Family<ByDirection, Gauge>,
    cut: Family<ByReason, Counter>,
    /// What has a limit.
    pub levels: Levels,
    bytes: Family<ByFlow, Counter>,
    handshakes: Family<ByDirection, Histogram, fn() -> Histogram>,
    upstream_failures: Family<ByDirection, Counter>,
    upstream_ejections: Family<ByDirection, Counter>,
    name_lookups: Family<ByResult, Counter>,
    refusals: Family<RefusalLabels, Counter>,
    refusals_seen: Mutex<HashSet<RefusalLabels>>,
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
            registry: Registry::with_prefix("postern"),
            connections: Family::default(),
            live: Family::default(),
            cut: Family::default(),
            levels: Levels::default(),
            bytes: Family::default(),
            handshakes: Family::new_with_constructor(handshake_histogram),
            upstream_failures: Family::default(),
            upstream_ejections: Family::default(),
            name_lookups: Family::default(),
            refusals: Family::default(),
            refusals_seen: Mutex::default(),
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
        metrics.register();
        metrics
    }
}

/// From 0.1 ms to 1.6 s.
fn handshake_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 15))
}

impl Metrics {
    fn register(&mut self) {
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        let registry = &mut self.registry;
        self.levels.register(registry);
        registry.register("build", "The program", build);
        registry.register("connections", "App connections begun", self.connections.clone());
        registry.register("connections_live", "App connections open now", self.live.clone());
        registry.register(
            "connections_cut",
            "Live connections and requests cut, by reason",
            self.cut.clone(),
        );
        registry.register("bytes", "Carried by connections that have ended", self.bytes.clone());
        let duration = self.handshakes.clone();
        registry.register_with_unit("handshake_duration", "Accept to admission", Unit::Seconds, duration);
        let failures = self.upstream_failures.clone();
        registry.register("upstream_failures", "Addresses where nobody answered as hoped", failures);
        let ejections = self.upstream_ejections.clone();
        registry.register("upstream_ejections", "Addresses that failed again and again", ejections);
        let lookups = self.name_lookups.clone();
        registry.register("name_lookups", "What name servers were asked, by how it ended", lookups);
        registry.register("refusals", "Who was refused, by whom and why", self.refusals.clone());
        registry.register("policy_reloads", "Changes of the policy", self.policy_reloads.clone());
        registry.register("policy_version", "Of the CA's policy in force", self.policy_version.clone());
        let connected = self.subscription_connected.clone();
        registry.register("subscription_connected", "Whether the CA can be heard", connected);
        let not_after = self.svid_not_after.clone();
        registry.register("svid_not_after_timestamp_seconds", "End of the own certificate", not_after);
        registry.register("svid_rotations", "Certificates replaced so far", self.svid_rotations.clone());
        registry.register("tunnels_idle", "Tunnels that wait for the next lease", self.tunnels_idle.clone());
        let leases = self.tunnel_leases.clone();
        registry.register("tunnel_leases", "App connections begun on tunnels of outbounds", leases);
        let again = self.vouched_again.clone();
        registry.register("tunnel_reauthentications", "Newer certificates proved in place by peers", again);
        registry.register(
            "log_lines_dropped",
            "Lost because the log pipe was full",
            self.log_lines_dropped.clone(),
        );
        let dropped = self.access_log_lines_dropped.clone();
        registry.register("access_log_lines_dropped", "Lost because nobody took them in time", dropped);
        let failed = self.access_log_lines_failed.clone();
        registry.register("access_log_lines_failed", "Lost because they could not be written", failed);
    }

    pub fn opened(&self, direction: Direction) {
        self.connections.get_or_create(&ByDirection { direction }).inc();
        self.live.get_or_create(&ByDirection { direction }).inc();
    }

    pub fn closed(&self, direction: Direction) {
        self.live.get_or_create(&ByDirection { direction }).dec();
    }

    pub fn was_cut(&self, reason: &'static str) {
        self.cut.get_or_create(&ByReason { reason }).inc();
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

    pub fn carried(&self, direction: Direction, to_peer: u64, to_app: u64) {
        self.bytes.get_or_create(&ByFlow { direction, flow: "to_peer" }).inc_by(to_peer);
        self.bytes.get_or_create(&ByFlow { direction, flow: "to_app" }).inc_by(to_app);
    }

    pub fn handshake(&self, direction: Direction, duration: std::time::Duration) {
        self.handshakes.get_or_create(&ByDirection { direction }).observe(duration.as_secs_f64());
    }

    /// Nobody answered at an address as hoped.
    pub fn upstream_failed(&self, direction: Direction) {
        self.upstream_failures.get_or_create(&ByDirection { direction }).inc();
    }

    /// An address is not tried for a while, unless no other is left.
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
        let other = || "other".to_owned();
        let labels = if known { labels } else { RefusalLabels { peer: other(), service: other(), ..labels } };
        self.refusals.get_or_create(&labels).inc();
    }

    pub fn policy_reloaded(&self, result: &'static str) {
        self.policy_reloads.get_or_create(&ByResult { result }).inc();
    }

    /// 0 where no policy of the CA is in force.
    pub fn policy_version(&self, version: u64) {
        self.policy_version.set(i64::try_from(version).unwrap_or(i64::MAX));
    }

    pub fn subscription(&self, state: SubscriptionState) {
        self.subscription_connected.set((state == SubscriptionState::Connected).into());
    }

    /// Connections begun and open now, both ways together.
    pub fn connections(&self) -> (u64, i64) {
        let both = [Direction::Inbound, Direction::Outbound].map(|direction| ByDirection { direction });
        let begun = both.iter().map(|labels| self.connections.get_or_create(labels).get()).sum();
        (begun, both.iter().map(|labels| self.live.get_or_create(labels).get()).sum())
    }

    /// Takes over what others count; called before the text is made.
    pub fn take_over(&self, identity: &IdentityStatus, log_lines_dropped: usize, access_log: &AccessLog) {
        let (dropped, failed) = access_log.lost();
        self.access_log_lines_dropped.inner().store(dropped, Ordering::Relaxed);
        self.access_log_lines_failed.inner().store(failed, Ordering::Relaxed);
        self.svid_not_after.set(identity.not_after.map_or(0, OffsetDateTime::unix_timestamp));
        self.svid_rotations.inner().store(identity.rotations, Ordering::Relaxed);
        let dropped = u64::try_from(log_lines_dropped).unwrap_or(u64::MAX);
        self.log_lines_dropped.inner().store(dropped, Ordering::Relaxed);
    }

    /// The exposition text.
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
        let other =
            format!("peer=\"other\",service=\"other\",reason=\"denied\"}} {}", REFUSAL_SERIES_MAX * 2);
        assert!(text.contains(&other), "{other}");
    }
}
