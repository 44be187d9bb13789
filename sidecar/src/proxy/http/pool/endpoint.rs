//! The connections to one address.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use super::leased::{Shared, Single};
use super::{DialFailure, Kind, Path};
use crate::proxy::http::failure::Failure;
use crate::proxy::upstream::KnownAddress;
use crate::proxy::upstream::load_balancer::{AddressId, Listing, Speaks};

/// Idle single connections kept to one address; the one used last is used next.
const SINGLES_MAX: usize = 1_024;
/// Measured: fewer connections carry more requests in one record and one system call. So a further one is opened when
/// each has so many,
const STREAMS_BEFORE_NEXT: usize = 48;
/// but no more than these, unless all that the server allows are taken.
const SHARED_EARLY_MAX: usize = 16;
/// On one connection, whatever the server allows.
const STREAMS_MAX: usize = 256;
/// What a server allows, before it says so (RFC 9113 §6.5.2).
const STREAMS_EXPECTED: usize = 100;
/// After a failed dial the next one that nobody waits for comes so much later, and twice as long each time,
const BACK_OFF_FIRST: Duration = Duration::from_millis(250);
/// but never longer.
const BACK_OFF_MAX: Duration = Duration::from_secs(30);

/// An address that speaks no HTTP/2 is asked again after so long beside those that do.
const NO_HTTP2_FOR: Duration = Duration::from_secs(5);

/// Connections in a row that end before a request was sent on them, after which the address has failed.
const UNUSED_MAX: u32 = 3;

/// One address and the connections to it.
pub(super) struct Endpoint {
    pub(super) id: AddressId,
    pub(super) listing: Listing,
    shared: Vec<Arc<Shared>>,
    /// Those that were idle longest first, each with the time at which it is given up.
    idle: VecDeque<(Single, Instant)>,
    /// Dials of shared connections under way.
    pub(super) dialing: usize,
    /// Its last request's number among all: of equals, the one unused longest is next.
    pub(super) last: u64,
    failures: u32,
    back_off_until: Option<Instant>,
    /// How the last dial failed, and its number among all dials.
    pub(super) failed: Option<(u64, DialFailure)>,
    /// The last dial that found no HTTP/2 where only that would do, and its number among all dials.
    no_http2: Option<(u64, DialFailure)>,
    /// It is not asked again beside other addresses before.
    no_http2_until: Option<Instant>,
    /// Streams that its last connection allowed.
    streams: usize,
    /// The number of the last dial that went well.
    dial: u64,
    /// Connections in a row that ended before a request was sent on them.
    unused: u32,
}

impl Endpoint {
    pub(super) fn new(KnownAddress { id, listing }: KnownAddress) -> Self {
        Self {
            id,
            listing,
            shared: Vec::new(),
            idle: VecDeque::new(),
            dialing: 0,
            last: 0,
            failures: 0,
            back_off_until: None,
            failed: None,
            no_http2: None,
            no_http2_until: None,
            streams: STREAMS_EXPECTED,
            dial: 0,
            unused: 0,
        }
    }

    /// On which kind of connection a request goes here. Where it is not known yet what the address speaks, the dial of a
    /// shared one finds out.
    pub(super) fn path(&self, kind: Kind) -> Path {
        match (kind, self.listing.speaks()) {
            (Kind::Single | Kind::Fresh, _) | (Kind::Any, Some(Speaks::Http1)) => Path::Single,
            (Kind::Shared, _) | (Kind::Any, Some(Speaks::Http2) | None) => Path::Shared,
        }
    }

    /// Whether it is known what carries requests of this kind here.
    pub(super) fn is_known(&self, kind: Kind) -> bool {
        kind != Kind::Any || self.listing.speaks().is_some()
    }

    /// What decides which address is next: requests under way, and whose last one is longest ago.
    pub(super) fn load(&self) -> (usize, u64) {
        (self.listing.requests(), self.last)
    }

    /// Whether one more request fits on a shared connection.
    pub(super) fn has_room(&mut self, now: OffsetDateTime, instant: Instant) -> bool {
        self.forget_unusable(now, instant);
        let fits =
            |shared: &Arc<Shared>| shared.requests(instant) < shared.end.says.streams_max().min(STREAMS_MAX);
        self.least_busy(instant).is_some_and(fits)
    }

    /// The shared connection with the fewest requests.
    pub(super) fn least_busy(&self, instant: Instant) -> Option<&Arc<Shared>> {
        let order = |shared: &&Arc<Shared>| (shared.requests(instant), shared.last.load(Ordering::Relaxed));
        self.shared.iter().min_by_key(order)
    }

    /// Whether one more connection would carry better what these carry.
    pub(super) fn is_busy(&self, instant: Instant) -> bool {
        let busy = |shared: &Arc<Shared>| shared.requests(instant) >= STREAMS_BEFORE_NEXT;
        self.dialing == 0 && self.shared.len() < SHARED_EARLY_MAX && self.shared.iter().all(busy)
    }

    pub(super) fn shared_count(&self) -> usize {
        self.shared.len()
    }

    /// Connections that carry nothing now.
    pub(super) fn idle_count(&self) -> usize {
        let idle = self.idle.iter().filter(|(single, _)| !single.is_closed()).count();
        idle + self.shared.iter().filter(|shared| shared.is_idle()).count()
    }

    /// Whether what is being dialed is too little for so many who wait. One dial is enough to find out what is spoken.
    pub(super) fn dials_too_few_for(&self, waiting: usize) -> bool {
        self.listing.speaks().is_some() && waiting > self.dialing.saturating_mul(self.streams)
    }

    /// A server that ends each connection at once is not dialed again and again.
    fn forget_unusable(&mut self, now: OffsetDateTime, instant: Instant) {
        let mut unused = 0;
        self.shared.retain(|shared| {
            let is_usable = shared.is_usable(now);
            unused += u32::from(!is_usable && shared.last.load(Ordering::Relaxed) == 0);
            is_usable
        });
        self.unused += unused;
        if self.unused >= UNUSED_MAX {
            self.unused = 0;
            let detail = format!("{UNUSED_MAX} connections in a row were ended before a request was sent");
            self.fails(self.dial, DialFailure::new(Failure::broken(detail), None), instant);
        }
    }

    /// A request is sent on a shared connection.
    pub(super) fn used(&mut self) {
        self.unused = 0;
    }

    /// Keeps what the dial with this number has brought.
    pub(super) fn keep_shared(&mut self, shared: Shared, dial: u64) {
        self.dial = dial;
        self.streams = shared.end.says.streams_max().min(STREAMS_MAX);
        self.shared.push(Arc::new(shared));
    }

    /// Whether there is a single connection that may be used; what may not is closed.
    pub(super) fn has_idle(&mut self, now: OffsetDateTime, instant: Instant) -> bool {
        while self.idle.back().is_some_and(|(single, until)| *until <= instant || !single.is_usable(now)) {
            self.idle.pop_back();
        }
        !self.idle.is_empty()
    }

    /// The single connection used last.
    pub(super) fn take_idle(&mut self) -> Option<Single> {
        self.idle.pop_back().map(|(single, _)| single)
    }

    pub(super) fn keep_idle(&mut self, single: Single, until: Instant) {
        if self.idle.len() < SINGLES_MAX {
            self.idle.push_back((single, until));
        }
    }

    /// Closes what is of no use any more.
    pub(super) fn clean(&mut self, now: OffsetDateTime, instant: Instant) {
        self.forget_unusable(now, instant);
        self.idle.retain(|(single, until)| *until > instant && single.is_usable(now));
    }

    pub(super) fn is_backing_off(&self, kind: Kind, instant: Instant) -> bool {
        let no_http2_until = self.no_http2_until.filter(|_| kind == Kind::Shared);
        self.back_off_until.max(no_http2_until).is_some_and(|until| instant < until)
    }

    /// Whether a connection to it is open that carries nothing, or may carry more.
    pub(super) fn is_open(&self) -> bool {
        self.speaks_http2() || self.idle.iter().any(|(single, _)| !single.is_closed())
    }

    /// Whether a connection of HTTP/2 to it is open.
    pub(super) fn speaks_http2(&self) -> bool {
        self.shared.iter().any(|shared| shared.is_open())
    }

    /// The dial with this number found no HTTP/2.
    pub(super) fn has_no_http2(&mut self, dial: u64, failure: DialFailure, instant: Instant) {
        self.no_http2 = Some((dial, failure));
        self.no_http2_until = Some(instant + NO_HTTP2_FOR);
    }

    /// How a dial for this kind has failed since there had been so many.
    pub(super) fn failed_since(&self, dials: u64, kind: Kind) -> Option<&DialFailure> {
        let no_http2 = self.no_http2.as_ref().filter(|_| kind == Kind::Shared);
        [self.failed.as_ref(), no_http2]
            .into_iter()
            .flatten()
            .find(|(at, _)| *at > dials)
            .map(|(_, failure)| failure)
    }

    pub(super) fn end_dial(&mut self, path: Path) {
        if path == Path::Shared {
            self.dialing = self.dialing.saturating_sub(1);
        }
    }

    pub(super) fn succeeded(&mut self) {
        (self.failures, self.back_off_until) = (0, None);
    }

    /// The dial with this number failed.
    pub(super) fn fails(&mut self, dial: u64, failure: DialFailure, instant: Instant) {
        let doubled = BACK_OFF_FIRST.saturating_mul(2_u32.saturating_pow(self.failures));
        self.failures = self.failures.saturating_add(1);
        self.back_off_until = Some(instant + doubled.min(BACK_OFF_MAX));
        self.failed = Some((dial, failure));
    }
}
