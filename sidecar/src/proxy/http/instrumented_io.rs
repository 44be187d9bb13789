//! An I/O wrapper that counts bytes, checks requests, and captures the alert that ended a connection.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use rustls::AlertDescription;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

use super::frames::Frames;
use super::framing::{CheckedBytes, RawHeadCheck};
use super::interim::InterimQueue;
use super::preface::{ServerState, SettingsReader};
use super::upgrade::HasTcp;
use crate::network::socket::{alert_in, close_cleanly, reset_on_close};
use crate::observability::metrics::PooledConnection;
use crate::proxy::connections::{Registration, Traffic};
use crate::proxy::upstream::SelectedAddress;

/// A connection and the observers of its bytes.
#[derive(Debug)]
pub(super) struct InstrumentedIo<S> {
    stream: S,
    /// Already read, to be checked and passed on.
    first: Vec<u8>,
    /// Already checked, to be passed on.
    checked: Vec<u8>,
    heads: Option<Arc<RawHeadCheck>>,
    frames: Option<Frames>,
    settings: Option<SettingsReader>,
    alert: Option<Arc<OnceLock<AlertDescription>>>,
    leased: Option<SelectedAddress>,
    _counted: Option<PooledConnection>,
    /// The registration of a peer's connection, held until the connection is closed: bytes read from it go to the
    /// app.
    registration: Option<Arc<Registration>>,
    /// Cancelled when this many bytes have been read.
    begins: Option<(CancellationToken, usize)>,
    /// Checks whether the connection was reset.
    probe: Option<Arc<ResetProbe>>,
    /// Sent while hyper has nothing to send.
    interim: Option<Arc<InterimQueue>>,
    /// Reset on close, unless it was shut down before.
    resets: bool,
}

/// Checks whether a connection was reset. hyper does not read from an HTTP/1 connection while it responds to a
/// request, so it would detect a reset only when it writes.
#[derive(Debug, Default)]
pub(super) struct ResetProbe(AtomicBool);

impl ResetProbe {
    /// Checks the connection at its next poll.
    pub(super) fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed)
    }
}

impl<S> InstrumentedIo<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            first: Vec::new(),
            checked: Vec::new(),
            heads: None,
            frames: None,
            settings: None,
            alert: None,
            leased: None,
            _counted: None,
            registration: None,
            begins: None,
            probe: None,
            interim: None,
            resets: false,
        }
    }

    /// The wrapped stream.
    pub(super) fn stream(&self) -> &S {
        &self.stream
    }

    /// Passes on these bytes first.
    pub(super) fn after(mut self, mut first: Vec<u8>) -> Self {
        first.append(&mut self.checked);
        first.append(&mut self.first);
        self.first = first;
        self
    }

    /// Checks HTTP/1 requests.
    pub(super) fn heads(mut self, heads: Arc<RawHeadCheck>) -> Self {
        self.heads = Some(heads);
        self
    }

    /// Checks the frames of HTTP/2.
    pub(super) fn frames(mut self, frames: Frames) -> Self {
        self.frames = Some(frames);
        self
    }

    /// Reads a server's SETTINGS and GOAWAY.
    pub(super) fn server_state(mut self, server_state: Arc<ServerState>) -> Self {
        self.settings = Some(SettingsReader::new(server_state));
        self
    }

    /// Counts it at its address and in its pool.
    pub(super) fn lease(mut self, leased: SelectedAddress) -> Self {
        self._counted = Some(leased.pooled());
        self.leased = Some(leased);
        self
    }

    /// Counts the bytes of a peer's connection, which stays registered until it is closed.
    pub(super) fn registered(mut self, registration: Arc<Registration>) -> Self {
        self.registration = Some(registration);
        self
    }

    /// Cancels `begun` when its first `least` bytes have been read.
    pub(super) fn begins(mut self, begun: CancellationToken, least: usize) -> Self {
        self.begins = Some((begun, least));
        self
    }

    /// Fails when it was reset and `probe` requests a check.
    pub(super) fn probed(mut self, probe: Arc<ResetProbe>) -> Self {
        self.probe = Some(probe);
        self
    }

    /// Sends interim responses between the writes of hyper.
    pub(super) fn interim(mut self, interim: Arc<InterimQueue>) -> Self {
        self.interim = Some(interim);
        self
    }

    /// Captures the alert that ends the connection.
    pub(super) fn alert(mut self, alert: Arc<OnceLock<AlertDescription>>) -> Self {
        self.alert = Some(alert);
        self
    }
}

impl<S> InstrumentedIo<S> {
    fn traffic(&self) -> Option<&Traffic> {
        self.registration.as_deref().map(|registration| &*registration.traffic)
    }
}

impl<S: HasTcp> InstrumentedIo<S> {
    /// Resets the connection unless HTTP shuts it down: a message delimited by the end of its connection must not
    /// look complete when it is truncated.
    pub(super) fn reset_unless_ended(mut self) -> Self {
        reset_on_close(self.stream.tcp());
        self.resets = true;
        self
    }

    /// From now on a shutdown ends one direction only.
    pub(super) fn relayed(mut self) -> Self {
        reset_on_close(self.stream.tcp());
        self.resets = false;
        self.interim = None;
        if let Some(heads) = self.heads.take() {
            self.checked.append(&mut heads.held_back());
        }
        self
    }
}

impl<S: AsyncRead + Unpin> InstrumentedIo<S> {
    fn poll_stream(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if hand_on(&mut self.first, buffer) {
            return Poll::Ready(Ok(()));
        }
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        if let (Err(error), Some(alert)) = (&read, &self.alert)
            && let Some(found) = alert_in(error)
        {
            alert.get_or_init(|| found);
            if let (AlertDescription::InternalError, Some(leased)) = (found, &mut self.leased) {
                leased.failed();
            }
        }
        if let (Err(_), Some(settings)) = (&read, &self.settings) {
            settings.ended();
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for InstrumentedIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if hand_on(&mut self.checked, buffer) {
                return Poll::Ready(Ok(()));
            }
            if let Some(frames) = &self.frames {
                let wanted = frames.wanted(cx);
                if !wanted.is_empty() {
                    self.checked = wanted;
                    continue;
                }
            }
            if let Some(bad) = self.heads.as_ref().and_then(|heads| heads.fault()) {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, bad)));
            }
            let before = buffer.filled().len();
            ready!(self.poll_stream(cx, buffer))?;
            let read = buffer.filled().get(before..).unwrap_or_default();
            self.saw(read);
            if read.is_empty() {
                return Poll::Ready(Ok(()));
            }
            match self.check(read)? {
                CheckedBytes::Unchanged => return Poll::Ready(Ok(())),
                CheckedBytes::Replaced(bytes) => {
                    buffer.set_filled(before);
                    self.checked = bytes;
                }
            }
        }
    }
}

impl<S> InstrumentedIo<S> {
    fn saw(&mut self, read: &[u8]) {
        if let Some((begun, missing)) = &mut self.begins {
            *missing = missing.saturating_sub(read.len());
            if *missing == 0 {
                begun.cancel();
                self.begins = None;
            }
        }
        if let Some(settings) = &mut self.settings {
            if read.is_empty() { settings.ended() } else { settings.pass(read) }
        }
        if let Some(bytes) = self.traffic() {
            bytes.to_app.fetch_add(read.len() as u64, Ordering::Relaxed);
        }
    }

    /// Checks bytes for hyper.
    fn check(&mut self, read: &[u8]) -> io::Result<CheckedBytes> {
        if let Some(frames) = &mut self.frames {
            return Ok(frames.pass(read));
        }
        match &self.heads {
            Some(heads) => heads.pass(read).map_err(|bad| io::Error::new(io::ErrorKind::InvalidData, bad)),
            None => Ok(CheckedBytes::Unchanged),
        }
    }
}

/// Copies as much of `bytes` as fits. Returns whether there was anything.
fn hand_on(bytes: &mut Vec<u8>, buffer: &mut ReadBuf<'_>) -> bool {
    if bytes.is_empty() {
        return false;
    }
    let rest = bytes.split_off(bytes.len().min(buffer.remaining()));
    buffer.put_slice(bytes);
    *bytes = rest;
    true
}

impl<S: AsyncWrite + Unpin> InstrumentedIo<S> {
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, interim, .. } = self;
        match interim {
            Some(interim) => interim.poll_send(cx, |cx, bytes| Pin::new(&mut *stream).poll_write(cx, bytes)),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Ready when no interim response has been sent in part.
    fn poll_interim_whole(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.interim {
            Some(interim) if interim.is_begun() => self.poll_interim(cx),
            _ => Poll::Ready(Ok(())),
        }
    }

    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let (Poll::Ready(Ok(written)), Some(bytes)) = (&written, self.traffic()) {
            bytes.to_peer.fetch_add(*written as u64, Ordering::Relaxed);
        }
        written
    }
}

impl<S: AsyncWrite + HasTcp + Unpin> AsyncWrite for InstrumentedIo<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim_whole(cx))?;
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.probe.as_ref().is_some_and(|probe| probe.is_asked())
            && let Some(error) = self.stream.tcp().take_error()?
        {
            return Poll::Ready(Err(error));
        }
        // hyper flushes only when it has nothing more to send.
        ready!(self.poll_interim(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        if self.resets {
            close_cleanly(self.stream.tcp());
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim_whole(cx))?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
