//! Retired tunnels: the socket stays open until the peer has received everything that was sent.
//!
//! If a socket is closed while data of the peer is unread or still in flight, the kernel resets the connection (RFC
//! 1122 §4.2.2.13), and the peer loses what it has not received yet. The peer may well have data in flight, for
//! example an AUTH REQUEST that responds to NEWS.

use std::io;
use std::net::Shutdown;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::proxy::tls::TlsStream;

/// How long a retired tunnel waits for the peer's close: the app behind the peer may read slowly.
pub const RETIRED_TIMEOUT: Duration = Duration::from_secs(600);
/// Bytes that are read and discarded from the peer of a retired tunnel.
pub const RETIRED_BYTES_MAX: usize = 1024 * 1024;

/// The retired tunnels of one outbound.
#[derive(Debug)]
pub(super) struct RetiredTunnels {
    /// Oldest first.
    all: Mutex<Vec<Retired>>,
    max: usize,
}

impl RetiredTunnels {
    /// Holds at most `max` tunnels.
    pub(super) fn new(max: usize) -> Self {
        Self { all: Mutex::default(), max }
    }

    /// Adds a tunnel. Over the limit, the oldest is closed.
    pub(super) fn push(&self, retired: Retired) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(retired);
        if all.len() > self.max {
            all.remove(0);
        }
    }

    /// Closes those that are over at `now`. Returns whether none is left.
    pub(super) fn close_over(&self, now: Instant) -> bool {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain_mut(|retired| !retired.is_over(now));
        all.is_empty()
    }
}

/// A tunnel that has sent close_notify and waits for the peer's close.
#[derive(Debug)]
pub(super) struct Retired {
    tls: TlsStream,
    since: Instant,
    /// Our direction has ended: close_notify and FIN were sent.
    has_ended: bool,
    thrown_away_bytes: usize,
}

impl Retired {
    pub(super) fn new(tls: TlsStream, now: Instant) -> Self {
        Self { tls, since: now, has_ended: false, thrown_away_bytes: 0 }
    }

    /// Whether its socket can be closed without data loss, or the timeout has passed. Does not block.
    pub(super) fn is_over(&mut self, now: Instant) -> bool {
        let is_late = now.duration_since(self.since) > RETIRED_TIMEOUT;
        match self.end_own() {
            Ok(()) => is_late || self.peer_is_over(),
            Err(error) => {
                tracing::trace!(%error, "a retired tunnel broke");
                true
            }
        }
    }

    /// Sends the rest of close_notify, then FIN.
    fn end_own(&mut self) -> io::Result<()> {
        if self.has_ended {
            return Ok(());
        }
        if let Poll::Ready(sent) = self.tls.poll_unsent(&mut Context::from_waker(Waker::noop())) {
            sent?;
            SockRef::from(self.tls.tcp()).shutdown(Shutdown::Write)?;
            self.has_ended = true;
        }
        Ok(())
    }

    /// Discards received data. Returns whether the peer has closed.
    fn peer_is_over(&mut self) -> bool {
        let mut scratch = [0; 4096];
        while self.thrown_away_bytes < RETIRED_BYTES_MAX {
            match self.tls.tcp().try_read(&mut scratch) {
                Ok(0) => return true,
                Ok(bytes) => self.thrown_away_bytes += bytes,
                Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const CHUNK_BYTES: usize = 64 * 1024;

    /// A tunnel that is retired at `now`, and its peer.
    async fn retired(now: Instant) -> (Retired, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (peer, _) = listener.accept().await.unwrap();
        (Retired::new(TlsStream::with_known_secrets(near), now), peer)
    }

    #[tokio::test]
    async fn a_peer_that_does_not_end_is_waited_for_until_the_timeout() {
        let now = Instant::now();
        let (mut retired, _peer) = retired(now).await;
        assert!(!retired.is_over(now));
        assert!(!retired.is_over(now + RETIRED_TIMEOUT));
        assert!(retired.is_over(now + RETIRED_TIMEOUT + Duration::from_millis(1)));
    }

    #[tokio::test]
    async fn a_peer_that_ends_is_not_waited_for() {
        let now = Instant::now();
        let (mut retired, mut peer) = retired(now).await;
        assert!(!retired.is_over(now));
        peer.write_all(b"what was under way").await.unwrap();
        drop(peer);
        while !retired.is_over(now) {
            retired.tls.tcp().readable().await.unwrap();
        }
        assert!(retired.thrown_away_bytes < CHUNK_BYTES);
    }

    #[tokio::test]
    async fn data_on_a_retired_tunnel_is_discarded_up_to_the_limit() {
        let now = Instant::now();
        let (mut retired, mut peer) = retired(now).await;
        let mut sent = 0;
        while !retired.is_over(now) {
            assert!(sent < RETIRED_BYTES_MAX + CHUNK_BYTES, "it takes more than that");
            peer.write_all(&[7; CHUNK_BYTES]).await.unwrap();
            sent += CHUNK_BYTES;
            retired.tls.tcp().readable().await.unwrap();
        }
        assert!(retired.thrown_away_bytes >= RETIRED_BYTES_MAX, "{} bytes", retired.thrown_away_bytes);
    }

    #[tokio::test]
    async fn beyond_the_bound_the_one_that_was_retired_first_is_closed() {
        let (now, tunnels) = (Instant::now(), RetiredTunnels::new(2));
        let mut peers = Vec::new();
        for kept in [1, 2, 2] {
            let (retired, peer) = retired(now).await;
            tunnels.push(retired);
            assert_eq!(tunnels.all.lock().unwrap().len(), kept);
            peers.push(peer);
        }
        assert_eq!(peers[0].read(&mut [0; 1]).await.unwrap(), 0, "the first is closed");
        let open = peers[1].try_read(&mut [0; 1]).unwrap_err();
        assert_eq!(open.kind(), io::ErrorKind::WouldBlock, "the second is not");
        assert!(!tunnels.close_over(now));
        assert!(tunnels.close_over(now + RETIRED_TIMEOUT + Duration::from_millis(1)));
    }
}
