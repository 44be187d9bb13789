//! One connection's way through the addresses, and its lease of the one it uses.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::Upstreams;
use super::load_balancer::{AddressId, Listing, Picked, Record};
use crate::config::Limits;
use crate::network::dial::{self, ATTEMPTS_MAX, Bounds, Purpose};
use crate::network::{ConnectError, Unreached};
use crate::observability::metrics::PooledConnection;

/// and begins with no further one when so long has passed.
pub const NEXT_WITHIN: Duration = Duration::from_secs(30);

/// One connection's way through the addresses.
#[derive(Debug)]
pub struct Attempt {
    upstreams: Arc<Upstreams>,
    tried: Vec<(AddressId, SocketAddr)>,
    begun: Instant,
    /// All had failed again and again before.
    all_were_ejected: bool,
}

impl Attempt {
    pub(super) fn new(upstreams: Arc<Upstreams>) -> Self {
        let begun = Instant::now();
        let all_were_ejected = upstreams.all_ejected();
        Self { upstreams, tried: Vec::new(), begun, all_were_ejected }
    }

    /// The next address to try, or none when there is no further one. Only where no answer about a name has ever come
    /// it is waited for, no longer than a connection may take.
    pub async fn next(&mut self) -> Option<Leased> {
        if self.is_over() {
            return None;
        }
        let mut changes = self.upstreams.changes();
        let found = async {
            loop {
                let (picked, asked) = self.upstreams.pick(&self.tried);
                if picked.is_some() || !asked || changes.changed().await.is_err() {
                    return picked;
                }
            }
        };
        let picked = timeout(self.upstreams.limits.connect_timeout, found).await.ok()??;
        self.tried.push((picked.id, picked.at));
        Some(Leased::new(self.upstreams.clone(), picked))
    }

    fn is_over(&self) -> bool {
        self.tried.len() >= ATTEMPTS_MAX || (!self.tried.is_empty() && self.begun.elapsed() >= NEXT_WITHIN)
    }

    /// The address reached by `winner` has answered. Those of the others still `under_way` that were tried before it had
    /// more time, and have not.
    pub fn won(&self, winner: &Leased, under_way: &[AddressId]) {
        let earlier = self.tried.iter().take_while(|(id, _)| *id != winner.id());
        for &(id, at) in earlier.filter(|(id, _)| under_way.contains(id)) {
            self.upstreams.failed(id, at, None);
        }
    }

    /// All that were tried, but those that have `ended`.
    pub(super) fn under_way(&self, ended: impl Iterator<Item = AddressId>) -> Vec<AddressId> {
        let ended: Vec<_> = ended.collect();
        self.tried.iter().map(|(id, _)| *id).filter(|id| !ended.contains(id)).collect()
    }

    /// Whether several addresses were tried.
    pub fn tried_several(&self) -> bool {
        self.tried.len() > 1
    }

    /// The whole record, given what went wrong at the addresses.
    pub fn unreached(&self, at_addresses: Vec<ConnectError>) -> Unreached {
        let (unresolved, untried) = self.upstreams.left_out(&self.tried);
        let mut errors = at_addresses;
        errors.extend(unresolved);
        let all_were_ejected = self.all_were_ejected && !errors.is_empty();
        Unreached { errors, untried, all_were_ejected }
    }
}

/// One address, counted as in flight until this is dropped.
#[derive(Debug)]
pub struct Leased {
    upstreams: Arc<Upstreams>,
    picked: Picked,
    /// A success may turn out to be none: this was known before it.
    before: Option<Record>,
}

impl Leased {
    pub(super) fn new(upstreams: Arc<Upstreams>, picked: Picked) -> Self {
        Self { upstreams, picked, before: None }
    }

    pub fn id(&self) -> AddressId {
        self.picked.id
    }

    pub fn address(&self) -> SocketAddr {
        self.picked.at
    }

    /// Whether connections that are kept there may still be used.
    pub fn listing(&self) -> Listing {
        self.picked.listing.clone()
    }

    /// Connects. That nobody answers is the address's failure, that this machine lacks or forbids something is not.
    pub async fn connect(&mut self) -> Result<TcpStream, ConnectError> {
        let Limits { connect_timeout, dead_after, .. } = self.upstreams.limits;
        let addresses: Vec<_> = std::iter::once(self.picked.at).chain(self.picked.also).collect();
        let bounds = Bounds { connect_timeout, dead_after, purpose: Purpose::Traffic };
        match dial::connect_any(&addresses, bounds).await {
            Ok(stream) => {
                self.reached(&stream);
                Ok(stream)
            }
            Err(errors) => {
                let error = ConnectError::Dial(errors);
                if !error.is_local() {
                    self.failed();
                }
                Err(error)
            }
        }
    }

    /// Of a host with two addresses, the one that has answered is the first from now on.
    fn reached(&mut self, stream: &TcpStream) {
        let Some(also) = self.picked.also else { return };
        if stream.peer_addr().is_ok_and(|peer| peer == also) {
            self.picked.also = Some(std::mem::replace(&mut self.picked.at, also));
            self.upstreams.prefer(self.picked.id, also);
        }
    }

    /// Counts a connection to it that outlasts what it carries.
    pub fn pooled(&self) -> PooledConnection {
        PooledConnection::new(self.upstreams.series.clone())
    }

    /// Somebody answers there as hoped.
    pub fn succeeded(&mut self) {
        self.before = Some(self.upstreams.succeeded(self.picked.id));
    }

    /// Nobody answered there as hoped, or the success was none after all.
    pub fn failed(&mut self) {
        self.upstreams.failed(self.picked.id, self.picked.at, self.before.take());
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        self.upstreams.left(self.picked.id);
    }
}
