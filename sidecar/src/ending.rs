//! How a TCP connection is ended. A connection that is carried is reset by its close, unless its relay ended cleanly:
//! so whatever else ends it, an error, a cut, a panic, is never taken for a clean end at the other side.

use std::io;
use std::time::Duration;

use rustls::{AlertDescription, Error as TlsError};
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A refused peer is listened to this long, so that what it was told is not lost in a reset.
const FAREWELL: Duration = Duration::from_secs(1);
/// And so many bytes of what it still sends are thrown away.
const FAREWELL_BYTES_MAX: u64 = 64 * 1024;

/// From now on closing it resets it.
pub fn reset_on_close(stream: &TcpStream) {
    linger(stream, Some(Duration::ZERO));
}

/// Both directions have ended: closing it is no reset any more.
pub fn close_cleanly(stream: &TcpStream) {
    linger(stream, None);
}

fn linger(stream: &TcpStream, linger: Option<Duration>) {
    if let Err(error) = SockRef::from(stream).set_linger(linger) {
        tracing::debug!(%error, "cannot choose how a connection is closed");
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

/// The alert with which the other side broke off, if that is what an error says.
pub fn alert_in(error: &io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref::<TlsError>()? {
        TlsError::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}
