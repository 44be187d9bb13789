//! The register of live connections. A connection is in it before its peer is decided, so that no change of policy
//! or trust can fall between the decision and the register.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use futures_util::task::AtomicWaker;
use postern_proto::identity::{SpiffeId, VerifiedSvid};
use postern_proto::mtls::Denial;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::access_log::Story;
use crate::credentials::holds_until;
use crate::http::{CallFacts, Calls};
use crate::metrics::{Direction, Metrics};
use crate::share::Place;

/// `/connections` shows at most this many.
pub const CONNECTIONS_SHOWN_MAX: usize = 10_000;

/// What is known of a live connection.
#[derive(Debug, Clone)]
pub struct Facts {
    pub direction: Direction,
    /// Which listener it came by.
    pub listener: usize,
    /// The inbound's name or the outbound's service, for people.
    pub service: String,
    /// Who is at the other side of mTLS, once that is known.
    pub peer: Option<VerifiedSvid>,
    pub since: OffsetDateTime,
    /// Its peer proves newer certificates in place, and is cut when it does not.
    pub is_tunnel: bool,
    /// The requests under way, where there are such: each is decided by itself.
    pub calls: Option<Arc<Calls>>,
}

#[derive(Debug)]
struct Entry {
    facts: Facts,
    cut: CancellationToken,
    traffic: Arc<Traffic>,
}

/// What a connection carries, and what its task and the register say to each other.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Bytes.
    pub to_peer: AtomicU64,
    pub to_app: AtomicU64,
    /// Wakes the task of a tunnel when its own side has something to prove.
    pub waker: AtomicWaker,
    /// Why it was cut.
    cut_for: OnceLock<Denial>,
}

/// All live connections of one sidecar.
#[derive(Debug)]
pub struct Register {
    entries: Mutex<HashMap<u64, Entry>>,
    next: AtomicU64,
    metrics: Arc<Metrics>,
}

/// A connection's place in the register; dropping it leaves the register.
#[derive(Debug)]
pub struct Registration {
    number: u64,
    register: Arc<Register>,
    direction: Direction,
    /// Cancelled when the connection is no longer allowed, or everything ends.
    pub cut: CancellationToken,
    pub traffic: Arc<Traffic>,
    /// What the access log will tell of it.
    pub story: Mutex<Story>,
    /// Between two connections of the app.
    resting: AtomicBool,
    /// What it takes of its peer's share.
    place: OnceLock<Place>,
}

impl Register {
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { entries: Mutex::default(), next: AtomicU64::new(1), metrics }
    }

    /// Puts a connection into the register, before anything is decided about it. Cancelling `abort` cuts it, too.
    pub fn enter(self: &Arc<Self>, facts: Facts, abort: &CancellationToken) -> Registration {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (direction, cut, traffic) = (facts.direction, abort.child_token(), Arc::<Traffic>::default());
        self.metrics.opened(direction);
        let entry = Entry { facts, cut: cut.clone(), traffic: traffic.clone() };
        self.lock().insert(number, entry);
        Registration {
            number,
            register: self.clone(),
            direction,
            cut,
            traffic,
            story: Mutex::default(),
            resting: AtomicBool::new(false),
            place: OnceLock::new(),
        }
    }

    /// Asks about every connection whose peer is known, and about each of its requests, whether it is still allowed,
    /// and cuts those that are not.
    pub fn decide_again(&self, allowed: impl Fn(&Facts, Option<&CallFacts>) -> Result<(), Denial>) {
        let entries = self.lock();
        for (number, Entry { facts, cut, traffic }) in entries.iter() {
            let Some(peer) = facts.peer.as_ref().filter(|_| !cut.is_cancelled()) else {
                continue;
            };
            let (direction, service) = (facts.direction.as_str(), facts.service.as_str());
            if let Err(Denial { code: reason, detail }) = allowed(facts, None) {
                warn!(connection = number, direction, peer = %peer.id(), service, reason, detail, "cut");
                self.metrics.was_cut();
                let _first_reason_stands = traffic.cut_for.set(Denial { code: reason, detail });
                cut.cancel();
                continue;
            }
            let gone = |call: &CallFacts| match allowed(facts, Some(call)) {
                Ok(()) => false,
                Err(Denial { code: reason, detail }) => {
                    let CallFacts { method, path } = call;
                    warn!(connection = number, direction, peer = %peer.id(), service, method, path = %path.escape_debug(), reason, detail, "cut");
                    self.metrics.was_cut();
                    true
                }
            };
            if let Some(calls) = &facts.calls {
                calls.cut(gone);
            }
        }
    }

    /// Wakes every tunnel, so that it tells its peer of a rotation here.
    pub fn wake(&self) {
        self.lock().values().for_each(|entry| entry.traffic.waker.wake());
    }

    /// When the next certificate ends, at `now` or later, of a peer that has to prove a newer one in place.
    pub fn next_proof_due(&self, now: OffsetDateTime) -> Option<OffsetDateTime> {
        let entries = self.lock();
        let tunnels = entries.values().filter(|entry| entry.facts.is_tunnel);
        let ends = tunnels.filter_map(|entry| Some(entry.facts.peer.as_ref()?.not_after()));
        ends.filter(|end| holds_until(*end, now)).min()
    }

    /// The live connections as `/connections` shows them.
    pub fn shown(&self) -> Value {
        let entries = self.lock();
        let mut numbers: Vec<_> = entries.keys().copied().collect();
        numbers.sort_unstable();
        let shown = numbers.iter().take(CONNECTIONS_SHOWN_MAX).filter_map(|number| {
            let Entry { facts, traffic, .. } = entries.get(number)?;
            Some(json!({
                "connection": number,
                "direction": facts.direction,
                "service": facts.service,
                "peer": facts.peer.as_ref().map(|peer| peer.id().as_str()),
                "peer_not_after": facts.peer.as_ref().and_then(|peer| peer.not_after().format(&Rfc3339).ok()),
                "since": facts.since.format(&Rfc3339).ok(),
                "tunnel": facts.is_tunnel,
                "requests": facts.calls.as_ref().map(|calls| calls.count()),
                "bytes_to_peer": traffic.to_peer.load(Ordering::Relaxed),
                "bytes_to_app": traffic.to_app.load(Ordering::Relaxed),
            }))
        });
        json!({ "live": numbers.len(), "connections": shown.collect::<Vec<_>>() })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registration {
    /// Under which `/connections` shows it.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Adds to what the access log will tell.
    pub fn tell(&self, add: impl FnOnce(&mut Story)) {
        add(&mut self.story.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Who the peer is, once that is known.
    pub fn peer(&self) -> Option<SpiffeId> {
        let entries = self.register.lock();
        entries.get(&self.number)?.facts.peer.as_ref().map(|peer| peer.id().clone())
    }

    /// The peer's certificate as it was judged, once that is known.
    pub fn verified(&self) -> Option<VerifiedSvid> {
        self.register.lock().get(&self.number)?.facts.peer.clone()
    }

    /// Keeps a place of the peer's share until the connection ends.
    pub(crate) fn hold(&self, place: Place) {
        let _the_first_is_kept = self.place.set(place);
    }

    /// Begins the next connection of the app on a connection that was there before.
    pub fn lease(&self) {
        if self.resting.swap(false, Ordering::Relaxed) {
            self.register.metrics.opened(self.direction);
        }
    }

    /// The app's connection is over; what it was is told, and the next starts from nothing.
    pub fn rest(&self) {
        if !self.resting.swap(true, Ordering::Relaxed) {
            let taken = |counter: &AtomicU64| counter.swap(0, Ordering::Relaxed);
            let (to_peer, to_app) = (taken(&self.traffic.to_peer), taken(&self.traffic.to_app));
            self.register.metrics.carried(self.direction, to_peer, to_app);
            self.register.metrics.closed(self.direction);
            self.tell(|story| *story = Story::default());
        }
    }

    /// Says that the connection is a tunnel.
    pub fn is_tunnel(&self) {
        if let Some(entry) = self.register.lock().get_mut(&self.number) {
            entry.facts.is_tunnel = true;
        }
    }

    /// Why it was cut, if it was no longer allowed.
    pub fn cut_for(&self) -> Option<&Denial> {
        self.traffic.cut_for.get()
    }

    /// Says who the peer is. Whoever decides about it must read the policy after this.
    pub fn identify(&self, peer: &VerifiedSvid) {
        if let Some(entry) = self.register.lock().get_mut(&self.number) {
            entry.facts.peer = Some(peer.clone());
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.register.lock().remove(&self.number);
        self.rest();
    }
}
