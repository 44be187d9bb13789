//! How a TCP connection is ended. A connection that is carried is reset by its close, unless its relay ended cleanly:
//! so whatever else ends it, an error, a cut, a panic, is never taken for a clean end at the other side.

mod retransmission;

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Once;
use std::time::Duration;

use rustls::{AlertDescription, Error as TlsError};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Prepares a connection with `at`, or those that a listener there will accept (Linux copies what a listening socket is
/// set to): small writes leave at once, and an other side that has gone without a word, as when a machine loses its
/// power, is noticed after about `dead_after`, whether something is under way to it or not. One that lives and takes
/// nothing is not dead: its kernel acknowledges.
pub fn prepare(socket: &impl AsFd, at: IpAddr, dead_after: Duration) -> io::Result<()> {
    let options = SockRef::from(socket);
    options.set_tcp_nodelay(true)?;
    // Over loopback the kernel speaks for a side that died, and need not be asked.
    if at.is_loopback() {
        spare_congestion_control(&options);
        return Ok(());
    }
    // Nothing is under way: keep-alive. Something is: the distance of retransmissions and of probes of a closed window.
    let probe = TcpKeepalive::new()
        .with_time(dead_after / 2)
        .with_interval((dead_after / 2 / KEEP_ALIVE_PROBES).max(Duration::from_secs(1)))
        .with_retries(KEEP_ALIVE_PROBES);
    options.set_tcp_keepalive(&probe)?;
    if let Err(error) = retransmission::bound(socket, dead_after) {
        static TOLD: Once = Once::new();
        let what = "a machine that vanishes while something is under way to it is found dead after net.ipv4.tcp_retries2 \
                    tries, by default a quarter of an hour: run Linux 6.15 or newer, or lower that setting";
        TOLD.call_once(|| tracing::warn!(%error, what, "this kernel has no TCP_RTO_MAX_MS"));
    }
    Ok(())
}

/// Over loopback nothing is ever congested, and the simplest control does. Measured where the system's is BBR: its
/// timers take a fifth of the CPU of a new connection.
fn spare_congestion_control(socket: &SockRef<'_>) {
    if let Err(error) = socket.set_tcp_congestion(LOOPBACK_CONGESTION_CONTROL) {
        tracing::debug!(%error, "the system's congestion control stays");
    }
}

/// In every Linux kernel, and open to every process unless an administrator says otherwise (tcp(7),
/// `tcp_allowed_congestion_control`).
const LOOPBACK_CONGESTION_CONTROL: &[u8] = b"reno";
/// Unanswered ones in a row after which a silent side is dead (tcp(7), TCP_KEEPCNT).
const KEEP_ALIVE_PROBES: u32 = 3;

/// From now on closing it resets it.
pub fn reset_on_close(stream: &TcpStream) {
    set_linger(stream, Some(Duration::ZERO));
}

/// Both directions have ended: closing it is no reset any more.
pub fn close_cleanly(stream: &TcpStream) {
    set_linger(stream, None);
}

fn set_linger(stream: &TcpStream, linger: Option<Duration>) {
    if let Err(error) = SockRef::from(stream).set_linger(linger) {
        tracing::debug!(%error, "cannot choose how a connection is closed");
    }
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

    /// Both ends of a connection over loopback, prepared as if they were connected with `at`.
    async fn prepared(at: &str) -> [TcpStream; 2] {
        let (at, dead_after) = (at.parse().unwrap(), Duration::from_secs(30));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        prepare(&listener, at, dead_after).unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        prepare(&stream, at, dead_after).unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        for stream in [&stream, &accepted] {
            let socket = SockRef::from(stream);
            assert!(socket.tcp_nodelay().unwrap());
            assert_eq!(socket.tcp_user_timeout().unwrap(), None, "a closed window is no death");
        }
        [stream, accepted]
    }

    #[tokio::test]
    async fn a_side_that_has_gone_without_a_word_is_looked_for() {
        for stream in prepared("192.0.2.1").await {
            let socket = SockRef::from(&stream);
            assert!(socket.keepalive().unwrap());
            let first = socket.tcp_keepalive_time().unwrap();
            let then = socket.tcp_keepalive_interval().unwrap();
            assert_eq!(
                first + then * KEEP_ALIVE_PROBES,
                Duration::from_secs(30),
                "as long as it was promised"
            );
            match retransmission::of(&stream) {
                Ok(distance) => assert!(distance <= Duration::from_secs(2), "{distance:?}"),
                Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOPROTOOPT), "{error}"),
            }
        }
    }

    #[tokio::test]
    async fn over_loopback_nobody_is_looked_for_and_congestion_is_none_of_our_business() {
        for at in ["127.0.0.2", "::1"] {
            for stream in prepared(at).await {
                let socket = SockRef::from(&stream);
                assert!(!socket.keepalive().unwrap());
                assert!(socket.tcp_congestion().unwrap().starts_with(LOOPBACK_CONGESTION_CONTROL));
            }
        }
    }
}
