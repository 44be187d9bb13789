//! Which address is tried next: the less busy of two random ones, and those that failed again and again last of all.
//!
//! An ejected address goes to the end of the line, never out of it: it is tried when no other is left. So there is no
//! share of the addresses that may not be ejected: the proof is [`EJECT_AFTER`] failures to connect without a success
//! between them, and a bound would send connections first to where nobody answers. When all are ejected, the load is
//! spread over all of them again.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// After so many failures in a row an address is ejected.
pub const EJECT_AFTER: u32 = 3;
/// For so long at first, and twice as long each time its trial fails.
pub const EJECTED_FIRST: Duration = Duration::from_secs(1);
/// But never longer.
pub const EJECTED_MAX: Duration = Duration::from_secs(60);

/// One address for as long as it is known; when it goes and comes back, it is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressId(u64);

/// One instance: where it is, and where it may be instead. `localhost` has an address of each family, and a server there
/// need not listen on both.
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

/// An address, for connections there that are kept.
#[derive(Debug, Clone, Default)]
pub struct Listing(Arc<Listed>);

#[derive(Debug, Default)]
struct Listed {
    over: AtomicBool,
    /// Requests under way there.
    requests: AtomicUsize,
    speaks: AtomicU8,
}

/// The version of HTTP that is spoken with an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    Http1 = 1,
    Http2 = 2,
}

impl Speaks {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "1.1",
            Self::Http2 => "2",
        }
    }
}

impl Listing {
    /// It is none of the place's any more: what is open may end by itself, but nothing new begins there.
    pub fn is_over(&self) -> bool {
        self.0.over.load(Ordering::Relaxed)
    }

    fn end(&self) {
        self.0.over.store(true, Ordering::Relaxed);
    }

    /// Requests under way there.
    pub fn requests(&self) -> usize {
        self.0.requests.load(Ordering::Relaxed)
    }

    pub(crate) fn request_begins(&self) {
        self.0.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn request_ends(&self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }

    /// Which HTTP is spoken there, once it is known.
    pub fn speaks(&self) -> Option<Speaks> {
        match self.0.speaks.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(Speaks::Http1),
            _ => Some(Speaks::Http2),
        }
    }

    /// Keeps which HTTP is spoken there, and says whether that is new.
    pub(crate) fn learn(&self, speaks: Option<Speaks>) -> bool {
        let known = speaks.map_or(0, |speaks| speaks as u8);
        self.0.speaks.swap(known, Ordering::Relaxed) != known
    }
}

/// What is known of one address.
#[derive(Debug, Clone)]
pub struct Address {
    id: AddressId,
    endpoint: Endpoint,
    /// Where it answered last.
    pub at: SocketAddr,
    /// Attempts under way and connections open.
    pub in_flight: u32,
    pub record: Record,
    pub ejected_until: Option<Instant>,
    listing: Listing,
    /// Its time is over, and one connection tries it.
    on_trial: bool,
}

/// How an address has done lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Record {
    /// Since the last success.
    pub failures: u32,
    pub ejections: u32,
}

impl Address {
    fn new(id: AddressId, endpoint: Endpoint) -> Self {
        let (record, listing, at) = (Record::default(), Listing::default(), endpoint.at);
        Self { id, endpoint, at, in_flight: 0, record, ejected_until: None, listing, on_trial: false }
    }

    pub fn id(&self) -> AddressId {
        self.id
    }

    /// The address of the same instance where it did not answer last.
    fn also(&self) -> Option<SocketAddr> {
        [Some(self.endpoint.at), self.endpoint.also].into_iter().flatten().find(|other| *other != self.at)
    }

    pub fn listing(&self) -> &Listing {
        &self.listing
    }

    pub fn is_ejected(&self, now: Instant) -> bool {
        self.ejected_until.is_some_and(|until| now < until)
    }
}

/// Where to go.
#[derive(Debug, Clone)]
pub struct Picked {
    pub id: AddressId,
    pub at: SocketAddr,
    /// Where the same instance may answer instead.
    pub also: Option<SocketAddr>,
    pub listing: Listing,
}

/// The addresses of one place.
#[derive(Debug, Default)]
pub struct LoadBalancer {
    /// By rising identifiers.
    addresses: Vec<Address>,
    ids: u64,
}

impl LoadBalancer {
    /// From now on these are the addresses. Those that stay keep what is known of them.
    pub fn replace(&mut self, now_known: &[Endpoint]) {
        let mut missing: HashSet<_> = now_known.iter().copied().collect();
        self.addresses.retain(|address| {
            let stays = missing.remove(&address.endpoint);
            if !stays {
                address.listing.end();
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
    /// picked when no other is left. One whose time is over is tried by one connection, while it stays ejected for
    /// the others. After one address the next is of the other family, if there is one (RFC 8305 §4).
    pub fn pick(&mut self, now: Instant, random: u64, tried: &[(AddressId, SocketAddr)]) -> Option<Picked> {
        let untried = |address: &&Address| tried.iter().all(|(id, _)| *id != address.id);
        let ready = |address: &&Address| untried(address) && !address.is_ejected(now);
        let of_other_family = |address: &&Address| {
            ready(address) && tried.last().is_some_and(|(_, last)| last.is_ipv4() != address.at.is_ipv4())
        };
        let id = self.lighter(random, of_other_family).or_else(|| self.lighter(random, ready));
        let id = id.or_else(|| self.lighter(random, untried))?;
        self.take(id, now, random)
    }

    /// This address, counted as in flight.
    pub fn take(&mut self, id: AddressId, now: Instant, random: u64) -> Option<Picked> {
        let address = self.known(id)?;
        address.in_flight += 1;
        if address.record.ejections > 0 && !address.is_ejected(now) {
            address.ejected_until = Some(now + ejected_for(address.record.ejections, random));
            address.on_trial = true;
        }
        Some(Picked { id, at: address.at, also: address.also(), listing: address.listing.clone() })
    }

    /// The one with less in flight of two random ones; of equals, either.
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

    /// The instance has answered at this one of its addresses. Says whether that is news.
    pub fn prefer(&mut self, id: AddressId, at: SocketAddr) -> bool {
        self.known(id).is_some_and(|address| std::mem::replace(&mut address.at, at) != at)
    }

    /// Somebody answers there as hoped. What was known before is given back, in case this is taken back.
    pub fn succeeded(&mut self, id: AddressId) -> Record {
        let Some(address) = self.known(id) else { return Record::default() };
        address.ejected_until = None;
        address.on_trial = false;
        std::mem::take(&mut address.record)
    }

    /// Nobody answered there as hoped, or a success was none after all, with the record from before it. Says for how
    /// long the address is ejected, if this ejects it. Failures of connections that were begun before an ejection do
    /// not make it longer.
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

    /// A connection there is over.
    pub fn left(&mut self, id: AddressId) {
        if let Some(address) = self.known(id) {
            address.in_flight = address.in_flight.saturating_sub(1);
        }
    }

    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Whether there are addresses, and each is ejected.
    pub fn all_ejected(&self, now: Instant) -> bool {
        !self.addresses.is_empty() && self.addresses.iter().all(|address| address.is_ejected(now))
    }

    fn known(&mut self, id: AddressId) -> Option<&mut Address> {
        let at = self.addresses.binary_search_by_key(&id, |address| address.id).ok()?;
        self.addresses.get_mut(at)
    }
}

/// Doubled each time, capped, and between three quarters and the whole of that, so that trials spread.
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
