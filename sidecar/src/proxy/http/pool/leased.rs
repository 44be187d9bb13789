//! One connection, lent to one request.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderMap, Request, Response};
use rustls::AlertDescription;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::Changes;
use crate::identity::credentials::is_valid_at;
use crate::observability::EndedWith;
use crate::proxy::http::body::RequestBody;
use crate::proxy::http::client::Http1Sender;
use crate::proxy::http::frames::Streams;
use crate::proxy::http::http2::client::{SendError, SendRequest};
use crate::proxy::http::incoming::{HttpError, Incoming};
use crate::proxy::http::interim::Interim;
use crate::proxy::http::preface::ServerSays;
use crate::proxy::http::replay::NotSent;
use crate::proxy::upstream;
use crate::proxy::upstream::load_balancer::{AddressId, Listing};

/// A request that was taken back before its answer counts as a stream for so long: a server that is asked and told
/// "never mind" in one breath may take that for an attack (rapid reset, CVE-2023-44487). So a connection has no more of
/// these, within this time, than the server allows streams.
pub(super) const RESET_COUNTS_FOR: Duration = Duration::from_secs(1);

/// So much before the other side may close an idle connection it is not used any more, or after half of its time.
const KEEP_ALIVE_MARGIN: Duration = Duration::from_secs(1);

/// A connection for one request.
pub(in crate::proxy::http) struct Leased {
    pub(super) sender: Sender,
    pub(super) home: Option<ReturnTo>,
    pub(super) permit: Arc<StreamPermit>,
}

pub(super) enum Sender {
    Shared(Arc<Shared>),
    Single(Option<Single>),
}

/// Where a single connection goes when it is free again.
pub(super) struct ReturnTo {
    pub(super) pool: Arc<dyn IdlePool>,
    /// Which of its epochs the connection is of.
    pub(super) era: u64,
}

/// A pool, whatever it is a pool of.
pub(super) trait IdlePool: Send + Sync {
    fn take(&self, era: u64, single: Single);
}

/// Counts a request at its address and its connection, until both its answer and its body are over.
#[derive(Debug)]
pub(in crate::proxy::http) struct StreamPermit {
    shared: Option<Arc<Shared>>,
    listing: Listing,
    answered: AtomicBool,
}

impl StreamPermit {
    /// For a connection of its own.
    pub(super) fn of(listing: &Listing) -> Arc<Self> {
        listing.request_begins();
        Arc::new(Self { shared: None, listing: listing.clone(), answered: AtomicBool::new(false) })
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.listing.request_ends();
        if let Some(shared) = &self.shared {
            shared.leave(self.answered.load(Ordering::Relaxed));
        }
    }
}

impl Leased {
    /// Sends a request. It comes back when nothing of it was sent, because the connection had ended before.
    pub(in crate::proxy::http) async fn send(
        &mut self,
        mut request: Request<RequestBody>,
        interim: &Interim,
    ) -> Result<Response<Incoming>, Unanswered> {
        let answered = match &mut self.sender {
            Sender::Shared(shared) => {
                request.body_mut().occupy(self.permit.clone());
                let sent = shared.sender.send(request, |told| interim.tell(told.status(), told.headers()));
                let broken = |SendError { error, unsent, is_unsent }| Unanswered {
                    error: if is_unsent { NotSent(error).into() } else { error.into() },
                    unsent: unsent.map(|request| *request),
                };
                sent.await.map(|response| response.map(Into::into)).map_err(broken)
            }
            Sender::Single(Some(single)) => {
                interim.listen(&mut request);
                single.sender.send(request).await
            }
            Sender::Single(None) => std::future::pending().await,
        };
        if let Ok(response) = &answered {
            self.permit.answered.store(true, Ordering::Relaxed);
            if let Sender::Single(Some(single)) = &mut self.sender {
                single.keep_alive = keep_alive(response.headers());
            }
        }
        answered
    }

    /// Who is at the other end.
    pub(in crate::proxy::http) fn end(&self) -> Option<&End> {
        match &self.sender {
            Sender::Shared(shared) => Some(&shared.end),
            Sender::Single(single) => single.as_ref().map(|single| &single.end),
        }
    }

    /// Cancelled when the connection is cut.
    pub(in crate::proxy::http) fn cut(&self) -> CancellationToken {
        self.end().map(|end| end.cut.clone()).unwrap_or_default()
    }

    /// Whether it was cut: what it has brought and was not taken yet is not taken any more.
    pub(in crate::proxy::http) fn is_cut(&self) -> bool {
        self.end().is_some_and(|end| end.cut.is_cancelled())
    }

    /// What ended a message on it, where an error says `with`: a connection that ends behind GOAWAY ends for its reason.
    pub(in crate::proxy::http) fn ended_with(&self, with: EndedWith) -> EndedWith {
        let goaway = self.end().filter(|_| self.is_shared()).and_then(|end| end.says.goaway_reason());
        match (with, goaway) {
            (EndedWith::Closed | EndedWith::Reset, Some(reason)) => EndedWith::GoAway(reason),
            (with, _) => with,
        }
    }

    /// The alert with which the other end broke off.
    pub(in crate::proxy::http) fn alert(&self) -> Option<AlertDescription> {
        self.end()?.alert.get().copied()
    }

    /// Whether it is a single connection that carried a request before.
    pub(in crate::proxy::http) fn was_kept(&self) -> bool {
        matches!(&self.sender, Sender::Single(Some(single)) if single.kept)
    }

    /// Whether a WebSocket may be asked for on it by an extended CONNECT.
    pub(in crate::proxy::http) fn takes_websockets(&self) -> bool {
        matches!(&self.sender, Sender::Shared(shared) if shared.end.says.takes_extended_connect())
    }

    /// It carried no request.
    pub(in crate::proxy::http) fn unused(self) {
        self.permit.answered.store(true, Ordering::Relaxed);
        self.give_back();
    }

    /// Whether requests on it are HTTP/2's.
    pub(in crate::proxy::http) fn is_shared(&self) -> bool {
        matches!(self.sender, Sender::Shared(_))
    }

    /// The response has ended and the request with it: the next may use it.
    pub(in crate::proxy::http) fn give_back(mut self) {
        if let (Sender::Single(single), Some(home)) = (&mut self.sender, &self.home)
            && let Some(single) = single.take()
        {
            home.pool.take(home.era, Single { kept: true, ..single });
        }
    }
}

impl fmt::Debug for Leased {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leased").field("shared", &self.is_shared()).finish_non_exhaustive()
    }
}

fn idle_for(keep_alive: Option<Duration>, idle_timeout: Duration) -> Duration {
    let kept = keep_alive.map(|kept| kept - KEEP_ALIVE_MARGIN.min(kept / 2));
    kept.map_or(idle_timeout, |kept| kept.min(idle_timeout))
}

/// How long an answer says that its connection is kept idle: `Keep-Alive: timeout=N`, in seconds.
fn keep_alive(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all("keep-alive").iter().filter_map(|value| value.to_str().ok());
    let parameters = values.flat_map(|value| value.split(',')).filter_map(|one| one.split_once('='));
    let timeouts = parameters.filter(|(name, _)| name.trim().eq_ignore_ascii_case("timeout"));
    timeouts
        .filter_map(|(_, seconds)| seconds.trim().trim_matches('"').parse().ok().map(Duration::from_secs))
        .min()
}

/// Why a request has no answer.
#[derive(Debug)]
pub(in crate::proxy::http) struct Unanswered {
    pub(in crate::proxy::http) error: HttpError,
    /// Of the request nothing was sent.
    pub(in crate::proxy::http) unsent: Option<Request<RequestBody>>,
}

/// A connection that many requests share.
pub(super) struct Shared {
    sender: SendRequest,
    pub(super) end: End,
    /// Requests on it now.
    open: AtomicUsize,
    /// Its last request's number among all: of equals, the one unused longest is next.
    pub(super) last: AtomicU64,
    /// When requests were taken back that still count.
    resets: Mutex<Vec<Instant>>,
    changes: Arc<Changes>,
}

impl Shared {
    pub(super) fn new(sender: SendRequest, end: End, changes: Arc<Changes>) -> Self {
        let (open, last, resets) = (AtomicUsize::new(0), AtomicU64::new(0), Mutex::default());
        Self { sender, end, open, last, resets, changes }
    }

    pub(super) fn is_usable(&self, now: OffsetDateTime) -> bool {
        self.is_open() && self.end.is_good(now)
    }

    pub(super) fn is_open(&self) -> bool {
        !self.sender.has_ended() && !self.end.says.goes_away()
    }

    /// Whether it is open and carries nothing.
    pub(super) fn is_idle(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0 && self.is_open()
    }

    /// Requests that count now.
    pub(super) fn requests(&self, now: Instant) -> usize {
        let mut resets = self.resets.lock().unwrap_or_else(PoisonError::into_inner);
        resets.retain(|at| now.saturating_duration_since(*at) < RESET_COUNTS_FOR);
        self.open.load(Ordering::Relaxed) + resets.len()
    }

    /// One more request.
    pub(super) fn enter(self: &Arc<Self>, listing: &Listing) -> Arc<StreamPermit> {
        self.open.fetch_add(1, Ordering::Relaxed);
        listing.request_begins();
        let (shared, listing) = (Some(self.clone()), listing.clone());
        Arc::new(StreamPermit { shared, listing, answered: AtomicBool::new(false) })
    }

    fn leave(&self, answered: bool) {
        if !answered {
            self.resets.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
        }
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.changes.room();
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("end", &self.end).finish_non_exhaustive()
    }
}

/// A connection that one request has at a time.
pub(in crate::proxy::http) struct Single {
    pub(super) sender: Http1Sender,
    pub(super) end: End,
    /// It has carried a request before.
    pub(super) kept: bool,
    /// As long as it may be idle by the word of the other side (RFC 2068 §19.7.1.1).
    keep_alive: Option<Duration>,
}

impl Single {
    pub(super) fn id(&self) -> AddressId {
        self.end.id
    }

    /// How long it may be idle: less than the other side keeps it, which may close it at any moment then.
    pub(super) fn idle_for(&self, idle_timeout: Duration) -> Duration {
        idle_for(self.keep_alive, idle_timeout)
    }

    pub(super) fn new(sender: Http1Sender, end: End) -> Self {
        Self { sender, end, kept: false, keep_alive: None }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    pub(super) fn is_usable(&self, now: OffsetDateTime) -> bool {
        !self.is_closed() && self.end.is_good(now)
    }
}

/// A connection just made.
pub(in crate::proxy::http) enum Dialed {
    Shared(SendRequest, End),
    Single(Http1Sender, End),
}

/// The other end of a connection.
#[derive(Debug, Clone)]
pub(in crate::proxy::http) struct End {
    pub(in crate::proxy::http) id: AddressId,
    pub(in crate::proxy::http) address: SocketAddr,
    /// ShutdownTokens then its certificate vouches for it.
    pub(in crate::proxy::http) vouched_until: Option<OffsetDateTime>,
    /// Whether it is still an address of its place.
    pub(in crate::proxy::http) listing: Listing,
    /// With which it broke off.
    pub(in crate::proxy::http) alert: Arc<OnceLock<AlertDescription>>,
    /// Cancelled when the connection is cut.
    pub(in crate::proxy::http) cut: CancellationToken,
    pub(in crate::proxy::http) says: Arc<ServerSays>,
    /// Of HTTP/2: what is known of its streams.
    pub(in crate::proxy::http) streams: Option<Arc<Streams>>,
}

impl End {
    /// Of a connection that is made to a leased address.
    pub(in crate::proxy::http) fn new(leased: &upstream::Leased, cut: CancellationToken) -> Self {
        Self {
            id: leased.id(),
            address: leased.address(),
            vouched_until: None,
            listing: leased.listing(),
            alert: Arc::default(),
            cut,
            says: Arc::default(),
            streams: None,
        }
    }

    /// Whether another request may use it.
    fn is_good(&self, now: OffsetDateTime) -> bool {
        !self.listing.is_over() && self.vouched_until.is_none_or(|until| is_valid_at(until, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(values: &[&'static str]) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("keep-alive", http::HeaderValue::from_static(value));
        }
        keep_alive(&headers)
    }

    #[test]
    fn the_shortest_time_that_is_said_is_the_one_that_holds() {
        for (values, seconds) in [
            (&["timeout=5"][..], Some(5)),
            (&["max=100, Timeout = 7"], Some(7)),
            (&["timeout=\"3\", max=10"], Some(3)),
            (&["timeout=9", "timeout=2"], Some(2)),
            (&["timeout=0"], Some(0)),
            (&["timeout"], None),
            (&["timeout=-1"], None),
            (&["timeout=18446744073709551616"], None),
            (&[], None),
        ] {
            assert_eq!(kept(values), seconds.map(Duration::from_secs), "{values:?}");
        }
    }

    #[test]
    fn a_connection_is_used_no_more_some_time_before_its_server_may_close_it() {
        let idle_timeout = Duration::from_secs(300);
        for (said, used) in [
            (None, idle_timeout),
            (Some(u64::MAX), idle_timeout),
            (Some(5), Duration::from_secs(4)),
            (Some(1), Duration::from_millis(500)),
            (Some(0), Duration::ZERO),
        ] {
            assert_eq!(idle_for(said.map(Duration::from_secs), idle_timeout), used, "{said:?}");
        }
    }
}
