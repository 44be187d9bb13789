//! One connection, lent to one request.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use rustls::AlertDescription;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::credentials::holds_until;
use crate::http::body::RequestBody;
use crate::upstream::choice::Listing;

/// A connection for one request.
pub(in crate::http) struct Leased {
    pub(super) sender: Sender,
    pub(super) home: Option<Arc<dyn Home>>,
}

pub(super) enum Sender {
    Shared(Arc<Shared>),
    Single(Option<Single>),
}

/// Where a single connection goes when it is free again.
pub(super) trait Home: Send + Sync {
    fn take(&self, single: Single);
}

impl Sender {
    pub(super) fn single(sender: http1::SendRequest<RequestBody>, end: End) -> Self {
        Self::Single(Some(Single { sender, end, kept: false }))
    }
}

impl Leased {
    /// A connection just made, for one request alone.
    pub(in crate::http) fn fresh(dialed: Dialed) -> Self {
        let sender = match dialed {
            Dialed::Single(sender, end) => Sender::single(sender, end),
            Dialed::Shared(sender, end) => Sender::Shared(Arc::new(Shared::new(sender, end))),
        };
        Self { sender, home: None }
    }

    /// Sends a request. It comes back when nothing of it was sent, because the connection had ended before.
    pub(in crate::http) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        match &mut self.sender {
            Sender::Shared(shared) => shared.sender.clone().try_send_request(request).await,
            Sender::Single(Some(single)) => {
                // A connection that comes back from a request may still be at its end.
                let _closed_shows_below = single.sender.ready().await;
                single.sender.try_send_request(request).await
            }
            Sender::Single(None) => std::future::pending().await,
        }
    }

    /// Who is at the other end.
    pub(in crate::http) fn end(&self) -> Option<&End> {
        match &self.sender {
            Sender::Shared(shared) => Some(&shared.end),
            Sender::Single(single) => single.as_ref().map(|single| &single.end),
        }
    }

    /// Cancelled when the connection is cut.
    pub(in crate::http) fn cut(&self) -> CancellationToken {
        self.end().map(|end| end.cut.clone()).unwrap_or_default()
    }

    /// Whether it was cut: what it has brought and was not taken yet is not taken any more.
    pub(in crate::http) fn is_cut(&self) -> bool {
        self.end().is_some_and(|end| end.cut.is_cancelled())
    }

    /// The alert with which the other end broke off.
    pub(in crate::http) fn alert(&self) -> Option<AlertDescription> {
        self.end()?.alert.get().copied()
    }

    /// Whether it is a single connection that carried a request before.
    pub(in crate::http) fn was_kept(&self) -> bool {
        matches!(&self.sender, Sender::Single(Some(single)) if single.kept)
    }

    /// Whether requests on it are HTTP/2's.
    pub(in crate::http) fn is_shared(&self) -> bool {
        matches!(self.sender, Sender::Shared(_))
    }

    /// The response has ended and the request with it: the next may use it.
    pub(in crate::http) fn give_back(mut self) {
        if let (Sender::Single(single), Some(home)) = (&mut self.sender, &self.home)
            && let Some(single) = single.take()
        {
            home.take(Single { kept: true, ..single });
        }
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        if let Sender::Shared(shared) = &self.sender {
            shared.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Leased {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leased").field("shared", &self.is_shared()).finish_non_exhaustive()
    }
}

/// A connection that many requests share.
pub(super) struct Shared {
    pub(super) sender: http2::SendRequest<RequestBody>,
    /// Requests on it now.
    pub(super) open: AtomicUsize,
    /// Its last request's number among all: of equals, the one unused longest is next.
    pub(super) last: AtomicU64,
    pub(super) end: End,
}

impl Shared {
    /// A new one with its first request.
    pub(super) fn new(sender: http2::SendRequest<RequestBody>, end: End) -> Self {
        Self { sender, open: AtomicUsize::new(1), last: AtomicU64::new(0), end }
    }
}

/// A connection that one request has at a time.
pub(super) struct Single {
    pub(super) sender: http1::SendRequest<RequestBody>,
    pub(super) end: End,
    /// It has carried a request before.
    pub(super) kept: bool,
}

/// A connection just made.
pub(in crate::http) enum Dialed {
    Shared(http2::SendRequest<RequestBody>, End),
    Single(http1::SendRequest<RequestBody>, End),
}

/// The other end of a connection.
#[derive(Debug, Clone, Default)]
pub(in crate::http) struct End {
    pub(in crate::http) address: Option<SocketAddr>,
    /// Until then its certificate vouches for it.
    pub(in crate::http) vouched_until: Option<OffsetDateTime>,
    /// Whether it is still an address of its place.
    pub(in crate::http) listing: Listing,
    /// With which it broke off.
    pub(in crate::http) alert: Arc<OnceLock<AlertDescription>>,
    /// Cancelled when the connection is cut.
    pub(in crate::http) cut: CancellationToken,
}

impl End {
    /// Whether another request may use it.
    pub(super) fn is_good(&self, now: OffsetDateTime) -> bool {
        !self.listing.is_over() && self.vouched_until.is_none_or(|until| holds_until(until, now))
    }
}
