//! The register of live connections. A connection is registered before its peer is authorized, so that no change of
//! policy or trust can fall between authorization and registration.

mod lifetime;
mod registration;
mod requests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use futures_util::task::AtomicWaker;
use postern_proto::identity::VerifiedSvid;
use postern_proto::mtls::Denial;
use postern_proto::policy::Protocol;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::config::Config;
use crate::control::policy_store::PolicyStore;
use crate::identity::credentials::{CredentialStore, is_valid_at};
use crate::observability::Direction;
use crate::observability::metrics::{ListenerSeries, Metrics, PeerSeries, UNKNOWN_PEER};
use lifetime::ConnectionLifetime;
pub use lifetime::{ANSWER_TIMEOUT, LOOK_INTERVAL};
pub use registration::{Path, Registration, RelayError};
pub use requests::{RequestInfo, Requests};

/// `/connections` shows at most this many.
pub const CONNECTIONS_SHOWN_MAX: usize = 10_000;
/// Connections checked before the task yields to others of its thread.
const LOOKED_AT_IN_A_ROW: usize = 256;

/// What is known of a live connection.
#[derive(Debug, Clone)]
pub struct Facts {
    pub direction: Direction,
    /// Index of its listener.
    pub listener: usize,
    /// The mTLS peer, once it is verified.
    pub peer: Option<VerifiedSvid>,
    pub since: OffsetDateTime,
    /// Its peer proves newer certificates in place, and the connection is terminated if it does not.
    pub is_tunnel: bool,
    /// The active HTTP requests, each of which is authorized separately.
    pub calls: Option<Arc<dyn Requests>>,
}

/// The state of a connection that its task and the register share.
#[derive(Debug)]
struct ConnectionEntry {
    state: Mutex<State>,
    termination: CancellationToken,
    traffic: Arc<Traffic>,
    /// A tunnel without an app connection.
    is_idle_tunnel: AtomicBool,
    /// Counted in the metrics as opened.
    opened: AtomicBool,
    /// Nanoseconds spent waiting for the app or the peer since the app connection began.
    waited: AtomicU64,
    listener: Option<Arc<ListenerSeries>>,
}

#[derive(Debug)]
struct State {
    facts: Facts,
    lifetime: ConnectionLifetime,
    /// Metrics of the peer, once it is known.
    series: Option<Arc<PeerSeries>>,
    /// Bytes to the peer and to the app already counted in the metrics.
    counted: (u64, u64),
    /// When the app's connection began.
    begun: std::time::Instant,
}

impl State {
    /// Adds the bytes carried since the last call to the metrics.
    fn count_bytes(&mut self, traffic: &Traffic) {
        let Some(series) = &self.series else { return };
        let carried = (traffic.to_peer.load(Ordering::Relaxed), traffic.to_app.load(Ordering::Relaxed));
        series.bytes_to_peer.fetch_add(carried.0.saturating_sub(self.counted.0), Ordering::Relaxed);
        series.bytes_to_app.fetch_add(carried.1.saturating_sub(self.counted.1), Ordering::Relaxed);
        self.counted = carried;
    }
}

/// Traffic counters of a connection, and signals between its task and the register.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Bytes.
    pub to_peer: AtomicU64,
    pub to_app: AtomicU64,
    /// One direction has ended, the other is open.
    pub half_closed: AtomicBool,
    /// Whether the app ended its direction first.
    pub app_ended_first: AtomicBool,
    /// The connection accepts no further requests because of its age. Set before `waker` is woken.
    pub retired: AtomicBool,
    /// The server has not answered OPEN yet.
    pub unanswered: AtomicBool,
    /// The app does not read pending data, so the peer is not read.
    pub app_stalls: AtomicBool,
    /// The peer does not read, or has not answered OPEN, so the app is not read.
    pub peer_stalls: AtomicBool,
    /// The task must check whether a side that it does not read was reset.
    pub look: AtomicBool,
    /// Wakes the task to check a side that is not read, to send a proof on a tunnel, or to retire an HTTP connection.
    pub waker: AtomicWaker,
    /// Why it was terminated.
    terminated_for: OnceLock<Denial>,
}

impl Traffic {
    /// The side that does not read, in words.
    pub fn stalled(&self) -> Option<&'static str> {
        match (self.app_stalls.load(Ordering::Relaxed), self.peer_stalls.load(Ordering::Relaxed)) {
            (false, false) => None,
            (true, false) => Some("the app takes nothing"),
            (false, true) => Some("the peer takes nothing"),
            (true, true) => Some("neither side takes anything"),
        }
    }

    /// A reset of a side that is not read goes unnoticed, so the task checks for it.
    fn look_if_stalled(&self) {
        if self.stalled().is_some() {
            self.look.store(true, Ordering::Relaxed);
            self.waker.wake();
        }
    }
}

/// All live connections of one sidecar.
#[derive(Debug)]
pub struct Register {
    /// In order of arrival.
    entries: Mutex<BTreeMap<u64, Arc<ConnectionEntry>>>,
    next: AtomicU64,
    metrics: Arc<Metrics>,
    inbounds: Vec<Listener>,
    outbounds: Vec<Listener>,
    own: OwnService,
    has_access_log: bool,
}

/// The sources of the own service's name.
#[derive(Debug, Default)]
pub struct OwnService {
    pub credentials: Arc<CredentialStore>,
    pub policy: Arc<PolicyStore>,
}

impl OwnService {
    /// Its name in the policy, else its SPIFFE ID.
    fn name(&self) -> String {
        let Some(own) = self.credentials.current() else { return UNKNOWN_PEER.to_owned() };
        let (id, policy) = (own.svid.id(), self.policy.current());
        let name = policy.as_ref().and_then(|policy| policy.service_of(id));
        name.map_or_else(|| id.to_string(), str::to_owned)
    }
}

/// A listener, as connections are labelled with it.
#[derive(Debug)]
struct Listener {
    /// The inbound's name or the outbound's service, for display.
    service: String,
    protocol: Protocol,
    series: Arc<ListenerSeries>,
}

impl Register {
    pub fn new(metrics: Arc<Metrics>, config: &Config, own: OwnService) -> Self {
        let listener = |direction, service: String, protocol| {
            let series = metrics.series.listener(direction, &service);
            Listener { service, protocol, series }
        };
        let (inbounds, outbounds) = (config.inbounds.iter(), config.outbounds.iter());
        let inbounds = inbounds.map(|it| listener(Direction::Inbound, it.name.clone(), it.protocol));
        let outbounds = outbounds.map(|it| listener(Direction::Outbound, it.target.to_string(), it.protocol));
        let (inbounds, outbounds) = (inbounds.collect(), outbounds.collect());
        let has_access_log = config.access_log.is_some();
        Self {
            entries: Mutex::default(),
            next: AtomicU64::new(1),
            metrics,
            inbounds,
            outbounds,
            own,
            has_access_log,
        }
    }

    /// Whether connections are recorded for an access log.
    pub(super) fn has_access_log(&self) -> bool {
        self.has_access_log
    }

    /// Registers a connection before its peer is authorized. Cancelling `abort` terminates it, too.
    pub fn enter(self: &Arc<Self>, facts: Facts, abort: &CancellationToken) -> Registration {
        let (number, direction) = (self.next.fetch_add(1, Ordering::Relaxed), facts.direction);
        let listener = self.listener(&facts).map(|listener| listener.series.clone());
        let lifetime = ConnectionLifetime::since(Instant::now());
        let live = Arc::new(ConnectionEntry {
            state: Mutex::new(State {
                facts,
                lifetime,
                series: None,
                counted: (0, 0),
                begun: std::time::Instant::now(),
            }),
            termination: abort.child_token(),
            traffic: Arc::default(),
            is_idle_tunnel: AtomicBool::new(false),
            opened: AtomicBool::new(false),
            waited: AtomicU64::new(0),
            listener,
        });
        live.begin();
        self.lock().insert(number, live.clone());
        Registration::new(number, direction, self.clone(), live)
    }

    /// Authorizes every connection with a known peer again, and each of its requests, and terminates those that are
    /// no longer allowed.
    pub async fn decide_again(&self, allowed: impl Fn(&Facts, Option<&RequestInfo>) -> Result<(), Denial>) {
        self.for_each_in_turns(|number, live| {
            let state = live.lock();
            let facts = &state.facts;
            let Some(peer) = facts.peer.as_ref().filter(|_| !live.termination.is_cancelled()) else { return };
            if let Err(denial) = allowed(facts, None) {
                return self.terminate(number, live, facts, denial);
            }
            let (direction, service) = (facts.direction.as_str(), self.service(facts));
            let gone = |call: &RequestInfo| match allowed(facts, Some(call)) {
                Ok(()) => false,
                Err(Denial { code: reason, detail }) => {
                    let RequestInfo { method, path } = call;
                    warn!(connection = number, direction, peer = %peer.id(), service, method, path = %path.escape_debug(), reason, detail, "cut");
                    self.metrics.terminated(reason);
                    true
                }
            };
            if let Some(calls) = &facts.calls {
                calls.terminate(&gone);
            }
        })
        .await;
    }

    /// Terminates one connection, and logs the reason.
    fn terminate(&self, number: u64, live: &ConnectionEntry, facts: &Facts, denial: Denial) {
        let (reason, detail) = (denial.code, &denial.detail);
        let peer = facts.peer.as_ref().map(VerifiedSvid::id).map(tracing::field::display);
        let (direction, service) = (facts.direction.as_str(), self.service(facts));
        warn!(connection = number, direction, peer, service, reason, detail, "cut");
        self.metrics.terminated(reason);
        let _first_reason_stands = live.traffic.terminated_for.set(denial);
        if let Some(calls) = &facts.calls {
            calls.connection_terminated(reason);
        }
        live.termination.cancel();
    }

    /// Wakes every tunnel, so that it announces the own renewed certificate to its peer.
    pub async fn wake(&self) {
        self.for_each_in_turns(|_, live| live.traffic.waker.wake()).await;
    }

    /// The next expiry, at `now` or later, of a peer certificate that must be replaced in place.
    pub async fn next_proof_due(&self, now: OffsetDateTime) -> Option<OffsetDateTime> {
        let mut next = None;
        self.for_each_in_turns(|_, live| {
            let state = live.lock();
            let tunnel = Some(&state.facts).filter(|facts| facts.is_tunnel);
            let end = tunnel.and_then(|facts| Some(facts.peer.as_ref()?.not_after()));
            next = next.into_iter().chain(end.filter(|end| is_valid_at(*end, now))).min();
        })
        .await;
        next
    }

    /// The live connections as `/connections` shows them.
    pub fn shown(&self) -> Value {
        let (now, mut count, mut connections) = (Instant::now(), 0, Vec::new());
        self.for_each(|number, live| {
            count += 1;
            if connections.len() < CONNECTIONS_SHOWN_MAX {
                connections.push(self.show(number, live, now));
            }
        });
        json!({ "live": count, "connections": connections })
    }

    fn show(&self, number: u64, live: &ConnectionEntry, now: Instant) -> Value {
        let (State { facts, lifetime, .. }, traffic) = (&*live.lock(), &live.traffic);
        let peer = facts.peer.as_ref();
        json!({
            "connection": number,
            "direction": facts.direction,
            "listener": self.service(facts),
            "peer": peer.map(|peer| peer.id().as_str()),
            "peer_not_after": peer.and_then(|peer| peer.not_after().format(&Rfc3339).ok()),
            "since": facts.since.format(&Rfc3339).ok(),
            "tunnel": facts.is_tunnel,
            "half_closed": traffic.half_closed.load(Ordering::Relaxed),
            "stalled": traffic.stalled(),
            "quiet_seconds": lifetime.quiet(now).as_secs(),
            "requests": facts.calls.as_ref().map(|calls| calls.count()),
            "bytes_to_peer": traffic.to_peer.load(Ordering::Relaxed),
            "bytes_to_app": traffic.to_app.load(Ordering::Relaxed),
        })
    }

    /// Adds the bytes that open connections have carried so far to the metrics.
    pub fn count_bytes(&self) {
        self.for_each(|_, live| live.lock().count_bytes(&live.traffic));
    }

    /// The metrics of connections and requests with this peer.
    pub fn peer_series(&self, facts: &Facts, peer: &str) -> Option<Arc<PeerSeries>> {
        let listener = self.listener(facts)?;
        let service = match facts.direction {
            Direction::Inbound => self.own.name(),
            Direction::Outbound => listener.service.clone(),
        };
        Some(self.metrics.series.peer(&listener.series, peer, &service))
    }

    fn listener(&self, facts: &Facts) -> Option<&Listener> {
        let listeners = match facts.direction {
            Direction::Inbound => &self.inbounds,
            Direction::Outbound => &self.outbounds,
        };
        listeners.get(facts.listener)
    }

    fn service(&self, facts: &Facts) -> &str {
        self.listener(facts).map_or("", |listener| &listener.service)
    }

    /// Visits every connection present at the start, and possibly later ones. Yields between batches, without holding
    /// the lock.
    async fn for_each_in_turns(&self, mut look: impl FnMut(u64, &ConnectionEntry)) {
        let mut next = Some(0);
        while let Some(from) = next {
            next = self.look_at_some(from, &mut look);
            tokio::task::yield_now().await;
        }
    }

    /// Visits every connection without yielding.
    fn for_each(&self, mut look: impl FnMut(u64, &ConnectionEntry)) {
        let mut next = Some(0);
        while let Some(from) = next {
            next = self.look_at_some(from, &mut look);
        }
    }

    /// Returns the number at which to continue.
    fn look_at_some(&self, from: u64, look: &mut impl FnMut(u64, &ConnectionEntry)) -> Option<u64> {
        let some: Vec<_> = {
            let entries = self.lock();
            let some = entries.range(from..).take(LOOKED_AT_IN_A_ROW);
            some.map(|(number, live)| (*number, live.clone())).collect()
        };
        some.iter().for_each(|(number, live)| look(*number, live));
        some.last().map(|(last, _)| last + 1)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<ConnectionEntry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionEntry {
    /// An app connection, or a handshake, begins.
    fn begin(&self) {
        if let Some(listener) = &self.listener {
            listener.connections_active.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The app connection is over: counts its remaining bytes and resets the counters for the next one.
    fn finish(&self) {
        if let Some(listener) = &self.listener {
            listener.connections_active.fetch_sub(1, Ordering::Relaxed);
        }
        self.opened.store(false, Ordering::Relaxed);
        let mut state = self.lock();
        state.count_bytes(&self.traffic);
        state.counted = (0, 0);
        self.traffic.to_peer.store(0, Ordering::Relaxed);
        self.traffic.to_app.store(0, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The memory per idle connection of the register, the access log and all limits. An idle connection may cost 6
    /// KiB in total.
    #[test]
    fn a_connection_costs_the_register_little() {
        let entry =
            size_of::<(u64, Arc<ConnectionEntry>)>() + size_of::<ConnectionEntry>() + size_of::<Traffic>();
        let held = size_of::<Registration>();
        assert!(entry + held <= 640, "{entry} and {held} bytes");
    }

    fn register() -> Arc<Register> {
        let text = "[identity]\nsvid_file = \"a\"\nkey_file = \"b\"\nbundle_file = \"c\"\n";
        let config = Config::parse("sidecar.toml".as_ref(), text).unwrap();
        Arc::new(Register::new(Arc::default(), &config, OwnService::default()))
    }

    fn facts() -> Facts {
        let (direction, since) = (Direction::Inbound, OffsetDateTime::UNIX_EPOCH);
        Facts { direction, listener: 0, peer: None, since, is_tunnel: false, calls: None }
    }

    #[tokio::test]
    async fn other_tasks_run_while_many_connections_are_scanned() {
        const CONNECTIONS: usize = 100_000;
        let (register, abort) = (register(), CancellationToken::new());
        let all: Vec<_> = (0..CONNECTIONS).map(|_| register.enter(facts(), &abort)).collect();
        let (mut seen, mut others) = (0, 0);
        let looking = register.for_each_in_turns(|_, _| {
            seen += 1;
            // This would hang if the register were locked.
            drop(register.enter(facts(), &abort));
        });
        let working = async {
            loop {
                others += 1;
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = looking => {}
            () = working => {}
        }
        assert!(seen >= CONNECTIONS && others >= CONNECTIONS / LOOKED_AT_IN_A_ROW, "{seen}, {others} turns");
        assert_eq!(all.len(), register.lock().len());
    }
}
