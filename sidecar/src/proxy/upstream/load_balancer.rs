//! The load balancer: power of two random choices by connections in flight, with ejected addresses last.
//!
//! An ejected address moves to the end of the order and is never removed: it is tried when no other is left. There is
//! no limit on the fraction of ejected addresses: the condition is [`EJECT_AFTER`] consecutive failures to connect,
//! and a limit would send connections to addresses that do not respond. When all are ejected, the load is spread over
//! all of them.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Consecutive failures after which an address is ejected.
pub const EJECT_AFTER: u32 = 3;
/// Duration of the first ejection; doubled each time its trial fails.
pub const EJECTED_FIRST: Duration = Duration::from_secs(1);
/// Longest ejection.
pub const EJECTED_MAX: Duration = Duration::from_secs(60);

/// Identifies an address while it is known; an address that is removed and added again gets a new identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressId(u64);

/// One instance and its addresses. `localhost` has an address of each family, and a server need not listen on both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub at: SocketAddr,
    pub also: Option<SocketAddr>,
}

impl From<SocketAddr> for Endpoint {
    fn from(at: SocketAddr) -> Self {
        Self { at, also: None }
    }
}

/// A handle to an address, for pooled connections.
#[derive(Debug, Clone, Default)]
pub struct AddressHandle(Arc<AddressState>);

#[derive(Debug, Default)]
struct AddressState {
    over: AtomicBool,
    /// Active requests.
    requests: AtomicUsize,
    http_version: AtomicU8,
}

/// The HTTP version of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpVersion {
    Http1 = 1,
    Http2 = 2,
}

impl HttpVersion {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "1.1",
            Self::Http2 => "2",
        }
    }
}

impl AddressHandle {
    /// Whether the address was removed: open connections may finish, but no new ones are made.
    pub fn is_over(&self) -> bool {
        self.0.over.load(Ordering::Relaxed)
    }

    fn end(&self) {
        self.0.over.store(true, Ordering::Relaxed);
    }

    /// Active requests.
    pub fn requests(&self) -> usize {
        self.0.requests.load(Ordering::Relaxed)
    }

    pub(crate) fn request_begins(&self) {
        self.0.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn request_ends(&self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }

    /// The HTTP version, once known.
    pub fn http_version(&self) -> Option<HttpVersion> {
        match self.0.http_version.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(HttpVersion::Http1),
            _ => Some(HttpVersion::Http2),
        }
    }

    /// Stores the HTTP version. Returns whether it changed.
    pub(crate) fn learn(&self, http_version: Option<HttpVersion>) -> bool {
        let known = http_version.map_or(0, |http_version| http_version as u8);
        self.0.http_version.swap(known, Ordering::Relaxed) != known
    }
}

/// The state of one address.
#[derive(Debug, Clone)]
pub struct Address {
    id: AddressId,
    endpoint: Endpoint,
    /// The socket address that answered last.
    pub at: SocketAddr,
    /// Attempts under way and connections open.
    pub in_flight: u32,
    pub record: Record,
    pub ejected_until: Option<Instant>,
    handle: AddressHandle,
    /// The ejection has expired, and one connection tries the address.
    on_trial: bool,
}

/// The recent failures of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Record {
    /// Since the last success.
    pub failures: u32,
    pub ejections: u32,
}

impl Address {
    fn new(id: AddressId, endpoint: Endpoint) -> Self {
        let (record, handle, at) = (Record::default(), AddressHandle::default(), endpoint.at);
        Self { id, endpoint, at, in_flight: 0, record, ejected_until: None, handle, on_trial: false }
    }

    pub fn id(&self) -> AddressId {
        self.id
    }

    /// The other address of the same instance.
    fn also(&self) -> Option<SocketAddr> {
        [Some(self.endpoint.at), self.endpoint.also].into_iter().flatten().find(|other| *other != self.at)
    }

    pub fn handle(&self) -> &AddressHandle {
        &self.handle
    }

    pub fn is_ejected(&self, now: Instant) -> bool {
        self.ejected_until.is_some_and(|until| now < until)
    }
}

/// A selected address.
#[derive(Debug, Clone)]
pub struct Selection {
    pub id: AddressId,
    pub at: SocketAddr,
    /// The other address of the same instance.
    pub also: Option<SocketAddr>,
    pub handle: AddressHandle,
}

/// The addresses of one upstream.
#[derive(Debug, Default)]
pub struct LoadBalancer {
    /// In order of identifiers.
    addresses: Vec<Address>,
    ids: u64,
}

impl LoadBalancer {
    /// Replaces the addresses. Those that remain keep their state.
    pub fn replace(&mut self, now_known: &[Endpoint]) {
        let mut missing: HashSet<_> = now_known.iter().copied().collect();
        self.addresses.retain(|address| {
            let stays = missing.remove(&address.endpoint);
            if !stays {
                address.handle.end();
            }
            stays
        });
        for &endpoint in now_known {
            if missing.remove(&endpoint) {
                self.ids += 1;
                self.addresses.push(Address::new(AddressId(self.ids), endpoint));
            }
        }
    }

    /// The next address for a connection that has tried some already, counted as in flight. An ejected address is
    /// selected when no other is left. One whose ejection has expired is tried by one connection, and stays ejected
    /// for others meanwhile. The next address is of the other family, if there is one (RFC 8305 §4).
    pub fn pick(
        &mut self,
        now: Instant,
        random: u64,
        tried: &[(AddressId, SocketAddr)],
    ) -> Option<Selection> {
        let untried = |address: &&Address| tried.iter().all(|(id, _)| *id != address.id);
        let ready = |address: &&Address| untried(address) && !address.is_ejected(now);
        let of_other_family = |address: &&Address| {
            ready(address) && tried.last().is_some_and(|(_, last)| last.is_ipv4() != address.at.is_ipv4())
        };
        let id = self.lighter(random, of_other_family).or_else(|| self.lighter(random, ready));
        let id = id.or_else(|| self.lighter(random, untried))?;
        self.take(id, now, random)
    }

    /// Selects this address and counts a connection in flight.
    pub fn take(&mut self, id: AddressId, now: Instant, random: u64) -> Option<Selection> {
        let address = self.known(id)?;
        address.in_flight += 1;
        if address.record.ejections > 0 && !address.is_ejected(now) {
            address.ejected_until = Some(now + ejected_for(address.record.ejections, random));
            address.on_trial = true;
        }
        Some(Selection { id, at: address.at, also: address.also(), handle: address.handle.clone() })
    }

    /// The one with fewer connections in flight of two random addresses.
    fn lighter(&self, random: u64, wanted: impl Fn(&&Address) -> bool) -> Option<AddressId> {
        let count = self.addresses.iter().filter(&wanted).count() as u64;
        let one = below(random >> 32, count);
        let other = below(random & HALF, count.saturating_sub(1));
        let other = if other < one { other } else { other + 1 };
        let drawn = self.addresses.iter().filter(&wanted).zip(0..);
        let mut drawn = drawn.filter(|(_, at)| *at == one || *at == other).map(|(address, _)| address);
        let (low, high) = (drawn.next()?, drawn.next());
        let high = high.filter(|high| (high.in_flight, random & 1) < (low.in_flight, 1));
        Some(high.unwrap_or(low).id)
    }

    /// Prefers this address of the instance. Returns whether that changed.
    pub fn prefer(&mut self, id: AddressId, at: SocketAddr) -> bool {
        self.known(id).is_some_and(|address| std::mem::replace(&mut address.at, at) != at)
    }

    /// Records a success. Returns the previous record, in case the success is revoked.
    pub fn succeeded(&mut self, id: AddressId) -> Record {
        let Some(address) = self.known(id) else { return Record::default() };
        address.ejected_until = None;
        address.on_trial = false;
        std::mem::take(&mut address.record)
    }

    /// Records a failure, or revokes a success by restoring its previous record. Returns the duration of the
    /// ejection, if this ejects the address. Failures of connections that began before an ejection do not extend it.
    pub fn failed(
        &mut self,
        id: AddressId,
        before: Option<Record>,
        now: Instant,
        random: u64,
    ) -> Option<Duration> {
        let address = self.known(id)?;
        if let Some(before) = before {
            address.record.failures = address.record.failures.max(before.failures);
            address.record.ejections = address.record.ejections.max(before.ejections);
        }
        address.record.failures = address.record.failures.saturating_add(1);
        let is_known_already = address.is_ejected(now) && !address.on_trial;
        if address.record.failures < EJECT_AFTER || is_known_already {
            return None;
        }
        address.on_trial = false;
        address.record.ejections = address.record.ejections.saturating_add(1);
        let length = ejected_for(address.record.ejections, random);
        address.ejected_until = Some(now + length);
        Some(length)
    }

    /// A connection has ended.
    pub fn left(&mut self, id: AddressId) {
        if let Some(address) = self.known(id) {
            address.in_flight = address.in_flight.saturating_sub(1);
        }
    }

    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Whether there are addresses and all are ejected.
    pub fn all_ejected(&self, now: Instant) -> bool {
        !self.addresses.is_empty() && self.addresses.iter().all(|address| address.is_ejected(now))
    }

    fn known(&mut self, id: AddressId) -> Option<&mut Address> {
        let at = self.addresses.binary_search_by_key(&id, |address| address.id).ok()?;
        self.addresses.get_mut(at)
    }
}

/// Exponential back-off with a cap, randomized between three quarters and the full value to spread the trials.
fn ejected_for(ejections: u32, random: u64) -> Duration {
    let doubled = EJECTED_FIRST.saturating_mul(2_u32.saturating_pow(ejections.saturating_sub(1)));
    let whole = doubled.min(EJECTED_MAX);
    let quarter = whole / 4;
    whole - quarter.mul_f64((random & HALF) as f64 / HALF as f64)
}

/// The lower half of a random number.
const HALF: u64 = u32::MAX as u64;

/// A number below `bound` from 32 random bits.
fn below(random: u64, bound: u64) -> u64 {
    ((random & HALF) * bound) >> 32
}

#[cfg(test)]
mod tests;
