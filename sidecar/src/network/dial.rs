//! Outgoing TCP connections to apps, peers and the CA, to one address or to several by Happy Eyeballs (RFC 8305).

mod fault;
mod race;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::stream;
use thiserror::Error;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::network::descriptors::is_reserved;
use crate::network::socket::{prepare, reset_on_close};
use fault::EMFILE;
pub use race::{CONNECT_DELAY, HANDSHAKE_DELAY, Progress, RaceResult, race};

/// Maximum number of addresses that are tried for one connection.
pub const ATTEMPTS_MAX: usize = 32;

/// Why a connection to an address failed.
#[derive(Debug, Error)]
pub enum DialError {
    /// The address does not accept connections.
    #[error("{address} cannot be reached")]
    Unreachable {
        address: SocketAddr,
        #[source]
        error: io::Error,
    },
    /// The cause is on this machine. The error says nothing about the address.
    #[error("{address} was not reached because of a fault on this machine: {fault}")]
    Local {
        address: SocketAddr,
        fault: &'static str,
        #[source]
        error: io::Error,
    },
    /// The kernel chose the destination port as the local port too (RFC 9293 §3.5, simultaneous open).
    #[error(
        "{address} was not reached because of a fault on this machine: nobody listens there, and the connection \
         was connected to itself, because the port is one of those that the kernel gives to clients \
         (net.ipv4.ip_local_port_range)"
    )]
    ToItself { address: SocketAddr },
}

impl DialError {
    fn new(address: SocketAddr, error: io::Error) -> Self {
        match fault::on_this_machine(&error) {
            Some(fault) => Self::Local { address, fault, error },
            None => Self::Unreachable { address, error },
        }
    }

    /// Whether the cause is on this machine, so that the error says nothing about the address.
    pub fn is_local(&self) -> bool {
        !matches!(self, Self::Unreachable { .. })
    }
}

/// Timeouts and purpose of one connection.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub connect_timeout: Duration,
    /// A peer that acknowledges nothing for this time is considered dead.
    pub dead_after: Duration,
    pub purpose: Purpose,
}

/// What a connection is used for. It decides whether the connection may use a reserved descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Traffic of apps and peers: no reserved descriptor.
    Traffic,
    /// Certificate renewal or the subscription: reserved descriptors are allowed, otherwise traffic could prevent
    /// renewal until the certificate expires.
    Ca,
}

/// Connects to one address.
pub async fn connect(address: SocketAddr, bounds: Bounds) -> Result<TcpStream, DialError> {
    let limit = bounds.connect_timeout;
    let connected = timeout(limit, open(address, bounds)).await;
    let stream = connected.unwrap_or_else(|_| Err(too_late(limit)));
    let stream = stream.map_err(|error| DialError::new(address, error))?;
    if is_connected_to_itself(&stream) {
        reset_on_close(&stream);
        return Err(DialError::ToItself { address });
    }
    Ok(stream)
}

/// Connects to the first of several addresses of one host that accepts.
pub async fn connect_any(addresses: &[SocketAddr], bounds: Bounds) -> Result<TcpStream, Vec<DialError>> {
    if let [address] = addresses {
        return connect(*address, bounds).await.map_err(|error| vec![error]);
    }
    let attempts = addresses.iter().map(|&address| Box::pin(connect(address, bounds)));
    race(stream::iter(attempts), &Progress::default()).await.map(|winner| winner.value)
}

/// Connects, unless this would use a descriptor that is reserved for other purposes.
async fn open(address: SocketAddr, bounds: Bounds) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if bounds.purpose == Purpose::Traffic && is_reserved(&socket) {
        return Err(io::Error::from_raw_os_error(EMFILE));
    }
    prepare(&socket, address.ip(), bounds.dead_after)?;
    socket.connect(address).await
}

fn is_connected_to_itself(stream: &TcpStream) -> bool {
    matches!((stream.local_addr(), stream.peer_addr()), (Ok(local), Ok(peer)) if local == peer)
}

fn too_late(limit: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {limit:?}"))
}

/// Alternates the addresses of both families, so that an unreachable family costs one delay (RFC 8305 §4). The order
/// within a family is unchanged.
pub fn interleaved(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let (v6, v4): (Vec<_>, Vec<_>) = addresses.iter().copied().partition(SocketAddr::is_ipv6);
    let (mut v6, mut v4) = (v6.into_iter(), v4.into_iter());
    let mut all = Vec::with_capacity(addresses.len());
    while all.len() < addresses.len() {
        all.extend(v6.next());
        all.extend(v4.next());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds() -> Bounds {
        let limit = Duration::from_secs(30);
        Bounds { connect_timeout: limit, dead_after: limit, purpose: Purpose::Traffic }
    }

    fn parsed<const N: usize>(addresses: [&str; N]) -> Vec<SocketAddr> {
        addresses.map(|address| address.parse().unwrap()).to_vec()
    }

    #[test]
    fn families_take_turns_and_the_order_within_each_stays() {
        let given = parsed(["10.0.0.1:1", "10.0.0.2:1", "[fd00::1]:1", "10.0.0.3:1", "[fd00::2]:1"]);
        let wanted = parsed(["[fd00::1]:1", "10.0.0.1:1", "[fd00::2]:1", "10.0.0.2:1", "10.0.0.3:1"]);
        assert_eq!(interleaved(&given), wanted);
        assert!(interleaved(&[]).is_empty());
    }

    /// A socket bound to the port that it connects to is connected to itself.
    #[tokio::test]
    async fn a_connection_to_itself_is_recognized() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        let stream = socket.connect(address).await.unwrap();
        assert!(is_connected_to_itself(&stream));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = connect(listener.local_addr().unwrap(), bounds()).await.unwrap();
        assert!(!is_connected_to_itself(&stream));
    }

    #[tokio::test]
    async fn the_error_says_whether_it_is_about_the_address_or_about_this_machine() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = connect(nobody, bounds()).await.unwrap_err();
        assert!(!error.is_local() && error.to_string().contains("cannot be reached"), "{error}");
        // EADDRNOTAVAIL is an error of this machine.
        let error = DialError::new(nobody, io::Error::from_raw_os_error(99));
        assert!(error.is_local() && error.to_string().contains("on this machine"), "{error}");
    }

    #[tokio::test]
    async fn of_several_addresses_the_one_that_answers_is_connected_to() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let at = listener.local_addr().unwrap();
        let stream = connect_any(&[nobody, at], bounds()).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), at);
        assert_eq!(connect_any(&[nobody, nobody], bounds()).await.unwrap_err().len(), 2);
        assert!(connect_any(&[], bounds()).await.unwrap_err().is_empty());
    }
}
