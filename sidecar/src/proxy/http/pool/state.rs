//! The state of a pool, and the choice of a connection for a request.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use time::OffsetDateTime;

use super::endpoint::PoolEndpoint;
use super::lease::{Sender, StreamPermit};
use super::{ConnectionType, DialFailure, Kind};
use crate::proxy::upstream::Upstreams;
use crate::proxy::upstream::load_balancer::AddressId;

/// The connections of one epoch, per address.
pub(super) struct State<E> {
    epoch: Option<E>,
    /// Incremented with each new epoch.
    pub(super) epoch_number: u64,
    /// Version of the address list.
    version: u64,
    pub(super) endpoints: Vec<PoolEndpoint>,
    /// Total number of requests.
    requests: u64,
    /// Total number of dials that have ended.
    pub(super) dials: u64,
}

/// What a request needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct CheckoutRequest {
    pub(super) kind: Kind,
    pub(super) now: OffsetDateTime,
    /// Number of dials that had ended when the request arrived. An address whose dial has failed since is not dialed
    /// for it again.
    pub(super) dials: u64,
    /// The request has waited for long: one more address is dialed while others do not respond.
    pub(super) is_late: bool,
    /// Number of requests that wait for a connection.
    pub(super) waiting: usize,
    /// Most shared connections per address.
    pub(super) shared_max: usize,
}

/// The next step of a request.
pub(super) enum CheckoutStep {
    Ready(Sender, Arc<StreamPermit>),
    /// A single connection is dialed for this request.
    Dedicated(DialOrder, Arc<StreamPermit>),
    /// Wait until the pool changes.
    Wait,
    /// All connections have as many streams as they may have.
    Full,
    /// Every address has failed since the request arrived.
    Failed,
}

/// A dial to start.
#[derive(Debug, Clone, Copy)]
pub(super) struct DialOrder {
    pub(super) id: AddressId,
    pub(super) path: ConnectionType,
    pub(super) epoch_number: u64,
}

impl<E> Default for State<E> {
    fn default() -> Self {
        Self { epoch: None, epoch_number: 0, version: 0, endpoints: Vec::new(), requests: 0, dials: 0 }
    }
}

impl<E: Clone + PartialEq> State<E> {
    /// Applies a new epoch and a new address list.
    pub(super) fn take_over(&mut self, epoch: &E, upstreams: &Upstreams) {
        if self.epoch.as_ref() != Some(epoch) {
            (self.epoch, self.version) = (Some(epoch.clone()), 0);
            self.epoch_number += 1;
            self.endpoints.clear();
        }
        let version = upstreams.version();
        if self.version != version {
            self.version = version;
            self.endpoints.retain(|endpoint| !endpoint.handle.is_over());
            for address in upstreams.known() {
                if self.endpoints.iter().all(|endpoint| endpoint.id != address.id) {
                    self.endpoints.push(PoolEndpoint::new(address));
                }
            }
        }
    }
}

impl<E> State<E> {
    /// The next step of the request, and a dial to start: for this request, or to add capacity for the next ones.
    pub(super) fn next_step(&mut self, request: CheckoutRequest) -> (CheckoutStep, Option<DialOrder>) {
        let instant = Instant::now();
        let search = self.search(request, instant);
        self.requests += 1;
        let Some((_, at, offer)) = search.best else { return self.wait(request, &search) };
        let next_step = self.take(at, offer, request, instant).unwrap_or(CheckoutStep::Wait);
        // An address that failed recently is not dialed while another address is connected.
        let unconnected = search.dialable.filter(|((backs_off, _), _)| !backs_off).map(|(_, at)| at);
        let grows = || {
            let busy = |endpoint: &&PoolEndpoint| offer == Offer::Shared && endpoint.is_busy(instant);
            self.endpoints.get(at).filter(busy).map(|_| at)
        };
        let order = unconnected.or_else(grows).and_then(|at| self.order(at));
        (next_step, order)
    }

    fn take(
        &mut self,
        at: usize,
        offer: Offer,
        request: CheckoutRequest,
        instant: Instant,
    ) -> Option<CheckoutStep> {
        let (requests, epoch_number) = (self.requests, self.epoch_number);
        let endpoint = self.endpoints.get_mut(at)?;
        endpoint.last = requests;
        Some(match offer {
            Offer::Shared => {
                let shared = endpoint.least_busy(instant)?.clone();
                endpoint.used();
                shared.last.store(requests, Ordering::Relaxed);
                let permit = shared.enter(&endpoint.handle);
                CheckoutStep::Ready(Sender::Shared(shared), permit)
            }
            Offer::Idle => {
                let single = endpoint.take_idle()?;
                CheckoutStep::Ready(Sender::Single(Some(single)), StreamPermit::of(&endpoint.handle))
            }
            Offer::New => {
                let order = DialOrder { id: endpoint.id, path: endpoint.path(request.kind), epoch_number };
                CheckoutStep::Dedicated(order, StreamPermit::of(&endpoint.handle))
            }
        })
    }

    fn wait(
        &mut self,
        request: CheckoutRequest,
        search: &EndpointSearch,
    ) -> (CheckoutStep, Option<DialOrder>) {
        // While a dial is in progress, an address that failed recently is not dialed unless the request has waited
        // for long.
        let waits = search.is_dialing && !request.is_late && !search.needs_more;
        match search
            .dialable
            .filter(|((backs_off, _), _)| !(waits && *backs_off))
            .and_then(|(_, at)| self.order(at))
        {
            Some(order) => (CheckoutStep::Wait, Some(order)),
            None if search.is_dialing => (CheckoutStep::Wait, None),
            None if search.is_full => (CheckoutStep::Full, None),
            None => (CheckoutStep::Failed, None),
        }
    }

    fn order(&mut self, at: usize) -> Option<DialOrder> {
        let endpoint = self.endpoints.get_mut(at)?;
        endpoint.dialing += 1;
        Some(DialOrder { id: endpoint.id, path: ConnectionType::Shared, epoch_number: self.epoch_number })
    }

    fn search(&mut self, request: CheckoutRequest, instant: Instant) -> EndpointSearch {
        let mut search = EndpointSearch::default();
        for (at, endpoint) in self.endpoints.iter_mut().enumerate() {
            let (load, backs_off) = (endpoint.load(), endpoint.is_backing_off(request.kind, instant));
            let may_dial = endpoint.failed_since(request.dials, request.kind).is_none();
            let offer = match endpoint.path(request.kind) {
                ConnectionType::Shared
                    if endpoint.is_known(request.kind) && endpoint.has_room(request.now, instant) =>
                {
                    Some((false, Offer::Shared))
                }
                ConnectionType::Shared => {
                    search.without_room(at, endpoint, request, (backs_off, load));
                    // A connection that is open carries on while it is found out what the next is to speak.
                    let carries_on =
                        !endpoint.is_known(request.kind) && endpoint.has_idle(request.now, instant);
                    carries_on.then_some((false, Offer::Idle))
                }
                ConnectionType::Single
                    if request.kind != Kind::Fresh && endpoint.has_idle(request.now, instant) =>
                {
                    Some((false, Offer::Idle))
                }
                ConnectionType::Single => may_dial.then_some((backs_off, Offer::New)),
            };
            if let Some((backs_off, offer)) = offer
                && search.best.is_none_or(|(least, ..)| (backs_off, load) < least)
            {
                search.best = Some(((backs_off, load), at, offer));
            }
        }
        search
    }

    /// The failures of dials after dial number `dials`.
    pub(super) fn failed_since(&self, dials: u64, kind: Kind) -> Vec<DialFailure> {
        self.endpoints.iter().filter_map(|endpoint| endpoint.failed_since(dials, kind)).cloned().collect()
    }
}

/// Load-balancing key: whether the address failed recently, its active requests, and its last request. The smallest
/// is next.
type Load = (bool, (usize, u64));

/// The best candidates for one request.
#[derive(Default)]
struct EndpointSearch {
    best: Option<(Load, usize, Offer)>,
    /// The address at which a shared connection may be dialed.
    dialable: Option<(Load, usize)>,
    is_dialing: bool,
    /// The dials in progress provide too few streams for the waiting requests.
    needs_more: bool,
    is_full: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Offer {
    Shared,
    Idle,
    New,
}

impl EndpointSearch {
    fn without_room(&mut self, at: usize, endpoint: &PoolEndpoint, request: CheckoutRequest, load: Load) {
        let all = endpoint.shared_count() + endpoint.dialing;
        let is_dialing = endpoint.dialing > 0;
        let needs_more = is_dialing && endpoint.dials_too_few_for(request.waiting);
        self.is_dialing |= is_dialing;
        let is_known = endpoint.is_known(request.kind);
        if is_known && (all >= request.shared_max || (load.0 && endpoint.shared_count() > 0)) {
            self.is_full |= endpoint.shared_count() > 0;
        } else if (!is_dialing || needs_more)
            && endpoint.failed_since(request.dials, request.kind).is_none()
            && self.dialable.is_none_or(|(least, _)| load < least)
        {
            self.needs_more = needs_more;
            self.dialable = Some((load, at));
        }
    }
}
