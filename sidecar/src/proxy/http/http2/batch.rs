//! Batches what h2 writes in one poll of a connection: it flushes behind every DATA frame, and each write of TLS is a record
//! and a system call of its own.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are written at once: what fits into one record (RFC 8446 §5.1).
const BATCH_BYTES_MAX: usize = 16 * 1024;
/// The capacity that a batch keeps while nothing waits in it.
const CAPACITY_KEPT_BYTES_MAX: usize = 4 * 1024;

/// Says when a batch is to be written: at the end of each poll of the connection.
#[derive(Debug, Clone, Default)]
pub(super) struct BatchControl(Arc<BatchState>);

#[derive(Debug, Default)]
struct BatchState {
    /// A poll of the connection is under way: flushes wait for its end.
    is_open: AtomicBool,
    has_bytes: AtomicBool,
}

impl BatchControl {
    /// Polls the connection, and once more if that has left something to be flushed.
    pub(super) fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        mut connection: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        self.0.is_open.store(true, Ordering::Relaxed);
        let polled = connection(cx);
        self.0.is_open.store(false, Ordering::Relaxed);
        match polled {
            Poll::Pending if self.0.has_bytes.load(Ordering::Relaxed) => connection(cx),
            polled => polled,
        }
    }
}

/// A connection whose writes are batched.
#[derive(Debug)]
pub(super) struct BatchedWrites<S> {
    stream: S,
    bytes: Vec<u8>,
    /// How many of them are written.
    written: usize,
    control: BatchControl,
}

impl<S> BatchedWrites<S> {
    pub(super) fn new(stream: S) -> (Self, BatchControl) {
        let control = BatchControl::default();
        (Self { stream, bytes: Vec::new(), written: 0, control: control.clone() }, control)
    }

    fn room(&self) -> usize {
        BATCH_BYTES_MAX.saturating_sub(self.bytes.len())
    }
}

impl<S: AsyncWrite + Unpin> BatchedWrites<S> {
    /// Writes the whole batch.
    fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.bytes.get(self.written..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        self.bytes.clear();
        self.bytes.shrink_to(CAPACITY_KEPT_BYTES_MAX);
        self.written = 0;
        self.control.0.has_bytes.store(false, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for BatchedWrites<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for BatchedWrites<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.room() == 0 {
            ready!(self.poll_batch(cx))?;
        }
        let before = self.bytes.len();
        for slice in slices {
            let taken = slice.get(..slice.len().min(self.room())).unwrap_or_default();
            self.bytes.extend_from_slice(taken);
        }
        self.control.0.has_bytes.store(!self.bytes.is_empty(), Ordering::Relaxed);
        Poll::Ready(Ok(self.bytes.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.control.0.is_open.load(Ordering::Relaxed) && self.room() > 0 {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_batch(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_batch(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Keeps each write apart.
    #[derive(Debug, Default)]
    struct Writes(Vec<Vec<u8>>);

    impl AsyncWrite for Writes {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.0.push(bytes.to_vec());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn write(stream: &mut BatchedWrites<Writes>, cx: &mut Context<'_>, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let Poll::Ready(Ok(written)) = Pin::new(&mut *stream).poll_write(cx, bytes) else {
                panic!("it always takes some")
            };
            bytes = &bytes[written..];
            assert!(Pin::new(&mut *stream).poll_flush(cx).is_ready());
        }
    }

    #[test]
    fn the_flushes_of_one_poll_are_one_write() {
        let (mut stream, control) = BatchedWrites::new(Writes::default());
        let mut cx = Context::from_waker(Waker::noop());
        let mut polls = 0;
        let polled: Poll<()> = control.poll(&mut cx, |cx| {
            polls += 1;
            if polls == 1 {
                write(&mut stream, cx, b"one");
                write(&mut stream, cx, b"two");
                assert!(stream.stream.0.is_empty());
            } else {
                assert!(Pin::new(&mut stream).poll_flush(cx).is_ready());
            }
            Poll::Pending
        });
        assert!(polled.is_pending());
        assert_eq!((polls, &*stream.stream.0), (2, &[b"onetwo".to_vec()][..]));
        assert!(control.poll(&mut cx, |_| -> Poll<()> { Poll::Pending }).is_pending(), "nothing is left");
    }

    #[test]
    fn a_batch_is_bounded_and_loses_nothing_in_its_order() {
        let (mut stream, control) = BatchedWrites::new(Writes::default());
        let mut cx = Context::from_waker(Waker::noop());
        let sent: Vec<u8> = (0..100_000_u32).map(|at| at as u8).collect();
        let polled: Poll<()> = control.poll(&mut cx, |cx| {
            write(&mut stream, cx, &sent);
            assert!(stream.bytes.capacity() <= 2 * BATCH_BYTES_MAX);
            Poll::Ready(())
        });
        assert!(polled.is_ready());
        assert!(Pin::new(&mut stream).poll_shutdown(&mut cx).is_ready());
        assert!(stream.stream.0.iter().all(|write| write.len() <= BATCH_BYTES_MAX));
        assert_eq!(stream.stream.0.concat(), sent);
        assert!(stream.bytes.capacity() <= CAPACITY_KEPT_BYTES_MAX);
    }
}
