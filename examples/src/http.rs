//! Just enough HTTP to ask a service and a sidecar's admin endpoint.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks on a connection of its own; returns the status code and the body.
pub(crate) async fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        io::Result::Ok(answer)
    };
    let late = || io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
    let answer = tokio::time::timeout(PATIENCE, exchange).await.map_err(|_| late())??;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((status.ok_or_else(|| io::Error::other("the answer is not HTTP"))?, body.to_owned()))
}
