//! Reaching an address: names are resolved anew each time, and every wait has its limit.

pub mod choice;
pub mod name;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::{HostPort, Limits};
use crate::ending::prepare;

/// A name is taken to mean its first so many addresses.
pub const ADDRESSES_MAX: usize = 16;

/// Why an address is not reached.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The name has no address, or cannot be resolved.
    #[error("{at} cannot be resolved")]
    Resolve {
        at: HostPort,
        #[source]
        error: io::Error,
    },
    /// Nobody answers there.
    #[error("{address} cannot be reached")]
    Connect {
        address: SocketAddr,
        #[source]
        error: io::Error,
    },
}

/// The addresses of a name, at least one.
pub async fn resolve(at: &HostPort, limit: Duration) -> Result<Vec<SocketAddr>, ConnectError> {
    let failed = |error| ConnectError::Resolve { at: at.clone(), error };
    let found = timeout(limit, tokio::net::lookup_host((at.host.as_str(), at.port)));
    let found = found.await.unwrap_or_else(|_| Err(too_late(limit))).map_err(failed)?;
    let addresses: Vec<_> = found.take(ADDRESSES_MAX).collect();
    match addresses.is_empty() {
        true => Err(failed(io::Error::new(io::ErrorKind::NotFound, "the name has no address"))),
        false => Ok(addresses),
    }
}

/// Connects to one address.
pub async fn connect(address: SocketAddr, limits: &Limits) -> Result<TcpStream, ConnectError> {
    let limit = limits.connect_timeout;
    let connected =
        timeout(limit, TcpStream::connect(address)).await.unwrap_or_else(|_| Err(too_late(limit)));
    connected
        .and_then(|stream| prepare(&stream, limits.dead_after).map(|()| stream))
        .map_err(|error| ConnectError::Connect { address, error })
}

/// Connects to the first address of a name that answers.
pub async fn connect_any(at: &HostPort, limits: &Limits) -> Result<TcpStream, ConnectError> {
    let mut last = None;
    for address in resolve(at, limits.connect_timeout).await? {
        match connect(address, limits).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    let none = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    Err(last.unwrap_or_else(|| ConnectError::Resolve { at: at.clone(), error: none() }))
}

fn too_late(limit: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {limit:?}"))
}
