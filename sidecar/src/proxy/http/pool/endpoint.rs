//! The connections to one address.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use super::lease::{Shared, Single};
use super::{ConnectionType, DialFailure, Kind};
use crate::proxy::http::failure::Failure;
use crate::proxy::upstream::KnownAddress;
use crate::proxy::upstream::load_balancer::{AddressHandle, AddressId, HttpVersion};

/// Most idle single connections per address. The most recently used one is used next.
const SINGLES_MAX: usize = 1_024;
/// Active requests per shared connection above which another one is opened. Measured: fewer connections put more
/// requests into one record and one system call.
const STREAMS_BEFORE_NEXT: usize = 48;
/// Connections opened for that reason; more are opened only when all streams that the server allows are used.
const SHARED_EARLY_MAX: usize = 16;
/// Most streams on one connection, even if the server allows more.
const STREAMS_MAX: usize = 256;
/// Streams assumed until the server sends SETTINGS (RFC 9113 §6.5.2).
const STREAMS_EXPECTED: usize = 100;
/// Delay after a failed dial before the next dial that no request waits for; doubled after each further failure.
const BACK_OFF_FIRST: Duration = Duration::from_millis(250);
/// Upper bound of that delay.
const BACK_OFF_MAX: Duration = Duration::from_secs(30);

/// How long an address without HTTP/2 is not dialed again while other addresses speak it.
const NO_HTTP2_FOR: Duration = Duration::from_secs(5);

/// Consecutive connections that end before a request was sent, after which the address counts as failed.
const UNUSED_MAX: u32 = 3;

/// One address and the connections to it.
pub(super) struct PoolEndpoint {
    pub(super) id: AddressId,
    pub(super) handle: AddressHandle,
    shared: Vec<Arc<Shared>>,
    /// Idle connections, longest idle first, each with its expiry.
    idle: VecDeque<(Single, Instant)>,
    /// Dials of shared connections in progress.
    pub(super) dialing: usize,
    /// Sequence number of its last request. Among equals, the least recently used is next.
    pub(super) last: u64,
    failures: u32,
    back_off_until: Option<Instant>,
    /// The last failed dial, and its sequence number.
    pub(super) failed: Option<(u64, DialFailure)>,
    /// The last dial that required HTTP/2 and did not find it, and its sequence number.
    no_http2: Option<(u64, DialFailure)>,
    /// Not dialed for HTTP/2 before this time while other addresses are available.
    no_http2_until: Option<Instant>,
    /// Streams that its most recent connection allowed.
    streams: usize,
    /// Sequence number of the last successful dial.
    dial: u64,
    /// Consecutive connections that ended before a request was sent.
    unused: u32,
}

impl PoolEndpoint {
    pub(super) fn new(KnownAddress { id, handle }: KnownAddress) -> Self {
        Self {
            id,
            handle,
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

    /// The kind of connection for a request to this address. If its HTTP version is unknown, dialing a shared
    /// connection detects it.
    pub(super) fn path(&self, kind: Kind) -> ConnectionType {
        match (kind, self.handle.http_version()) {
            (Kind::Single | Kind::Fresh, _) | (Kind::Any, Some(HttpVersion::Http1)) => ConnectionType::Single,
            (Kind::Shared, _) | (Kind::Any, Some(HttpVersion::Http2) | None) => ConnectionType::Shared,
        }
    }

    /// Whether the connection kind for these requests is known.
    pub(super) fn is_known(&self, kind: Kind) -> bool {
        kind != Kind::Any || self.handle.http_version().is_some()
    }

    /// The load-balancing key: active requests, then the sequence number of the last request.
    pub(super) fn load(&self) -> (usize, u64) {
        (self.handle.requests(), self.last)
    }

    /// Whether a shared connection has capacity for another request.
    pub(super) fn has_room(&mut self, now: OffsetDateTime, instant: Instant) -> bool {
        self.forget_unusable(now, instant);
        let fits = |shared: &Arc<Shared>| {
            shared.requests(instant) < shared.end.server_state.streams_max().min(STREAMS_MAX)
        };
        self.least_busy(instant).is_some_and(fits)
    }

    /// The shared connection with the fewest requests.
    pub(super) fn least_busy(&self, instant: Instant) -> Option<&Arc<Shared>> {
        let order = |shared: &&Arc<Shared>| (shared.requests(instant), shared.last.load(Ordering::Relaxed));
        self.shared.iter().min_by_key(order)
    }

    /// Whether every shared connection is busy enough that another one is worth opening.
    pub(super) fn is_busy(&self, instant: Instant) -> bool {
        let busy = |shared: &Arc<Shared>| shared.requests(instant) >= STREAMS_BEFORE_NEXT;
        self.dialing == 0 && self.shared.len() < SHARED_EARLY_MAX && self.shared.iter().all(busy)
    }

    pub(super) fn shared_count(&self) -> usize {
        self.shared.len()
    }

    /// Connections without an active request.
    pub(super) fn idle_count(&self) -> usize {
        let idle = self.idle.iter().filter(|(single, _)| !single.is_closed()).count();
        idle + self.shared.iter().filter(|shared| shared.is_idle()).count()
    }

    /// Whether the dials in progress provide too few streams for `waiting` requests. While the HTTP version is
    /// unknown, one dial is enough.
    pub(super) fn dials_too_few_for(&self, waiting: usize) -> bool {
        self.handle.http_version().is_some() && waiting > self.dialing.saturating_mul(self.streams)
    }

    /// Removes unusable connections. A server that closes every connection at once is not dialed repeatedly.
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

    pub(super) fn used(&mut self) {
        self.unused = 0;
    }

    /// Adds the connection that dial number `dial` opened.
    pub(super) fn keep_shared(&mut self, shared: Shared, dial: u64) {
        self.dial = dial;
        self.streams = shared.end.server_state.streams_max().min(STREAMS_MAX);
        self.shared.push(Arc::new(shared));
    }

    /// Whether an idle single connection is usable. Closes those that are not.
    pub(super) fn has_idle(&mut self, now: OffsetDateTime, instant: Instant) -> bool {
        while self.idle.back().is_some_and(|(single, until)| *until <= instant || !single.is_usable(now)) {
            self.idle.pop_back();
        }
        !self.idle.is_empty()
    }

    /// The most recently used single connection.
    pub(super) fn take_idle(&mut self) -> Option<Single> {
        self.idle.pop_back().map(|(single, _)| single)
    }

    pub(super) fn keep_idle(&mut self, single: Single, until: Instant) {
        if self.idle.len() < SINGLES_MAX {
            self.idle.push_back((single, until));
        }
    }

    /// Closes unusable connections.
    pub(super) fn clean(&mut self, now: OffsetDateTime, instant: Instant) {
        self.forget_unusable(now, instant);
        self.idle.retain(|(single, until)| *until > instant && single.is_usable(now));
    }

    pub(super) fn is_backing_off(&self, kind: Kind, instant: Instant) -> bool {
        let no_http2_until = self.no_http2_until.filter(|_| kind == Kind::Shared);
        self.back_off_until.max(no_http2_until).is_some_and(|until| instant < until)
    }

    /// Whether an open connection is idle or has capacity.
    pub(super) fn is_open(&self) -> bool {
        self.speaks_http2() || self.idle.iter().any(|(single, _)| !single.is_closed())
    }

    /// Whether an HTTP/2 connection is open.
    pub(super) fn speaks_http2(&self) -> bool {
        self.shared.iter().any(|shared| shared.is_open())
    }

    /// Dial number `dial` found no HTTP/2.
    pub(super) fn has_no_http2(&mut self, dial: u64, failure: DialFailure, instant: Instant) {
        self.no_http2 = Some((dial, failure));
        self.no_http2_until = Some(instant + NO_HTTP2_FOR);
    }

    /// The failure of a dial for this kind after dial number `dials`.
    pub(super) fn failed_since(&self, dials: u64, kind: Kind) -> Option<&DialFailure> {
        let no_http2 = self.no_http2.as_ref().filter(|_| kind == Kind::Shared);
        [self.failed.as_ref(), no_http2]
            .into_iter()
            .flatten()
            .find(|(at, _)| *at > dials)
            .map(|(_, failure)| failure)
    }

    pub(super) fn end_dial(&mut self, path: ConnectionType) {
        if path == ConnectionType::Shared {
            self.dialing = self.dialing.saturating_sub(1);
        }
    }

    pub(super) fn succeeded(&mut self) {
        (self.failures, self.back_off_until) = (0, None);
    }

    /// Dial number `dial` failed.
    pub(super) fn fails(&mut self, dial: u64, failure: DialFailure, instant: Instant) {
        let doubled = BACK_OFF_FIRST.saturating_mul(2_u32.saturating_pow(self.failures));
        self.failures = self.failures.saturating_add(1);
        self.back_off_until = Some(instant + doubled.min(BACK_OFF_MAX));
        self.failed = Some((dial, failure));
    }
}
