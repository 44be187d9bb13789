//! One side of a tunnel: TLS, frames, and the lease they belong to.

use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use thiserror::Error;

use super::frame::{DATA_BYTES_MAX, Frame, FrameError, HEADER_BYTES, NOTE_BYTES_MAX, header};
use super::lease::{Lease, Role, Violation};
use super::open::Open;
use super::reader::Reader;
use super::reauthentication::{Reauthentication, ReauthenticationError};
use super::replay::ReplayBuffer;
use super::retired::Retired;
use crate::network::socket::{close_cleanly, reset_on_close};
use crate::proxy::relay::{CHUNK_BYTES, Carrier, HEADROOM_BYTES, Received};
use crate::proxy::tls::TlsStream;

/// A tunnel, between leases or in one.
#[derive(Debug)]
pub struct TunnelConnection {
    tls: TlsStream,
    reader: Reader,
    /// Frames that are sent before data.
    control: Vec<u8>,
    /// Bytes of the app sent before the server's answer, for a retry on another tunnel.
    unanswered_bytes: Vec<u8>,
    reauthentication: Option<Box<Reauthentication>>,
    accepted: Accepted,
}

/// Whether ACCEPT was sent. The app often responds soon: one write for both wakes the other side once. So ACCEPT
/// waits until the other tasks of this thread have had a turn, and no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Accepted {
    ToBeHeld,
    Held,
    MayLeave,
}

/// Protocol violations that end a tunnel.
#[derive(Debug, Error)]
pub enum TunnelError {
    #[error("no frame of postern/1")]
    Frame(#[from] FrameError),
    #[error("the rules of postern/1 are broken")]
    Violation(#[from] Violation),
    #[error("re-authentication failed")]
    Reauthentication(#[from] ReauthenticationError),
    #[error("a tunnel without exporter cannot be re-authenticated")]
    NoReauthentication,
}

impl TunnelError {
    /// The protocol violation, if an I/O error carries one.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// A stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            // The proof was valid; the policy no longer allows its peer.
            Self::Reauthentication(ReauthenticationError::Denied(denial)) => denial.code,
            Self::Reauthentication(ReauthenticationError::NoIdentity) => "no_identity",
            Self::Reauthentication(_) | Self::NoReauthentication => "reauthentication_failed",
            Self::Frame(_) | Self::Violation(_) => "tunnel_violation",
        }
    }
}

impl From<TunnelError> for io::Error {
    fn from(error: TunnelError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

impl TunnelConnection {
    /// Unless ended by [`Self::into_tls`], dropping it resets TCP, so that the peer learns of it even if it cannot be
    /// sent an alert.
    pub fn new(tls: TlsStream, role: Role) -> Self {
        reset_on_close(tls.tcp());
        Self {
            tls,
            reader: Reader::new(role),
            control: Vec::new(),
            unanswered_bytes: Vec::new(),
            reauthentication: None,
            accepted: Accepted::MayLeave,
        }
    }

    /// Enables re-authentication: from now on both sides prove their newer certificates.
    pub fn set_reauthentication(&mut self, reauthentication: Reauthentication) {
        self.reauthentication = Some(Box::new(reauthentication));
    }

    pub fn reauthentication(&mut self) -> Option<&mut Reauthentication> {
        self.reauthentication.as_deref_mut()
    }

    pub fn tls(&self) -> &TlsStream {
        &self.tls
    }

    /// Returns the TLS stream, to be closed cleanly.
    pub fn into_tls(self) -> TlsStream {
        close_cleanly(self.tls.tcp());
        self.tls
    }

    pub fn lease(&self) -> &Lease {
        &self.reader.lease
    }

    /// Sends close_notify and closes the socket. Only for a tunnel without data in flight.
    pub fn close(self) {
        let closed = self.retire().is_none();
        tracing::trace!(closed, "a tunnel is closed");
    }

    /// Sends close_notify, so that the peer sees a clean end. The socket is closed once [`Retired::is_over`].
    pub(super) fn retire(self) -> Option<Retired> {
        let mut tls = self.into_tls();
        let ended = tls.end();
        tracing::trace!(?ended, "a tunnel is retired");
        let now = Instant::now();
        let mut retired = Retired::new(tls, now);
        (ended.is_ok() && !retired.is_over(now)).then_some(retired)
    }

    /// The document of the REFUSE or RESET that ended the lease.
    pub fn note(&self) -> &[u8] {
        &self.reader.note
    }

    /// Whether it can carry another lease, as far as is known without I/O.
    pub fn is_quiet(&self) -> bool {
        self.reader.is_between() && self.control.is_empty() && self.tls.is_quiet()
    }

    /// Begins a lease with the replayed bytes of the app. OPEN is sent with the first poll.
    pub fn open(&mut self, open: Open, replay: ReplayBuffer) {
        let unanswered_bytes = replay.into_bytes();
        self.reader.lease.open();
        self.reader.note.clear();
        Frame::Open(open).encode(&mut self.control);
        if !unanswered_bytes.is_empty() {
            self.control.extend_from_slice(&header(unanswered_bytes.len()));
            self.control.extend_from_slice(&unanswered_bytes);
        }
        self.unanswered_bytes = unanswered_bytes;
    }

    /// The app's bytes, if the server has certainly not processed them: it sent close_notify instead of an answer, or
    /// nothing of the app's was sent.
    pub fn not_acted_on(&mut self) -> Option<ReplayBuffer> {
        let unanswered = !self.reader.lease.is_answered() && !self.reader.is_broken;
        let is_certain = self.unanswered_bytes.is_empty() || self.tls.is_ended();
        (unanswered && is_certain).then(|| ReplayBuffer::new(std::mem::take(&mut self.unanswered_bytes)))
    }

    /// Waits for OPEN; `None` when the peer has ended the tunnel.
    pub fn poll_opened(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Open>>> {
        ready!(self.poll_sent(cx))?;
        loop {
            if let Some(open) = self.reader.opened.take() {
                return Poll::Ready(Ok(Some(open)));
            }
            if !ready!(self.poll_frames(cx, &mut Vec::new()))? {
                return Poll::Ready(Ok(None));
            }
        }
    }

    pub fn accept(&mut self) {
        self.reader.lease.accept();
        Frame::Accept.encode(&mut self.control);
        self.accepted = Accepted::ToBeHeld;
    }

    /// Refuses the lease, with a problem document.
    pub fn refuse(&mut self, mut note: Vec<u8>) {
        if note.len() > NOTE_BYTES_MAX {
            note.clear();
        }
        self.reader.lease.refuse();
        Frame::Refuse(note).encode(&mut self.control);
    }

    /// Resets the lease, if it is not over.
    pub fn reset(&mut self, note: Vec<u8>) {
        if self.reader.lease.reset() {
            Frame::Reset { lease: self.reader.lease.number(), note }.encode(&mut self.control);
        }
    }

    /// Waits until both directions of the lease have ended; discards received data.
    pub fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.unanswered_bytes = Vec::new();
        let mut nobodys = Vec::new();
        loop {
            if self.reader.lease.is_refused() || self.reader.lease.is_reset_by_peer() {
                self.end_own();
            }
            ready!(self.poll_sent(cx))?;
            if self.reader.lease.is_over() && !self.reader.is_broken {
                return Poll::Ready(Ok(()));
            }
            nobodys.clear();
            if !ready!(self.poll_frames(cx, &mut nobodys))? {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Ends our direction after the peer's.
    fn end_own(&mut self) {
        if self.reader.lease.is_reset_by_peer() {
            self.reset(Vec::new());
        } else if self.reader.lease.is_open() {
            self.reader.lease.finish();
            Frame::Fin.encode(&mut self.control);
        }
    }

    /// Sends the queued bytes.
    pub fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.control.is_empty() {
            let sealed = ready!(self.tls.poll_seal(cx, &self.control))?;
            self.control.drain(..sealed);
        }
        self.control = Vec::new();
        self.tls.poll_unsent(cx)
    }

    /// Reads once, and appends the app's bytes. Ready with `false` once the peer has ended the tunnel.
    fn poll_frames(&mut self, cx: &mut Context<'_>, to_app: &mut Vec<u8>) -> Poll<io::Result<bool>> {
        let Self { tls, reader, .. } = self;
        if reader.is_broken {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        reader.stopped = false;
        if reader.later.is_empty() {
            let more = ready!(tls.poll_plain(cx, CHUNK_BYTES, &mut |plain| reader.read(plain, to_app)))?;
            if !more {
                return Poll::Ready(Ok(false));
            }
        } else {
            reader.read_later(to_app);
        }
        if let Some(error) = reader.broken.take() {
            reader.is_broken = true;
            return Poll::Ready(Err((*error).into()));
        }
        self.answer_auths(cx)?;
        Poll::Ready(Ok(true))
    }

    fn answer_auths(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.reader.auths.is_empty() {
            return Ok(());
        }
        for body in std::mem::take(&mut self.reader.auths) {
            let reauthentication = self.reauthentication.as_mut().ok_or(TunnelError::NoReauthentication)?;
            if let Err(error) = reauthentication.receive(&body, &mut self.control) {
                self.reader.is_broken = true;
                return Err(TunnelError::from(error).into());
            }
        }
        self.try_send(cx)
    }

    /// Sends what the socket accepts now.
    fn try_send(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.poll_sent(cx) {
            Poll::Ready(sent) => sent,
            Poll::Pending => Ok(()),
        }
    }
}

impl Carrier for TunnelConnection {
    fn attend(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(reauthentication) = &mut self.reauthentication else { return Ok(()) };
        reauthentication.send_news(cx, &mut self.control);
        match self.accepted {
            Accepted::ToBeHeld => {
                self.accepted = Accepted::Held;
                after_others(cx);
                Ok(())
            }
            // Sent with the app's next bytes, or by the flush if there are none.
            Accepted::Held => {
                self.accepted = Accepted::MayLeave;
                Ok(())
            }
            Accepted::MayLeave if self.control.is_empty() || !self.reader.lease.is_answered() => Ok(()),
            Accepted::MayLeave => self.try_send(cx),
        }
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>, to_app: &mut Vec<u8>) -> Poll<io::Result<Received>> {
        let lease = &self.reader.lease;
        if lease.is_reset_by_peer() || lease.is_refused() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if lease.is_finished_by_peer() {
            return Poll::Ready(Ok(Received::End));
        }
        let waited = !lease.is_answered();
        if !ready!(self.poll_frames(cx, to_app))? {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        if waited && self.reader.lease.is_answered() {
            self.unanswered_bytes = Vec::new();
            if let Some(reauthentication) = &self.reauthentication {
                reauthentication.answered();
            }
        }
        Poll::Ready(Ok(Received::More))
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.tls.poll_unsent(cx))?;
        // Until the answer arrives, no more is sent than can be replayed.
        if self.unanswered_bytes.is_empty() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn send(&mut self, cx: &mut Context<'_>, chunk: &mut [u8]) -> io::Result<()> {
        let data_bytes = chunk.len() - HEADROOM_BYTES;
        debug_assert!(data_bytes <= DATA_BYTES_MAX);
        let begin = HEADROOM_BYTES - HEADER_BYTES;
        if let Some(place) = chunk.get_mut(begin..HEADROOM_BYTES) {
            place.copy_from_slice(&header(data_bytes));
        }
        if self.reader.lease.is_answered() && self.control.is_empty() {
            return self.tls.seal_now(cx, chunk.get(begin..).unwrap_or_default());
        }
        if !self.reader.lease.is_answered() {
            self.unanswered_bytes = chunk.get(HEADROOM_BYTES..).unwrap_or_default().to_vec();
        }
        self.control.extend_from_slice(chunk.get(begin..).unwrap_or_default());
        self.try_send(cx)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.reader.lease.is_open() {
            self.reader.lease.finish();
            Frame::Fin.encode(&mut self.control);
        }
        self.poll_sent(cx)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.accepted == Accepted::Held { Poll::Ready(Ok(())) } else { self.poll_sent(cx) }
    }

    fn is_stalled(&self) -> bool {
        self.tls.has_unsent() || !self.unanswered_bytes.is_empty() || !self.control.is_empty()
    }

    fn take_error(&self) -> Option<io::Error> {
        Carrier::take_error(&self.tls)
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let mut nobodys = Vec::new();
        loop {
            if self.reader.lease.is_reset_by_peer() {
                return Poll::Ready(io::ErrorKind::ConnectionReset.into());
            }
            if self.reader.lease.is_over() {
                // Only the last write is still queued. Later data belongs to the next lease.
                return Poll::Pending;
            }
            match ready!(self.poll_frames(cx, &mut nobodys)) {
                Ok(true) => {}
                Ok(false) => return Poll::Ready(io::ErrorKind::UnexpectedEof.into()),
                Err(error) => return Poll::Ready(error),
            }
        }
    }
}

/// Wakes the task after the other ready tasks have run and I/O has been polled.
fn after_others(cx: &mut Context<'_>) {
    let yields = pin!(tokio::task::yield_now());
    let _waits = yields.poll(cx);
}
