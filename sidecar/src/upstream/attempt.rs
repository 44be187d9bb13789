//! One connection's way through the addresses, and its lease of the one it uses.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};

use super::choice::{AddressId, Listing, Picked, Record};
use super::{ConnectError, Unreached, Upstreams};
use crate::descriptors::is_reserved;
use crate::ending::prepare;

/// A connection tries so many addresses at most,
pub const ATTEMPTS_MAX: usize = 32;
/// and begins with no further one when so long has passed.
pub const NEXT_WITHIN: Duration = Duration::from_secs(30);

/// One connection's way through the addresses.
#[derive(Debug)]
pub struct Attempt {
    upstreams: Arc<Upstreams>,
    tried: Vec<AddressId>,
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
        self.tried.push(picked.id);
        Some(Leased { upstreams: self.upstreams.clone(), picked, before: None })
    }

    fn is_over(&self) -> bool {
        self.tried.len() >= ATTEMPTS_MAX || (!self.tried.is_empty() && self.begun.elapsed() >= NEXT_WITHIN)
    }

    /// The whole story, given what went wrong at the addresses.
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
    pub fn address(&self) -> SocketAddr {
        self.picked.at
    }

    /// Whether connections that are kept there may still be used.
    pub fn listing(&self) -> Listing {
        self.picked.listing.clone()
    }

    /// Connects. That nobody answers is the address's failure, that this process has no descriptors left is not.
    pub async fn connect(&mut self) -> Result<TcpStream, ConnectError> {
        let (address, limits) = (self.picked.at, &self.upstreams.limits);
        let limit = limits.connect_timeout;
        let connected = timeout(limit, open(address, limits.dead_after)).await;
        let connected = connected.unwrap_or_else(|_| Err(too_late(limit)));
        connected.map_err(|error| {
            if !is_own_fault(&error) {
                self.failed();
            }
            ConnectError::Connect { address, error }
        })
    }

    /// Somebody answers there as hoped.
    pub fn succeeded(&mut self) {
        self.before = Some(self.upstreams.succeeded(self.picked.id));
    }

    /// Nobody answered there as hoped, or the success was none after all.
    pub fn failed(&mut self) {
        self.upstreams.failed(&self.picked, self.before.take());
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        self.upstreams.left(self.picked.id);
    }
}

/// Connects, unless that needs a descriptor that is kept for other things.
async fn open(address: SocketAddr, dead_after: Duration) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if is_reserved(&socket) {
        return Err(io::Error::from_raw_os_error(EMFILE));
    }
    prepare(&socket, address.ip(), dead_after)?;
    socket.connect(address).await
}

fn too_late(limit: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {limit:?}"))
}

/// Whatever was wrong here would have been wrong with any address.
fn is_own_fault(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::OutOfMemory || matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}

/// errno(3): too many open files in the system, and in this process.
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_process_lacks_is_no_failure_of_an_address() {
        for (code, own) in
            [(EMFILE, true), (ENFILE, true), (12, true), (111, false), (110, false), (113, false)]
        {
            assert_eq!(is_own_fault(&io::Error::from_raw_os_error(code)), own, "{code}");
        }
        assert!(!is_own_fault(&too_late(Duration::ZERO)));
    }
}
