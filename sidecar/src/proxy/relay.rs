//! Copies bytes between the app's connection and its peer, and preserves how each direction ends.
//!
//! A clean end of one side (FIN, close_notify) is forwarded as a clean end while the other direction continues.
//! Anything else, a reset or a TLS stream truncated without close_notify, ends both directions at once and never as a
//! clean end. Buffers exist only while bytes move: a read goes to a scratch buffer that all connections of a thread
//! share, and only what the other side does not accept at once is kept.

mod carrier;

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;

use crate::proxy::connections::{RelayError, Traffic};
use crate::proxy::tls::{Backlog, PLAIN_BYTES_MAX, SEALED_AT_ONCE_BYTES};
pub use carrier::{AppStream, Carrier, HEADROOM_BYTES, Over, Received};

/// Bytes read from the app at a time, and at least decrypted for it in one turn: with a frame header, the most that
/// is sealed at once. Measured: this size takes a third less CPU than 8 KiB; larger ones gain nothing.
pub const CHUNK_BYTES: usize = SEALED_AT_ONCE_BYTES - HEADROOM_BYTES;
/// Reads of one direction before the task yields to another connection.
const READS_PER_TURN: usize = 16;

thread_local! {
    /// Bytes read from the app, after room for a header.
    static FROM_APP: RefCell<Box<[u8]>> = RefCell::new(vec![0; HEADROOM_BYTES + CHUNK_BYTES].into());
    /// Bytes decrypted for the app. Allocated at full size: a growing buffer would fragment the heap.
    static TO_APP: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(CHUNK_BYTES + PLAIN_BYTES_MAX));
}

/// Copies in both directions until both have ended, or one side fails.
pub async fn relay<A, C>(app: &mut A, peer: &mut C, bytes: &Traffic) -> Result<(), RelayError>
where
    A: AppStream,
    C: Carrier,
{
    let mut relay =
        Relay { app, peer, bytes, kept: Backlog::default(), inward: State::Open, outward: State::Open };
    poll_fn(|cx| relay.poll(cx)).await
}

struct Relay<'a, A, C> {
    app: &'a mut A,
    peer: &'a mut C,
    bytes: &'a Traffic,
    /// Bytes that the app has not accepted yet.
    kept: Backlog,
    /// From the peer to the app.
    inward: State,
    /// From the app to the peer.
    outward: State,
}

/// The state of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The reader has ended; the end is being sent to the writer.
    Ending,
    Ended,
}

impl<A: AppStream, C: Carrier> Relay<'_, A, C> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        let relayed = self.poll_both(cx);
        if relayed.is_pending() {
            self.note_stalls(cx)?;
        }
        relayed
    }

    /// A side is not read while the other accepts nothing, and may be reset meanwhile: when the register requests it,
    /// its socket error is checked.
    fn note_stalls(&mut self, cx: &mut Context<'_>) -> Result<(), RelayError> {
        let (app_stalls, peer_stalls) = (!self.kept.is_empty(), self.peer.is_stalled());
        self.bytes.app_stalls.store(app_stalls, Ordering::Relaxed);
        self.bytes.peer_stalls.store(peer_stalls, Ordering::Relaxed);
        if !app_stalls && !peer_stalls {
            return Ok(());
        }
        self.bytes.waker.register(cx.waker());
        if !self.bytes.look.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        if let Some(error) = self.app.take_error() {
            return Err(RelayError::App(error));
        }
        self.peer.take_error().map_or(Ok(()), |error| Err(RelayError::Peer(error)))
    }

    fn poll_both(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        self.peer.attend(cx).map_err(RelayError::Peer)?;
        let inward = self.poll_inward(cx)?;
        let outward = self.poll_outward(cx)?;
        match (inward, outward) {
            (Poll::Ready(()), Poll::Ready(())) => Poll::Ready(Ok(())),
            (Poll::Ready(()), Poll::Pending) => {
                self.peer.poll_broken(cx).map(|error| Err(RelayError::Peer(error)))
            }
            _ => Poll::Pending,
        }
    }

    fn poll_inward(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        for _ in 0..READS_PER_TURN {
            let app = &mut *self.app;
            let drained = self.kept.poll_drain(|rest| Pin::new(&mut *app).poll_write(cx, rest));
            ready!(drained).map_err(RelayError::App)?;
            match self.inward {
                State::Ended => return Poll::Ready(Ok(())),
                State::Ending => {
                    ready!(Pin::new(&mut *self.app).poll_shutdown(cx)).map_err(RelayError::App)?;
                    self.inward = State::Ended;
                }
                State::Open => match self.poll_receive(cx)? {
                    Poll::Ready(Received::More) => {}
                    Poll::Ready(Received::End) => {
                        self.inward = State::Ending;
                        self.bytes.half_closed.store(true, Ordering::Relaxed);
                    }
                    Poll::Pending => {
                        // No more bytes: everything buffered must be sent now.
                        ready!(Pin::new(&mut *self.app).poll_flush(cx)).map_err(RelayError::App)?;
                        return Poll::Pending;
                    }
                },
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads once and forwards what the app accepts at once; the rest is kept.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Received, RelayError>> {
        TO_APP.with_borrow_mut(|to_app| {
            to_app.clear();
            let received = ready!(self.peer.poll_receive(cx, to_app)).map_err(RelayError::Peer)?;
            self.bytes.to_app.fetch_add(to_app.len() as u64, Ordering::Relaxed);
            if to_app.is_empty() {
                return Poll::Ready(Ok(received));
            }
            let written = match Pin::new(&mut *self.app).poll_write(cx, to_app) {
                Poll::Ready(written) => written.map_err(RelayError::App)?,
                Poll::Pending => 0,
            };
            if let Some(rest) = to_app.get(written..).filter(|rest| !rest.is_empty()) {
                self.kept = Backlog::from(rest.to_vec());
            }
            Poll::Ready(Ok(received))
        })
    }

    fn poll_outward(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        for _ in 0..READS_PER_TURN {
            match self.outward {
                State::Ended => return Poll::Ready(Ok(())),
                State::Ending => {
                    ready!(self.peer.poll_finish(cx)).map_err(RelayError::Peer)?;
                    self.outward = State::Ended;
                }
                State::Open => {
                    let sent = self.poll_send(cx)?;
                    if sent.is_pending() {
                        // No more bytes: everything buffered must be sent now.
                        ready!(self.peer.poll_flush(cx)).map_err(RelayError::Peer)?;
                        return Poll::Pending;
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads once, when the peer can accept a chunk.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        ready!(self.peer.poll_ready(cx)).map_err(RelayError::Peer)?;
        FROM_APP.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            buffer.set_filled(HEADROOM_BYTES);
            ready!(Pin::new(&mut *self.app).poll_read(cx, &mut buffer)).map_err(RelayError::App)?;
            let read = buffer.filled().len() - HEADROOM_BYTES;
            if read == 0 {
                self.outward = State::Ending;
                if !self.bytes.half_closed.swap(true, Ordering::Relaxed) {
                    self.bytes.app_ended_first.store(true, Ordering::Relaxed);
                }
                return Poll::Ready(Ok(()));
            }
            self.bytes.to_peer.fetch_add(read as u64, Ordering::Relaxed);
            self.peer.send(cx, buffer.filled_mut()).map_err(RelayError::Peer)?;
            Poll::Ready(Ok(()))
        })
    }
}
