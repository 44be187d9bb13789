//! Reaching an address: the first that answers, in the order given.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpStream;

use crate::config::HostPort;

/// No address answered.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The name has no address, or cannot be resolved.
    #[error("{at} cannot be resolved")]
    Resolve {
        at: HostPort,
        #[source]
        error: io::Error,
    },
    /// The last address that was tried.
    #[error("{at} ({address}) cannot be reached")]
    Connect {
        at: HostPort,
        address: SocketAddr,
        #[source]
        error: io::Error,
    },
    /// Nothing to try.
    #[error("there is no address to connect to")]
    Nothing,
}

/// Connects to the first of `to` that answers within `limit` each.
pub async fn connect(to: &[HostPort], limit: Duration) -> Result<TcpStream, ConnectError> {
    let mut last = ConnectError::Nothing;
    for at in to {
        match connect_host(at, limit).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn connect_host(at: &HostPort, limit: Duration) -> Result<TcpStream, ConnectError> {
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    let resolved = tokio::time::timeout(limit, tokio::net::lookup_host((at.host.as_str(), at.port)));
    let resolved = resolved.await.unwrap_or_else(|_| Err(late()));
    let addresses = resolved.map_err(|error| ConnectError::Resolve { at: at.clone(), error })?;
    let mut last = ConnectError::Nothing;
    for address in addresses {
        let connected = tokio::time::timeout(limit, TcpStream::connect(address)).await;
        let connected = connected.unwrap_or_else(|_| Err(late()));
        match connected.and_then(|stream| stream.set_nodelay(true).map(|()| stream)) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = ConnectError::Connect { at: at.clone(), address, error },
        }
    }
    Err(last)
}
