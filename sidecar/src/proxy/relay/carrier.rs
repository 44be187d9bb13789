//! The transport of the app's bytes to the peer: TLS itself, a leased tunnel, or an upgraded HTTP connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::CHUNK_BYTES;
use crate::proxy::tls::{Backlog, TlsStream};

/// Bytes reserved before each chunk for a header.
pub const HEADROOM_BYTES: usize = 16;

/// The app's side of a relay.
pub trait AppStream: AsyncRead + AsyncWrite + Unpin {
    /// The pending socket error, such as a reset, that the next read would return. It is reported once.
    fn take_error(&self) -> Option<io::Error>;
}

impl AppStream for TcpStream {
    fn take_error(&self) -> Option<io::Error> {
        Self::take_error(self).unwrap_or_else(Some)
    }
}

/// The result of one read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Bytes may have been read.
    More,
    /// The peer has ended its direction cleanly.
    End,
}

/// The peer's side of a relay.
pub trait Carrier {
    /// Handles control traffic.
    fn attend(&mut self, _: &mut Context<'_>) -> io::Result<()> {
        Ok(())
    }

    /// Reads once, and appends the app's bytes.
    fn poll_receive(&mut self, cx: &mut Context<'_>, to_app: &mut Vec<u8>) -> Poll<io::Result<Received>>;

    /// Whether a chunk can be sent now.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Sends the chunk without its first [`HEADROOM_BYTES`], after [`Self::poll_ready`] was ready.
    fn send(&mut self, cx: &mut Context<'_>, chunk: &mut [u8]) -> io::Result<()>;

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Whether the app's bytes have to wait, so that the app is not read.
    fn is_stalled(&self) -> bool;

    /// The pending socket error, such as a reset, that the next read would return. It is reported once.
    fn take_error(&self) -> Option<io::Error>;

    /// After the peer's clean end: ready if the connection fails while we still send. By default the next write
    /// detects it.
    fn poll_broken(&mut self, _: &mut Context<'_>) -> Poll<io::Error> {
        Poll::Pending
    }
}

impl Carrier for TlsStream {
    fn poll_receive(&mut self, cx: &mut Context<'_>, to_app: &mut Vec<u8>) -> Poll<io::Result<Received>> {
        let more = ready!(self.poll_plain(cx, CHUNK_BYTES, &mut |plain| to_app.extend_from_slice(plain)))?;
        Poll::Ready(Ok(if more { Received::More } else { Received::End }))
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_unsent(cx)
    }

    fn send(&mut self, cx: &mut Context<'_>, chunk: &mut [u8]) -> io::Result<()> {
        self.seal_now(cx, chunk.get(HEADROOM_BYTES..).unwrap_or_default())
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self).poll_shutdown(cx)
    }

    fn is_stalled(&self) -> bool {
        self.has_unsent()
    }

    fn take_error(&self) -> Option<io::Error> {
        AppStream::take_error(self.tcp())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_unsent(cx)
    }
}

/// Any stream of bytes.
#[derive(Debug)]
pub struct Over<S> {
    stream: S,
    /// Bytes that the stream has not accepted.
    unsent: Backlog,
}

impl<S> Over<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, unsent: Backlog::default() }
    }

    pub fn stream(&self) -> &S {
        &self.stream
    }
}

impl<S: AppStream> Carrier for Over<S> {
    fn poll_receive(&mut self, cx: &mut Context<'_>, to_app: &mut Vec<u8>) -> Poll<io::Result<Received>> {
        to_app.resize(CHUNK_BYTES, 0);
        let mut buffer = ReadBuf::new(to_app);
        let read = Pin::new(&mut self.stream).poll_read(cx, &mut buffer).map_ok(|()| buffer.filled().len());
        to_app.truncate(match &read {
            Poll::Ready(Ok(read)) => *read,
            _ => 0,
        });
        Poll::Ready(Ok(if ready!(read)? > 0 { Received::More } else { Received::End }))
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = &mut self.stream;
        self.unsent.poll_drain(|rest| Pin::new(&mut *stream).poll_write(cx, rest))
    }

    fn send(&mut self, cx: &mut Context<'_>, chunk: &mut [u8]) -> io::Result<()> {
        let bytes = chunk.get(HEADROOM_BYTES..).unwrap_or_default();
        let sent = match Pin::new(&mut self.stream).poll_write(cx, bytes) {
            Poll::Ready(sent) => sent?,
            Poll::Pending => 0,
        };
        self.unsent.pending().extend_from_slice(bytes.get(sent..).unwrap_or_default());
        Ok(())
    }

    fn is_stalled(&self) -> bool {
        !self.unsent.is_empty()
    }

    fn take_error(&self) -> Option<io::Error> {
        self.stream.take_error()
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_ready(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_ready(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}
