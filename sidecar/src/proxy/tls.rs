//! A TLS connection without buffers while it is idle: rustls performs the handshake; after it, records are sealed and
//! opened in scratch buffers that all connections of a thread share.

#[cfg(fuzzing)]
pub mod fuzzing;
mod handshake;
mod hello;
mod machine;
mod records;
mod scratch;

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::Error as TlsError;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

pub use handshake::{EstablishedTls, HandshakeFailure, connect};
pub use hello::{Hello, client_hello};
pub use records::PLAIN_BYTES_MAX;
use records::Records;
pub use scratch::Backlog;
use scratch::{CIPHERTEXT, Outgoing, SEALED, fill};

/// Payload of one TCP segment over loopback: the MTU without IPv6, TCP and timestamp headers.
const SEGMENT_BYTES: usize = 65_536 - 40 - 20 - 12;
/// Overhead of the records that fit, each of 2^14 bytes (RFC 8446 §5.1): a header of 5 bytes, the content type, and a
/// tag of 16 bytes (§5.2).
const SEALING_BYTES: usize = 4 * (5 + 1 + 16);
/// Most bytes sealed at a time. Measured with bulk data: 64 KiB would be sent in two segments, the second of which
/// wakes the reader again for a hundred bytes, and take a fifth more CPU.
pub const SEALED_AT_ONCE_BYTES: usize = SEGMENT_BYTES - SEALING_BYTES;

/// A TLS connection over TCP, client or server, after its handshake.
pub struct TlsStream {
    tcp: TcpStream,
    records: Box<Records>,
    /// Ciphertext of an incomplete record, or not processed yet.
    incoming: Vec<u8>,
    /// `incoming` may contain complete records.
    unread: bool,
    /// Decrypted bytes that have not been read.
    plain: Backlog,
    /// Ciphertext that the socket has not accepted.
    unsent: Backlog,
    /// The peer's close_notify was received.
    ended: bool,
}

impl TlsStream {
    /// `incoming` was received after the handshake.
    fn new(tcp: TcpStream, records: Records, incoming: Vec<u8>) -> Self {
        Self {
            tcp,
            records: Box::new(records),
            unread: !incoming.is_empty(),
            incoming,
            plain: Backlog::default(),
            unsent: Backlog::default(),
            ended: false,
        }
    }

    /// The client side of a connection with publicly known secrets.
    #[cfg(test)]
    pub(crate) fn with_known_secrets(tcp: TcpStream) -> Self {
        let suite = postern_proto::crypto::provider().cipher_suites[0];
        let secret = |byte: u8| {
            let of = |bytes| postern_proto::mtls::TrafficSecret::new(suite, &vec![byte; bytes]);
            [32, 48].into_iter().find_map(of).unwrap()
        };
        Self::new(tcp, Records::new(rustls::Side::Client, secret(1), secret(2)).unwrap(), Vec::new())
    }

    /// The TCP connection.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Reads until bytes are decrypted and passes them to `take`, until about `room` bytes are taken. Ready with
    /// `false` once the peer has sent close_notify. A connection that ends without it is truncated (RFC 8446 §6.1).
    pub fn poll_plain(
        &mut self,
        cx: &mut Context<'_>,
        room: usize,
        take: &mut dyn FnMut(&[u8]),
    ) -> Poll<io::Result<bool>> {
        if !self.plain.is_empty() {
            take(self.plain.rest());
            self.plain.clear();
            return Poll::Ready(Ok(true));
        }
        while !self.ended {
            if ready!(self.poll_records(cx, room, take))? {
                return Poll::Ready(Ok(true));
            }
        }
        Poll::Ready(Ok(false))
    }

    /// Decrypts the received records. Ready with whether any bytes were taken.
    fn poll_records(
        &mut self,
        cx: &mut Context<'_>,
        room: usize,
        take: &mut dyn FnMut(&[u8]),
    ) -> Poll<io::Result<bool>> {
        let opened = CIPHERTEXT.with_borrow_mut(|scratch| {
            let from = (!self.unread).then_some(&mut self.tcp);
            let filled = ready!(fill(cx, scratch, &self.incoming, from))?;
            let bytes = scratch.get_mut(..filled).unwrap_or_default();
            let mut answers = Outgoing::default();
            let opened = self.records.open(bytes, room, &mut answers, take);
            self.unsent.pending().extend_from_slice(answers.filled());
            self.incoming = bytes.get(opened.used..).unwrap_or_default().to_vec();
            Poll::Ready(Ok::<_, io::Error>(opened))
        });
        let opened = ready!(opened)?;
        self.unread = opened.taken >= room && !self.incoming.is_empty();
        self.ended |= opened.ended;
        match opened.result {
            Ok(()) => Poll::Ready(Ok(opened.taken > 0)),
            Err(error) => self.break_off(cx, error),
        }
    }

    /// The peer has violated the protocol: sends the queued alert, as far as the socket accepts it.
    fn break_off<T>(&mut self, cx: &mut Context<'_>, error: TlsError) -> Poll<io::Result<T>> {
        let told = self.poll_unsent(cx);
        tracing::debug!(%error, ?told, "a TLS connection broke");
        Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)))
    }

    /// Seals at most [`SEALED_AT_ONCE_BYTES`] and sends them as far as the socket accepts them. Pending, with nothing
    /// taken, while an earlier write is queued. Ready with how many of `bytes` were taken.
    pub fn poll_seal(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_unsent(cx))?;
        let bytes = bytes.get(..SEALED_AT_ONCE_BYTES).unwrap_or(bytes);
        self.seal_now(cx, bytes)?;
        Poll::Ready(Ok(bytes.len()))
    }

    /// Seals all bytes and sends what the socket accepts at once.
    pub fn seal_now(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<()> {
        SEALED.with_borrow_mut(|sealed| {
            sealed.clear();
            self.records.seal(bytes, sealed)?;
            self.send(cx, sealed.filled())
        })
    }

    /// Seals bytes that are sent first; [`Self::poll_unsent`] sends them.
    pub fn queue(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut sealed = Outgoing::default();
        self.records.seal(bytes, &mut sealed)?;
        self.unsent.pending().extend_from_slice(sealed.filled());
        Ok(())
    }

    /// Sends what the socket accepts at once, and queues the rest.
    fn send(&mut self, cx: &mut Context<'_>, sealed: &[u8]) -> io::Result<()> {
        let sent = match Pin::new(&mut self.tcp).poll_write(cx, sealed) {
            Poll::Ready(sent) => sent?,
            Poll::Pending => 0,
        };
        self.unsent.pending().extend_from_slice(sealed.get(sent..).unwrap_or_default());
        Ok(())
    }

    /// Sends the queued bytes.
    pub fn poll_unsent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let tcp = &mut self.tcp;
        self.unsent.poll_drain(|rest| Pin::new(&mut *tcp).poll_write(cx, rest))
    }

    /// Whether bytes are queued.
    pub fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Queues close_notify; [`Self::poll_unsent`] sends it.
    pub fn end(&mut self) -> io::Result<()> {
        let mut said = Outgoing::default();
        self.records.close(&mut said)?;
        self.unsent.pending().extend_from_slice(said.filled());
        Ok(())
    }

    /// Whether no unread data was received, as far as is known without blocking; true between two leases.
    pub fn is_quiet(&self) -> bool {
        let mut look = [0];
        self.plain.is_empty()
            && self.unsent.is_empty()
            && self.incoming.is_empty()
            && !self.ended
            && self.tcp.try_read(&mut look).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Whether the peer has sent close_notify.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Returns the TCP connection, to be closed in another way.
    pub fn into_tcp(self) -> TcpStream {
        self.tcp
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.plain.is_empty() {
            let mut rest = Vec::new();
            let some = ready!(this.poll_plain(cx, buffer.remaining(), &mut |plain| {
                let (now, later) = plain.split_at(plain.len().min(buffer.remaining()));
                buffer.put_slice(now);
                rest.extend_from_slice(later);
            }));
            this.plain = Backlog::from(rest);
            return Poll::Ready(some.map(|_| ()));
        }
        let taken = this.plain.rest().len().min(buffer.remaining());
        buffer.put_slice(this.plain.rest().get(..taken).unwrap_or_default());
        this.plain.take(taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_seal(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_unsent(cx)
    }

    /// Ends our direction: close_notify, then FIN.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end()?;
        ready!(self.poll_unsent(cx))?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream")
            .field("tcp", &self.tcp)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}
