//! The register of live connections. A connection is in it before its peer is decided, so that no change of policy
//! or trust can fall between the decision and the register.

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
/// Connections that are looked at before other tasks of the thread get their turn.
const LOOKED_AT_IN_A_ROW: usize = 256;

/// What is known of a live connection.
#[derive(Debug, Clone)]
pub struct Facts {
    pub direction: Direction,
    /// Which listener it came by.
    pub listener: usize,
    /// Who is at the other side of mTLS, once that is known.
    pub peer: Option<VerifiedSvid>,
    pub since: OffsetDateTime,
    /// Its peer proves newer certificates in place, and is cut when it does not.
    pub is_tunnel: bool,
    /// The requests under way, where there are such: each is decided by itself.
    pub calls: Option<Arc<dyn Requests>>,
}

/// A connection as its task and the register share it.
#[derive(Debug)]
struct ConnectionEntry {
    state: Mutex<State>,
    cut: CancellationToken,
    traffic: Arc<Traffic>,
    /// Between two connections of the app.
    resting: AtomicBool,
    /// The metrics have counted it as opened.
    opened: AtomicBool,
    /// Nanoseconds of waiting for the app or the peer, since the app's connection began.
    waited: AtomicU64,
    listener: Option<Arc<ListenerSeries>>,
}

#[derive(Debug)]
struct State {
    facts: Facts,
    lifetime: ConnectionLifetime,
    /// Where the metrics count it, once the peer is known.
    series: Option<Arc<PeerSeries>>,
    /// Bytes to the peer and to the app that the metrics have counted.
    counted: (u64, u64),
    /// When the app's connection began.
    begun: std::time::Instant,
}

impl State {
    /// Has the metrics count what was carried since the last time.
    fn count_bytes(&mut self, traffic: &Traffic) {
        let Some(series) = &self.series else { return };
        let carried = (traffic.to_peer.load(Ordering::Relaxed), traffic.to_app.load(Ordering::Relaxed));
        series.bytes_to_peer.fetch_add(carried.0.saturating_sub(self.counted.0), Ordering::Relaxed);
        series.bytes_to_app.fetch_add(carried.1.saturating_sub(self.counted.1), Ordering::Relaxed);
        self.counted = carried;
    }
}

/// What a connection carries, and what its task and the register say to each other.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Bytes.
    pub to_peer: AtomicU64,
    pub to_app: AtomicU64,
    /// One direction has ended, the other has not.
    pub half_closed: AtomicBool,
    /// Which of both ended its direction first.
    pub app_ended_first: AtomicBool,
    /// The connection is too old for further requests; `waker` is woken with it.
    pub retired: AtomicBool,
    /// The called side has been asked for a lease, and has not answered.
    pub unanswered: AtomicBool,
    /// The app takes nothing, though something waits for it; so the peer is not read.
    pub app_stalls: AtomicBool,
    /// The peer takes nothing, or has not answered; so the app is not read.
    pub peer_stalls: AtomicBool,
    /// The task shall look whether a side that it does not read has gone.
    pub look: AtomicBool,
    /// Wakes the task when it shall look, when a tunnel's own side has something to prove, and when an HTTP connection is
    /// retired.
    pub waker: AtomicWaker,
    /// Why it was cut.
    cut_for: OnceLock<Denial>,
}

impl Traffic {
    /// Which side takes nothing, in words.
    pub fn stalled(&self) -> Option<&'static str> {
        match (self.app_stalls.load(Ordering::Relaxed), self.peer_stalls.load(Ordering::Relaxed)) {
            (false, false) => None,
            (true, false) => Some("the app takes nothing"),
            (false, true) => Some("the peer takes nothing"),
            (true, true) => Some("neither side takes anything"),
        }
    }

    /// A side that is not read can go unnoticed: lets the task look.
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
    /// In the order in which they came.
    entries: Mutex<BTreeMap<u64, Arc<ConnectionEntry>>>,
    next: AtomicU64,
    metrics: Arc<Metrics>,
    inbounds: Vec<Listener>,
    outbounds: Vec<Listener>,
    own: OwnService,
    has_access_log: bool,
}

/// From what the own service's name is read.
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

/// By which connections come.
#[derive(Debug)]
struct Listener {
    /// The inbound's name or the outbound's service, for people.
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

    /// Puts a connection into the register, before anything is decided about it. Cancelling `abort` cuts it, too.
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
            cut: abort.child_token(),
            traffic: Arc::default(),
            resting: AtomicBool::new(false),
            opened: AtomicBool::new(false),
            waited: AtomicU64::new(0),
            listener,
        });
        live.begin();
        self.lock().insert(number, live.clone());
        Registration::new(number, direction, self.clone(), live)
    }

    /// Asks about every connection whose peer is known, and about each of its requests, whether it is still allowed,
    /// and cuts those that are not.
    pub async fn decide_again(&self, allowed: impl Fn(&Facts, Option<&RequestInfo>) -> Result<(), Denial>) {
        self.for_each_in_turns(|number, live| {
            let state = live.lock();
            let facts = &state.facts;
            let Some(peer) = facts.peer.as_ref().filter(|_| !live.cut.is_cancelled()) else { return };
            if let Err(denial) = allowed(facts, None) {
                return self.cut(number, live, facts, denial);
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

    /// Cuts one connection, and tells why.
    fn cut(&self, number: u64, live: &ConnectionEntry, facts: &Facts, denial: Denial) {
        let (reason, detail) = (denial.code, &denial.detail);
        let peer = facts.peer.as_ref().map(VerifiedSvid::id).map(tracing::field::display);
        let (direction, service) = (facts.direction.as_str(), self.service(facts));
        warn!(connection = number, direction, peer, service, reason, detail, "cut");
        self.metrics.terminated(reason);
        let _first_reason_stands = live.traffic.cut_for.set(denial);
        if let Some(calls) = &facts.calls {
            calls.connection_terminated(reason);
        }
        live.cut.cancel();
    }

    /// Wakes every tunnel, so that it tells its peer of a rotation here.
    pub async fn wake(&self) {
        self.for_each_in_turns(|_, live| live.traffic.waker.wake()).await;
    }

    /// When the next certificate ends, at `now` or later, of a peer that has to prove a newer one in place.
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

    /// Has the metrics count what connections that are open have carried so far.
    pub fn count_bytes(&self) {
        self.for_each(|_, live| live.lock().count_bytes(&live.traffic));
    }

    /// Where the metrics count connections and requests with this peer.
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

    /// Looks at every connection that is there when it begins, and perhaps at some that come meanwhile. Nobody waits for
    /// it: others enter and leave while it looks, and other tasks have their turns.
    async fn for_each_in_turns(&self, mut look: impl FnMut(u64, &ConnectionEntry)) {
        let mut next = Some(0);
        while let Some(from) = next {
            next = self.look_at_some(from, &mut look);
            tokio::task::yield_now().await;
        }
    }

    /// The same, at once.
    fn for_each(&self, mut look: impl FnMut(u64, &ConnectionEntry)) {
        let mut next = Some(0);
        while let Some(from) = next {
            next = self.look_at_some(from, &mut look);
        }
    }

    /// Says where to go on.
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
    /// A connection of the app, or a handshake, begins.
    fn begin(&self) {
        if let Some(listener) = &self.listener {
            listener.connections_active.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// It is over: the metrics count what is left, and the next begins at nothing.
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

    /// What the register, the access log and all bounds cost an idle connection; 6 KiB is all that it may cost in whole.
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
    async fn others_enter_and_leave_and_work_while_many_connections_are_looked_at() {
        const CONNECTIONS: usize = 100_000;
        let (register, abort) = (register(), CancellationToken::new());
        let all: Vec<_> = (0..CONNECTIONS).map(|_| register.enter(facts(), &abort)).collect();
        let (mut seen, mut others) = (0, 0);
        let looking = register.for_each_in_turns(|_, _| {
            seen += 1;
            // It would hang, were the register locked.
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
