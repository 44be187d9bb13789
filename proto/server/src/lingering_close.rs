//! Closing a connection after its last bytes were sent. Closing with unread bytes would be a reset, which can overtake
//! what was sent.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The other side has this long to read what it was sent.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
/// So many bytes of what it still sends are discarded.
const LINGER_BYTES_MAX: u64 = 64 * 1024;

/// Shuts down the own direction, discards what the other side still sends, and closes, within a second.
pub async fn lingering_close(stream: TcpStream) {
    // The other side may be gone or silent; either way the connection is closed.
    let _closed: Result<io::Result<()>, _> =
        tokio::time::timeout(LINGER_TIMEOUT, shutdown_and_drain(stream, LINGER_BYTES_MAX)).await;
}

/// Shuts down the own direction, and discards what the other side still sends until it shuts down its own, up to so
/// many bytes.
pub async fn shutdown_and_drain(mut stream: TcpStream, bytes_max: u64) -> io::Result<()> {
    stream.shutdown().await?;
    tokio::io::copy(&mut (&mut stream).take(bytes_max), &mut tokio::io::sink()).await.map(drop)
}
