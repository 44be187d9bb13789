//! What a pool holds at one moment, and what a request does next.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use time::OffsetDateTime;

use super::endpoint::Endpoint;
use super::leased::{Sender, StreamPermit};
use super::{DialFailure, Kind, Path};
use crate::proxy::upstream::Upstreams;
use crate::proxy::upstream::load_balancer::AddressId;

/// The connections of one epoch, address by address.
pub(super) struct State<E> {
    epoch: Option<E>,
    /// Which epoch this is.
    pub(super) era: u64,
    /// Of the addresses.
    version: u64,
    pub(super) endpoints: Vec<Endpoint>,
    /// Requests so far.
    requests: u64,
    /// Dials that have ended so far.
    pub(super) dials: u64,
}

/// What a request wants.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask {
    pub(super) kind: Kind,
    pub(super) now: OffsetDateTime,
    /// Dials that had ended when it came: an address where one has failed since is not dialed for it again.
    pub(super) dials: u64,
    /// It has waited for long: one more address is tried beside those that do not answer.
    pub(super) is_late: bool,
    /// Requests that wait for a connection.
    pub(super) waiting: usize,
    /// Shared connections to one address.
    pub(super) shared_max: usize,
}

/// What it does next.
pub(super) enum Turn {
    Ready(Sender, Arc<StreamPermit>),
    /// It waits for a connection of its own, which is dialed.
    Own(Order, Arc<StreamPermit>),
    /// It waits until something changes.
    Wait,
    /// All connections have all requests that they may have.
    Full,
    /// Every address has failed since it came.
    Failed,
}

/// A dial to begin.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    pub(super) id: AddressId,
    pub(super) path: Path,
    pub(super) era: u64,
}

impl<E> Default for State<E> {
    fn default() -> Self {
        Self { epoch: None, era: 0, version: 0, endpoints: Vec::new(), requests: 0, dials: 0 }
    }
}

impl<E: Clone + PartialEq> State<E> {
    /// Takes over what has changed: under what connections are made, and the addresses.
    pub(super) fn take_over(&mut self, epoch: &E, upstreams: &Upstreams) {
        if self.epoch.as_ref() != Some(epoch) {
            (self.epoch, self.version) = (Some(epoch.clone()), 0);
            self.era += 1;
            self.endpoints.clear();
        }
        let version = upstreams.version();
        if self.version != version {
            self.version = version;
            self.endpoints.retain(|endpoint| !endpoint.listing.is_over());
            for address in upstreams.known() {
                if self.endpoints.iter().all(|endpoint| endpoint.id != address.id) {
                    self.endpoints.push(Endpoint::new(address));
                }
            }
        }
    }
}

impl<E> State<E> {
    /// What the request does, and a dial that is to begin: for it, or so that the next requests have one more connection.
    pub(super) fn turn(&mut self, ask: Ask) -> (Turn, Option<Order>) {
        let instant = Instant::now();
        let found = self.find(ask, instant);
        self.requests += 1;
        let Some((_, at, offer)) = found.best else { return self.wait(ask, &found) };
        let turn = self.take(at, offer, ask, instant).unwrap_or(Turn::Wait);
        // Nobody waits for an address that failed lately, as long as another will do.
        let unconnected = found.dialable.filter(|((backs_off, _), _)| !backs_off).map(|(_, at)| at);
        let grows = || {
            let busy = |endpoint: &&Endpoint| offer == Offer::Shared && endpoint.is_busy(instant);
            self.endpoints.get(at).filter(busy).map(|_| at)
        };
        let order = unconnected.or_else(grows).and_then(|at| self.order(at));
        (turn, order)
    }

    fn take(&mut self, at: usize, offer: Offer, ask: Ask, instant: Instant) -> Option<Turn> {
        let (requests, era) = (self.requests, self.era);
        let endpoint = self.endpoints.get_mut(at)?;
        endpoint.last = requests;
        Some(match offer {
            Offer::Shared => {
                let shared = endpoint.least_busy(instant)?.clone();
                endpoint.used();
                shared.last.store(requests, Ordering::Relaxed);
                let permit = shared.enter(&endpoint.listing);
                Turn::Ready(Sender::Shared(shared), permit)
            }
            Offer::Idle => {
                let single = endpoint.take_idle()?;
                Turn::Ready(Sender::Single(Some(single)), StreamPermit::of(&endpoint.listing))
            }
            Offer::New => {
                let order = Order { id: endpoint.id, path: endpoint.path(ask.kind), era };
                Turn::Own(order, StreamPermit::of(&endpoint.listing))
            }
        })
    }

    fn wait(&mut self, ask: Ask, found: &Found) -> (Turn, Option<Order>) {
        // Beside a dial under way no address is tried that failed lately, unless that one takes long.
        let waits = found.is_dialing && !ask.is_late && !found.needs_more;
        match found
            .dialable
            .filter(|((backs_off, _), _)| !(waits && *backs_off))
            .and_then(|(_, at)| self.order(at))
        {
            Some(order) => (Turn::Wait, Some(order)),
            None if found.is_dialing => (Turn::Wait, None),
            None if found.is_full => (Turn::Full, None),
            None => (Turn::Failed, None),
        }
    }

    fn order(&mut self, at: usize) -> Option<Order> {
        let endpoint = self.endpoints.get_mut(at)?;
        endpoint.dialing += 1;
        Some(Order { id: endpoint.id, path: Path::Shared, era: self.era })
    }

    fn find(&mut self, ask: Ask, instant: Instant) -> Found {
        let mut found = Found::default();
        for (at, endpoint) in self.endpoints.iter_mut().enumerate() {
            let (load, backs_off) = (endpoint.load(), endpoint.is_backing_off(ask.kind, instant));
            let may_dial = endpoint.failed_since(ask.dials, ask.kind).is_none();
            let offer = match endpoint.path(ask.kind) {
                Path::Shared if endpoint.is_known(ask.kind) && endpoint.has_room(ask.now, instant) => {
                    Some((false, Offer::Shared))
                }
                Path::Shared => {
                    found.without_room(at, endpoint, ask, (backs_off, load));
                    // A connection that is open carries on while it is found out what the next is to speak.
                    let carries_on = !endpoint.is_known(ask.kind) && endpoint.has_idle(ask.now, instant);
                    carries_on.then_some((false, Offer::Idle))
                }
                Path::Single if ask.kind != Kind::Fresh && endpoint.has_idle(ask.now, instant) => {
                    Some((false, Offer::Idle))
                }
                Path::Single => may_dial.then_some((backs_off, Offer::New)),
            };
            if let Some((backs_off, offer)) = offer
                && found.best.is_none_or(|(least, ..)| (backs_off, load) < least)
            {
                found.best = Some(((backs_off, load), at, offer));
            }
        }
        found
    }

    /// How the addresses failed where a dial has failed since there had been so many.
    pub(super) fn failed_since(&self, dials: u64, kind: Kind) -> Vec<DialFailure> {
        self.endpoints.iter().filter_map(|endpoint| endpoint.failed_since(dials, kind)).cloned().collect()
    }
}

/// Whether an address failed lately, the requests under way there, and when it had its last one: the least is next.
type Load = (bool, (usize, u64));

/// What the addresses have for one request.
#[derive(Default)]
struct Found {
    best: Option<(Load, usize, Offer)>,
    /// Where a shared connection may be dialed.
    dialable: Option<(Load, usize)>,
    is_dialing: bool,
    /// What is being dialed is not enough for all who wait.
    needs_more: bool,
    is_full: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Offer {
    Shared,
    Idle,
    New,
}

impl Found {
    fn without_room(&mut self, at: usize, endpoint: &Endpoint, ask: Ask, load: Load) {
        let all = endpoint.shared_count() + endpoint.dialing;
        let is_dialing = endpoint.dialing > 0;
        let needs_more = is_dialing && endpoint.dials_too_few_for(ask.waiting);
        self.is_dialing |= is_dialing;
        let is_known = endpoint.is_known(ask.kind);
        if is_known && (all >= ask.shared_max || (load.0 && endpoint.shared_count() > 0)) {
            self.is_full |= endpoint.shared_count() > 0;
        } else if (!is_dialing || needs_more)
            && endpoint.failed_since(ask.dials, ask.kind).is_none()
            && self.dialable.is_none_or(|(least, _)| load < least)
        {
            self.needs_more = needs_more;
            self.dialable = Some((load, at));
        }
    }
}
