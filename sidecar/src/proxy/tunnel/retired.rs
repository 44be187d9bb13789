//! A tunnel after its retirement: its socket stays open until the other side has taken what was said before.
//!
//! A socket that is closed while something of the peer's is unread, or still to come, is reset by the kernel (RFC 1122
//! §4.2.2.13), which also throws away what the peer has not received yet. The peer may well have something under way: an
//! AUTH REQUEST that answers NEWS, for example.

use std::io;
use std::net::Shutdown;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::proxy::tls::TlsStream;

/// A peer that does not end a retired tunnel is waited for so long: as the app behind it may take its time with what was
/// said before.
pub const RETIRED_TIMEOUT: Duration = Duration::from_secs(600);
/// What a peer still sends on a retired tunnel is thrown away, up to so many bytes.
pub const RETIRED_BYTES_MAX: usize = 1024 * 1024;

/// The retired tunnels of one outbound.
#[derive(Debug)]
pub(super) struct RetiredTunnels {
    /// The longest retired first.
    all: Mutex<Vec<Retired>>,
    max: usize,
}

impl RetiredTunnels {
    /// At most so many.
    pub(super) fn new(max: usize) -> Self {
        Self { all: Mutex::default(), max }
    }

    /// One more. Beyond the bound, the one that was retired first is closed.
    pub(super) fn push(&self, retired: Retired) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(retired);
        if all.len() > self.max {
            all.remove(0);
        }
    }

    /// Closes those that are over at `now`. Whether none is left.
    pub(super) fn close_over(&self, now: Instant) -> bool {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain_mut(|retired| !retired.is_over(now));
        all.is_empty()
    }
}

/// It has said close_notify, and waits for the end of the other side.
#[derive(Debug)]
pub(super) struct Retired {
    tls: TlsStream,
    since: Instant,
    /// The own direction has ended: close_notify has left, and FIN behind it.
    has_ended: bool,
    thrown_away_bytes: usize,
}

impl Retired {
    pub(super) fn new(tls: TlsStream, now: Instant) -> Self {
        Self { tls, since: now, has_ended: false, thrown_away_bytes: 0 }
    }

    /// Whether its socket can be closed without harm, or has been waited for long enough. Waits for nothing.
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

    /// Sends what is left of close_notify, then FIN.
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

    /// Throws away what has come. Whether that was the last of it.
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
    async fn what_a_peer_still_sends_is_thrown_away_up_to_the_bound() {
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
