//! One pooled connection, leased to one request.

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
use crate::proxy::http::preface::ServerState;
use crate::proxy::http::replay::NotSent;
use crate::proxy::upstream;
use crate::proxy::upstream::load_balancer::{AddressHandle, AddressId};

/// How long a cancelled request counts as an active stream: a server that receives request and reset together may
/// take them for an attack (rapid reset, CVE-2023-44487). Within this time a connection has no more of these than the
/// server allows streams.
pub(super) const RESET_COUNTS_FOR: Duration = Duration::from_secs(1);

/// A connection is not reused this long before the server may close it, or half of its keep-alive time if that is
/// shorter.
const KEEP_ALIVE_MARGIN: Duration = Duration::from_secs(1);

/// A connection leased to one request.
pub(in crate::proxy::http) struct ConnectionLease {
    pub(super) sender: Sender,
    pub(super) return_to: Option<ReturnTo>,
    pub(super) permit: Arc<StreamPermit>,
}

pub(super) enum Sender {
    Shared(Arc<Shared>),
    Single(Option<Single>),
}

/// The pool that a single connection returns to.
pub(super) struct ReturnTo {
    pub(super) pool: Arc<dyn IdlePool>,
    /// The epoch in which the connection was opened.
    pub(super) epoch_number: u64,
}

/// A pool that takes idle connections back, independent of its target type.
pub(super) trait IdlePool: Send + Sync {
    fn take(&self, epoch_number: u64, single: Single);
}

/// Counts a request at its address and connection until both its response and its body have ended.
#[derive(Debug)]
pub(in crate::proxy::http) struct StreamPermit {
    shared: Option<Arc<Shared>>,
    handle: AddressHandle,
    answered: AtomicBool,
}

impl StreamPermit {
    /// For a request on a single connection.
    pub(super) fn of(handle: &AddressHandle) -> Arc<Self> {
        handle.request_begins();
        Arc::new(Self { shared: None, handle: handle.clone(), answered: AtomicBool::new(false) })
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.handle.request_ends();
        if let Some(shared) = &self.shared {
            shared.leave(self.answered.load(Ordering::Relaxed));
        }
    }
}

impl ConnectionLease {
    /// Sends a request. The request is returned if nothing of it was sent because the connection had ended.
    pub(in crate::proxy::http) async fn send(
        &mut self,
        mut request: Request<RequestBody>,
        interim: &Interim,
    ) -> Result<Response<Incoming>, Unanswered> {
        let answered = match &mut self.sender {
            Sender::Shared(shared) => {
                request.body_mut().occupy(self.permit.clone());
                let sent = shared
                    .sender
                    .send(request, |response| interim.forward(response.status(), response.headers()));
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

    /// The server side of the connection.
    pub(in crate::proxy::http) fn end(&self) -> Option<&ServerEnd> {
        match &self.sender {
            Sender::Shared(shared) => Some(&shared.end),
            Sender::Single(single) => single.as_ref().map(|single| &single.end),
        }
    }

    /// Cancelled when the connection is terminated.
    pub(in crate::proxy::http) fn termination(&self) -> CancellationToken {
        self.end().map(|end| end.termination.clone()).unwrap_or_default()
    }

    /// Whether the connection was terminated. Data received and not yet read is then discarded.
    pub(in crate::proxy::http) fn is_terminated(&self) -> bool {
        self.end().is_some_and(|end| end.termination.is_cancelled())
    }

    /// How a message ended, given the error `with`. A connection that closed after GOAWAY ended with the GOAWAY code.
    pub(in crate::proxy::http) fn ended_with(&self, with: EndedWith) -> EndedWith {
        let goaway = self.end().filter(|_| self.is_shared()).and_then(|end| end.server_state.goaway_reason());
        match (with, goaway) {
            (EndedWith::Closed | EndedWith::Reset, Some(reason)) => EndedWith::GoAway(reason),
            (with, _) => with,
        }
    }

    /// The TLS alert that the peer ended the connection with.
    pub(in crate::proxy::http) fn alert(&self) -> Option<AlertDescription> {
        self.end()?.alert.get().copied()
    }

    /// Whether this single connection carried a request before.
    pub(in crate::proxy::http) fn was_used(&self) -> bool {
        matches!(&self.sender, Sender::Single(Some(single)) if single.was_used)
    }

    /// Whether the server accepts extended CONNECT for WebSockets (RFC 8441 §3).
    pub(in crate::proxy::http) fn takes_websockets(&self) -> bool {
        matches!(&self.sender, Sender::Shared(shared) if shared.end.server_state.takes_extended_connect())
    }

    /// Returns the connection to its pool without having sent a request.
    pub(in crate::proxy::http) fn unused(self) {
        self.permit.answered.store(true, Ordering::Relaxed);
        self.give_back();
    }

    /// Whether this is an HTTP/2 connection.
    pub(in crate::proxy::http) fn is_shared(&self) -> bool {
        matches!(self.sender, Sender::Shared(_))
    }

    /// Returns the connection to its pool after request and response have ended.
    pub(in crate::proxy::http) fn give_back(mut self) {
        if let (Sender::Single(single), Some(return_to)) = (&mut self.sender, &self.return_to)
            && let Some(single) = single.take()
        {
            return_to.pool.take(return_to.epoch_number, Single { was_used: true, ..single });
        }
    }
}

impl fmt::Debug for ConnectionLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leased").field("shared", &self.is_shared()).finish_non_exhaustive()
    }
}

fn idle_for(keep_alive: Option<Duration>, idle_timeout: Duration) -> Duration {
    let was_used = keep_alive.map(|was_used| was_used - KEEP_ALIVE_MARGIN.min(was_used / 2));
    was_used.map_or(idle_timeout, |was_used| was_used.min(idle_timeout))
}

/// How long the server keeps the connection idle: `Keep-Alive: timeout=N`, in seconds.
fn keep_alive(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all("keep-alive").iter().filter_map(|value| value.to_str().ok());
    let parameters = values.flat_map(|value| value.split(',')).filter_map(|one| one.split_once('='));
    let timeouts = parameters.filter(|(name, _)| name.trim().eq_ignore_ascii_case("timeout"));
    timeouts
        .filter_map(|(_, seconds)| seconds.trim().trim_matches('"').parse().ok().map(Duration::from_secs))
        .min()
}

/// Why a request has no response.
#[derive(Debug)]
pub(in crate::proxy::http) struct Unanswered {
    pub(in crate::proxy::http) error: HttpError,
    /// The request, if nothing of it was sent.
    pub(in crate::proxy::http) unsent: Option<Request<RequestBody>>,
}

/// An HTTP/2 connection, shared by concurrent requests.
pub(super) struct Shared {
    sender: SendRequest,
    pub(super) end: ServerEnd,
    /// Active requests.
    open: AtomicUsize,
    /// Sequence number of its last request. Among equals, the least recently used is next.
    pub(super) last: AtomicU64,
    /// Times of cancellations that still count as active ([`RESET_COUNTS_FOR`]).
    resets: Mutex<Vec<Instant>>,
    changes: Arc<Changes>,
}

impl Shared {
    pub(super) fn new(sender: SendRequest, end: ServerEnd, changes: Arc<Changes>) -> Self {
        let (open, last, resets) = (AtomicUsize::new(0), AtomicU64::new(0), Mutex::default());
        Self { sender, end, open, last, resets, changes }
    }

    pub(super) fn is_usable(&self, now: OffsetDateTime) -> bool {
        self.is_open() && self.end.is_reusable(now)
    }

    pub(super) fn is_open(&self) -> bool {
        !self.sender.has_ended() && !self.end.server_state.goes_away()
    }

    /// Whether it is open and has no active request.
    pub(super) fn is_idle(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0 && self.is_open()
    }

    /// Active requests, including recently cancelled ones.
    pub(super) fn requests(&self, now: Instant) -> usize {
        let mut resets = self.resets.lock().unwrap_or_else(PoisonError::into_inner);
        resets.retain(|at| now.saturating_duration_since(*at) < RESET_COUNTS_FOR);
        self.open.load(Ordering::Relaxed) + resets.len()
    }

    /// Counts another request.
    pub(super) fn enter(self: &Arc<Self>, handle: &AddressHandle) -> Arc<StreamPermit> {
        self.open.fetch_add(1, Ordering::Relaxed);
        handle.request_begins();
        let (shared, handle) = (Some(self.clone()), handle.clone());
        Arc::new(StreamPermit { shared, handle, answered: AtomicBool::new(false) })
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

/// An HTTP/1.1 connection, used by one request at a time.
pub(in crate::proxy::http) struct Single {
    pub(super) sender: Http1Sender,
    pub(super) end: ServerEnd,
    pub(super) was_used: bool,
    /// The server's keep-alive timeout (RFC 2068 §19.7.1.1).
    keep_alive: Option<Duration>,
}

impl Single {
    pub(super) fn id(&self) -> AddressId {
        self.end.id
    }

    /// How long the connection may be idle: shorter than the server's timeout, after which the server may close it at
    /// any moment.
    pub(super) fn idle_for(&self, idle_timeout: Duration) -> Duration {
        idle_for(self.keep_alive, idle_timeout)
    }

    pub(super) fn new(sender: Http1Sender, end: ServerEnd) -> Self {
        Self { sender, end, was_used: false, keep_alive: None }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    pub(super) fn is_usable(&self, now: OffsetDateTime) -> bool {
        !self.is_closed() && self.end.is_reusable(now)
    }
}

/// A new connection.
pub(in crate::proxy::http) enum Dialed {
    Shared(SendRequest, ServerEnd),
    Single(Http1Sender, ServerEnd),
}

/// The server side of a connection.
#[derive(Debug, Clone)]
pub(in crate::proxy::http) struct ServerEnd {
    pub(in crate::proxy::http) id: AddressId,
    pub(in crate::proxy::http) address: SocketAddr,
    /// When the peer certificate expires.
    pub(in crate::proxy::http) peer_not_after: Option<OffsetDateTime>,
    /// The address, which may have been removed from its upstream.
    pub(in crate::proxy::http) handle: AddressHandle,
    /// The TLS alert that ended the connection.
    pub(in crate::proxy::http) alert: Arc<OnceLock<AlertDescription>>,
    /// Cancelled when the connection is terminated.
    pub(in crate::proxy::http) termination: CancellationToken,
    pub(in crate::proxy::http) server_state: Arc<ServerState>,
    /// The connection's streams, on HTTP/2.
    pub(in crate::proxy::http) streams: Option<Arc<Streams>>,
}

impl ServerEnd {
    /// For a connection to a selected address.
    pub(in crate::proxy::http) fn new(
        leased: &upstream::SelectedAddress,
        termination: CancellationToken,
    ) -> Self {
        Self {
            id: leased.id(),
            address: leased.address(),
            peer_not_after: None,
            handle: leased.handle(),
            alert: Arc::default(),
            termination,
            server_state: Arc::default(),
            streams: None,
        }
    }

    /// Whether another request may use the connection.
    fn is_reusable(&self, now: OffsetDateTime) -> bool {
        !self.handle.is_over() && self.peer_not_after.is_none_or(|until| is_valid_at(until, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn was_used(values: &[&'static str]) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("keep-alive", http::HeaderValue::from_static(value));
        }
        keep_alive(&headers)
    }

    #[test]
    fn the_shortest_keep_alive_timeout_applies() {
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
            assert_eq!(was_used(values), seconds.map(Duration::from_secs), "{values:?}");
        }
    }

    #[test]
    fn a_connection_is_not_reused_shortly_before_its_server_may_close_it() {
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
