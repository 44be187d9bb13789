//! One connection attempt over several addresses, and the address that it uses.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::Upstreams;
use super::load_balancer::{AddressHandle, AddressId, Record, Selection};
use crate::config::Limits;
use crate::network::dial::{self, ATTEMPTS_MAX, Bounds, Purpose};
use crate::network::{ConnectError, Unreached};
use crate::observability::metrics::PooledConnection;

/// No further address is tried after this time.
pub const NEXT_WITHIN: Duration = Duration::from_secs(30);

/// One connection attempt over several addresses.
#[derive(Debug)]
pub struct Attempt {
    upstreams: Arc<Upstreams>,
    tried: Vec<(AddressId, SocketAddr)>,
    begun: Instant,
    /// All addresses were ejected at the beginning.
    all_were_ejected: bool,
}

impl Attempt {
    pub(super) fn new(upstreams: Arc<Upstreams>) -> Self {
        let begun = Instant::now();
        let all_were_ejected = upstreams.all_ejected();
        Self { upstreams, tried: Vec::new(), begun, all_were_ejected }
    }

    /// The next address to try, or `None` when there is no further one. Waits up to `connect_timeout` for a name's
    /// first DNS answer only.
    pub async fn next(&mut self) -> Option<SelectedAddress> {
        if self.is_over() {
            return None;
        }
        let mut changes = self.upstreams.changes();
        let found = async {
            loop {
                let (selected, asked) = self.upstreams.pick(&self.tried);
                if selected.is_some() || !asked || changes.changed().await.is_err() {
                    return selected;
                }
            }
        };
        let selected = timeout(self.upstreams.limits.connect_timeout, found).await.ok()??;
        self.tried.push((selected.id, selected.at));
        Some(SelectedAddress::new(self.upstreams.clone(), selected))
    }

    fn is_over(&self) -> bool {
        self.tried.len() >= ATTEMPTS_MAX || (!self.tried.is_empty() && self.begun.elapsed() >= NEXT_WITHIN)
    }

    /// The connection to `winner` succeeded. Addresses tried earlier and still `under_way` had more time, so they
    /// count as failed.
    pub fn won(&self, winner: &SelectedAddress, under_way: &[AddressId]) {
        let earlier = self.tried.iter().take_while(|(id, _)| *id != winner.id());
        for &(id, at) in earlier.filter(|(id, _)| under_way.contains(id)) {
            self.upstreams.failed(id, at, None);
        }
    }

    /// All tried addresses except those that have `ended`.
    pub(super) fn under_way(&self, ended: impl Iterator<Item = AddressId>) -> Vec<AddressId> {
        let ended: Vec<_> = ended.collect();
        self.tried.iter().map(|(id, _)| *id).filter(|id| !ended.contains(id)).collect()
    }

    pub fn tried_several(&self) -> bool {
        self.tried.len() > 1
    }

    /// All causes of the failure, including the errors at the addresses.
    pub fn unreached(&self, at_addresses: Vec<ConnectError>) -> Unreached {
        let (unresolved, untried) = self.upstreams.left_out(&self.tried);
        let mut errors = at_addresses;
        errors.extend(unresolved);
        let all_were_ejected = self.all_were_ejected && !errors.is_empty();
        Unreached { errors, untried, all_were_ejected }
    }
}

/// A selected address, counted as in flight until this is dropped.
#[derive(Debug)]
pub struct SelectedAddress {
    upstreams: Arc<Upstreams>,
    selected: Selection,
    /// The record before the last success, in case it is revoked.
    before: Option<Record>,
}

impl SelectedAddress {
    pub(super) fn new(upstreams: Arc<Upstreams>, selected: Selection) -> Self {
        Self { upstreams, selected, before: None }
    }

    pub fn id(&self) -> AddressId {
        self.selected.id
    }

    pub fn address(&self) -> SocketAddr {
        self.selected.at
    }

    /// A handle that tells pooled connections whether the address still exists.
    pub fn handle(&self) -> AddressHandle {
        self.selected.handle.clone()
    }

    /// Connects. A failure to respond counts against the address; an error of this machine does not.
    pub async fn connect(&mut self) -> Result<TcpStream, ConnectError> {
        let Limits { connect_timeout, dead_after, .. } = self.upstreams.limits;
        let addresses: Vec<_> = std::iter::once(self.selected.at).chain(self.selected.also).collect();
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

    /// Prefers the one of a host's two addresses that answered.
    fn reached(&mut self, stream: &TcpStream) {
        let Some(also) = self.selected.also else { return };
        if stream.peer_addr().is_ok_and(|peer| peer == also) {
            self.selected.also = Some(std::mem::replace(&mut self.selected.at, also));
            self.upstreams.prefer(self.selected.id, also);
        }
    }

    /// Counts a pooled connection to the address.
    pub fn pooled(&self) -> PooledConnection {
        PooledConnection::new(self.upstreams.series.clone())
    }

    /// Records a success.
    pub fn succeeded(&mut self) {
        self.before = Some(self.upstreams.succeeded(self.selected.id));
    }

    /// Records a failure, or revokes a success.
    pub fn failed(&mut self) {
        self.upstreams.failed(self.selected.id, self.selected.at, self.before.take());
    }
}

impl Drop for SelectedAddress {
    fn drop(&mut self) {
        self.upstreams.left(self.selected.id);
    }
}
