//! TCP socket options. Closing a proxied connection resets it, unless the relay has ended cleanly. So the other side
//! never mistakes an error, a termination or a panic for a clean end.

mod retransmission;

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Once;
use std::time::Duration;

use rustls::{AlertDescription, Error as TlsError};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Sets the options of a connection with `at`, or of the connections that a listener there will accept (Linux copies
/// the options of a listening socket). Disables Nagle's algorithm. Detects a peer that has disappeared, as by a power
/// loss, after about `dead_after`, with or without unacknowledged data. A peer that is alive but reads nothing is not
/// dead: its kernel acknowledges.
pub fn prepare(socket: &impl AsFd, at: IpAddr, dead_after: Duration) -> io::Result<()> {
    let options = SockRef::from(socket);
    options.set_tcp_nodelay(true)?;
    // Over loopback the kernel closes the connections of a process that has died: no probes are needed.
    if at.is_loopback() {
        use_loopback_congestion_control(&options);
        return Ok(());
    }
    // Keep-alive covers an idle connection. The retransmission interval covers unacknowledged data and a closed window.
    let probe = TcpKeepalive::new()
        .with_time(dead_after / 2)
        .with_interval((dead_after / 2 / KEEP_ALIVE_PROBES).max(Duration::from_secs(1)))
        .with_retries(KEEP_ALIVE_PROBES);
    options.set_tcp_keepalive(&probe)?;
    if let Err(error) = retransmission::bound(socket, dead_after) {
        static LOGGED: Once = Once::new();
        let what = "a machine that vanishes while something is under way to it is found dead after net.ipv4.tcp_retries2 \
                    tries, by default a quarter of an hour: run Linux 6.15 or newer, or lower that setting";
        LOGGED.call_once(|| tracing::warn!(%error, what, "this kernel has no TCP_RTO_MAX_MS"));
    }
    Ok(())
}

/// Selects a simple congestion control for loopback, which has no congestion. Measured with BBR as the system's
/// default: its timers take a fifth of the CPU time of a new connection.
fn use_loopback_congestion_control(socket: &SockRef<'_>) {
    if let Err(error) = socket.set_tcp_congestion(LOOPBACK_CONGESTION_CONTROL) {
        tracing::debug!(%error, "the system's congestion control stays");
    }
}

/// Available in every Linux kernel, and allowed to every process by default (tcp(7), `tcp_allowed_congestion_control`).
const LOOPBACK_CONGESTION_CONTROL: &[u8] = b"reno";
/// Number of unanswered probes after which a peer is dead (tcp(7), TCP_KEEPCNT).
const KEEP_ALIVE_PROBES: u32 = 3;

/// Makes a close of the connection send a reset (SO_LINGER with zero).
pub fn reset_on_close(stream: &TcpStream) {
    set_linger(stream, Some(Duration::ZERO));
}

/// Makes a close send no reset, after both directions have ended.
pub fn close_cleanly(stream: &TcpStream) {
    set_linger(stream, None);
}

fn set_linger(stream: &TcpStream, linger: Option<Duration>) {
    if let Err(error) = SockRef::from(stream).set_linger(linger) {
        tracing::debug!(%error, "cannot choose how a connection is closed");
    }
}

/// The TLS alert that the peer sent, if the error contains one.
pub fn alert_in(error: &io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref::<TlsError>()? {
        TlsError::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ends of a loopback connection, with the options of a connection with `at`.
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
