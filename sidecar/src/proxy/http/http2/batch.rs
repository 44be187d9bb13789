//! Batches the writes of h2, which flushes after every DATA frame: each TLS write is a record and a system call.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes written at once: the content of one record (RFC 8446 §5.1).
const BATCH_BYTES_MAX: usize = 16 * 1024;
/// The capacity that an empty batch keeps.
const CAPACITY_KEPT_BYTES_MAX: usize = 4 * 1024;

/// Decides when a batch is written: after the other ready tasks have run, as they may add to it.
#[derive(Debug, Default)]
pub(super) struct BatchControl {
    state: Arc<BatchState>,
    /// The task has yielded to others.
    has_yielded: bool,
}

#[derive(Debug, Default)]
struct BatchState {
    /// Flushes are delayed.
    is_open: AtomicBool,
    has_bytes: AtomicBool,
}

impl BatchControl {
    /// Polls the connection. The caller drops it once it is ready.
    pub(super) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut connection: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        self.state.is_open.store(true, Ordering::Relaxed);
        let polled = connection(cx);
        self.state.is_open.store(false, Ordering::Relaxed);
        if polled.is_ready() || !self.state.has_bytes.load(Ordering::Relaxed) {
            return polled;
        }
        if !self.has_yielded {
            self.has_yielded = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.has_yielded = false;
        // h2 flushes when it has nothing more to send.
        connection(cx)
    }
}

/// A connection whose writes are batched.
#[derive(Debug)]
pub(super) struct BatchedWrites<S> {
    stream: S,
    bytes: Vec<u8>,
    /// Bytes already written.
    written: usize,
    state: Arc<BatchState>,
}

impl<S> BatchedWrites<S> {
    pub(super) fn new(stream: S) -> (Self, BatchControl) {
        let control = BatchControl::default();
        (Self { stream, bytes: Vec::new(), written: 0, state: control.state.clone() }, control)
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
        self.state.has_bytes.store(false, Ordering::Relaxed);
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
        self.state.has_bytes.store(!self.bytes.is_empty(), Ordering::Relaxed);
        Poll::Ready(Ok(self.bytes.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.state.is_open.load(Ordering::Relaxed) && self.room() > 0 {
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
    use std::sync::atomic::AtomicUsize;
    use std::task::{Wake, Waker};

    use super::*;

    /// Records each write.
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

    /// Counts wake-ups.
    #[derive(Debug, Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn flushes_before_and_during_the_turn_of_other_tasks_are_one_write() {
        let (mut stream, mut control) = BatchedWrites::new(Writes::default());
        let wakes = Arc::<Wakes>::default();
        let waker = Waker::from(wakes.clone());
        let mut cx = Context::from_waker(&waker);
        let mut said = vec![&b"two"[..], b"one"];
        for woken in [1, 1, 1] {
            let polled: Poll<()> = control.poll(&mut cx, |cx| {
                said.pop().into_iter().for_each(|bytes| write(&mut stream, cx, bytes));
                assert!(Pin::new(&mut stream).poll_flush(cx).is_ready());
                Poll::Pending
            });
            assert!(polled.is_pending());
            assert_eq!(wakes.0.load(Ordering::Relaxed), woken, "nobody is woken for nothing");
        }
        assert_eq!(stream.stream.0, [b"onetwo"]);
    }

    #[test]
    fn a_batch_is_bounded_and_loses_nothing_in_its_order() {
        let (mut stream, mut control) = BatchedWrites::new(Writes::default());
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
