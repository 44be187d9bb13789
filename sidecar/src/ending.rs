//! How a TCP connection is ended when the relay did not end it cleanly.

use std::io;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A refused peer is listened to this long, so that what it was told is not lost in a reset.
const FAREWELL: Duration = Duration::from_secs(1);
/// And so many bytes of what it still sends are thrown away.
const FAREWELL_BYTES_MAX: u64 = 64 * 1024;

/// Makes the close that follows a reset: whoever is at the other end must not take it for a clean end.
pub fn reset_on_close(stream: &TcpStream) {
    if let Err(error) = SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "cannot reset a connection; it will be closed");
    }
}

/// Ends a connection after the last word was sent: closing with unread bytes would turn into a reset, which can
/// overtake the word.
pub async fn farewell(mut stream: TcpStream) {
    let last = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut (&mut stream).take(FAREWELL_BYTES_MAX), &mut tokio::io::sink()).await
    };
    // The peer may be gone or silent; either way this is over.
    let _over: Result<io::Result<u64>, _> = tokio::time::timeout(FAREWELL, last).await;
}
