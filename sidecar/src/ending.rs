//! How a TCP connection is ended. A connection that is carried is reset by its close, unless its relay ended cleanly:
//! so whatever else ends it, an error, a cut, a panic, is never taken for a clean end at the other side.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustls::{AlertDescription, Error as TlsError};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A refused peer is listened to this long, so that what it was told is not lost in a reset.
const FAREWELL: Duration = Duration::from_secs(1);
/// And so many bytes of what it still sends are thrown away.
const FAREWELL_BYTES_MAX: u64 = 64 * 1024;

/// Prepares a connection, or those that a listener will accept (Linux copies what a listening socket is set to): small
/// writes leave at once, and an other side that has gone without a word, as when a machine loses its power, is noticed
/// after `dead_after`, whether something is under way to it or not.
pub fn prepare(socket: &impl AsFd, dead_after: Duration) -> io::Result<()> {
    prepare_local(socket, dead_after)?;
    let probe = TcpKeepalive::new()
        .with_time(dead_after / 2)
        .with_interval((dead_after / 2 / KEEP_ALIVE_PROBES).max(Duration::from_secs(1)))
        .with_retries(KEEP_ALIVE_PROBES);
    SockRef::from(socket).set_tcp_keepalive(&probe)
}

/// The same for a connection over loopback. There the kernel speaks for a side that died, and need not be asked.
pub fn prepare_local(socket: &impl AsFd, dead_after: Duration) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(dead_after))
}

/// Unanswered ones in a row after which a silent side is dead (tcp(7), TCP_KEEPCNT).
const KEEP_ALIVE_PROBES: u32 = 3;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_side_that_has_gone_without_a_word_is_looked_for() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        prepare(&listener, Duration::from_secs(30)).unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        prepare(&stream, Duration::from_secs(30)).unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        for stream in [stream, accepted] {
            let socket = SockRef::from(&stream);
            assert!(socket.keepalive().unwrap() && stream.nodelay().unwrap());
            assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(30)));
            let first = socket.tcp_keepalive_time().unwrap();
            let then = socket.tcp_keepalive_interval().unwrap();
            assert_eq!(
                first + then * KEEP_ALIVE_PROBES,
                Duration::from_secs(30),
                "as long as it was promised"
            );
        }
    }
}
