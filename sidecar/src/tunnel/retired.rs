//! A tunnel after its retirement: its socket stays open until the other side has taken what was said before.
//!
//! A socket that is closed while something of the peer's is unread, or still to come, is reset by the kernel (RFC 1122
//! §4.2.2.13), which also throws away what the peer has not received yet. The peer may well have something under way: an
//! AUTH REQUEST that answers NEWS, for example.

use std::io;
use std::net::Shutdown;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::tls::TlsStream;

/// A peer that does not end a retired tunnel is waited for so long: as the app behind it may take its time with what was
/// said before.
pub const RETIRED_TIMEOUT: Duration = Duration::from_secs(600);
/// What a peer still sends on a retired tunnel is thrown away, up to so many bytes.
pub const RETIRED_BYTES_MAX: usize = 1024 * 1024;

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
