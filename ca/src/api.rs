//! The gRPC edges: the only files that know `Status`.

mod active_streams;
mod admin;
mod distribution;
mod errors;
mod policies;
mod revocations;
mod subscribe;
mod workload;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use postern_proto::identity::{SpiffeId, VerifiedSvid};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::authority::Authority;
use crate::config::Config;
use crate::rates::Rates;
use crate::store::Store;
use crate::subscriptions::{Broadcaster, SubscriberLimits};

pub use active_streams::ActiveStreams;
pub use admin::AdminApi;
pub use workload::WorkloadApi;

/// A request has at most this many bytes: a CSR and a token, with room.
pub const REQUEST_BYTES_MAX: usize = 32 * 1024;

/// What both services share.
#[derive(Debug)]
pub struct Shared {
    pub authority: Arc<Authority>,
    pub store: Store,
    pub svid_ttl: Duration,
    pub renew_after_expiry: Duration,
    /// Counts the changes of the stored policy and of the revocations, so that whoever tells sidecars of them wakes.
    pub changed: watch::Sender<u64>,
    /// What sidecars are told.
    pub broadcaster: Arc<Broadcaster>,
    /// Ends the subscriptions when the CA ends.
    pub stop: CancellationToken,
    request_timeout: Duration,
    /// One for each subscription.
    streams: TaskTracker,
    requests: Semaphore,
    identities: Rates<SpiffeId>,
    subscribing: Rates<SpiffeId>,
    addresses: Rates<IpAddr>,
}

impl Shared {
    pub fn new(config: &Config, authority: Arc<Authority>, store: Store) -> Self {
        let limits = config.limits;
        let subscribers = SubscriberLimits {
            sidecars_max: limits.subscriptions_max,
            identity_max: limits.identity_subscriptions_max,
        };
        Self {
            authority,
            store,
            svid_ttl: config.svid_ttl,
            renew_after_expiry: config.renew_after_expiry,
            changed: watch::Sender::new(0),
            broadcaster: Arc::new(Broadcaster::new(subscribers, limits.call_rows_max)),
            stop: CancellationToken::new(),
            request_timeout: limits.request_timeout,
            streams: TaskTracker::new(),
            requests: Semaphore::new(limits.requests_max),
            identities: Rates::new(limits.identity_rate),
            subscribing: Rates::new(limits.identity_rate),
            addresses: Rates::new(limits.address_rate),
        }
    }

    /// Waits until all subscriptions have ended, which they do at `stop`.
    pub async fn streams_ended(&self) {
        self.streams.close();
        self.streams.wait().await;
    }

    fn notify(&self) {
        self.changed.send_modify(|changes| *changes = changes.wrapping_add(1));
    }
}

/// A report that a sidecar makes has at most this many bytes, once it has shown who it is.
pub const REPORT_BYTES_MAX: usize = 1024 * 1024;

/// Who is at the other end of a connection, as the TLS handshake found it.
#[derive(Debug, Clone)]
pub struct Caller {
    pub address: SocketAddr,
    pub svid: Option<VerifiedSvid>,
    pub active_streams: Arc<ActiveStreams>,
}

#[cfg(test)]
mod tests;
