//! The gRPC edges: the only files that know `Status`.

mod admin;
mod errors;
mod policies;
mod revocations;
mod workload;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use postern_proto::identity::{SpiffeId, VerifiedSvid};
use tokio::sync::{Semaphore, watch};

use crate::authority::Authority;
use crate::config::Config;
use crate::rates::Rates;
use crate::store::Store;

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
    requests: Semaphore,
    identities: Rates<SpiffeId>,
    addresses: Rates<IpAddr>,
}

impl Shared {
    pub fn new(config: &Config, authority: Arc<Authority>, store: Store) -> Self {
        Self {
            authority,
            store,
            svid_ttl: config.svid_ttl,
            renew_after_expiry: config.renew_after_expiry,
            changed: watch::Sender::new(0),
            requests: Semaphore::new(config.limits.requests_max),
            identities: Rates::new(config.limits.identity_rate),
            addresses: Rates::new(config.limits.address_rate),
        }
    }

    fn has_changed(&self) {
        self.changed.send_modify(|changes| *changes = changes.wrapping_add(1));
    }
}

/// Who is at the other end of a connection, as the TLS handshake found it.
#[derive(Debug, Clone)]
pub struct Caller {
    pub address: SocketAddr,
    pub svid: Option<VerifiedSvid>,
}

#[cfg(test)]
mod tests;
