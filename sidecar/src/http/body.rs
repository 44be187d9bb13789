//! A body on its way: counted, never held, and ended with an error when its request is cut.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Version;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use thiserror::Error;

use super::again::Kept;
use super::call::{OpenCall, Part};
use super::expect::Held;
use super::framing::Heads;
use super::pool::{Leased, StreamPermit};
use super::{ended, fields};
use crate::access_log::{EndedBy, EndedWith};

/// Why a body ended early.
#[derive(Debug, Error)]
pub(super) enum BodyError {
    #[error("the request is no longer allowed, or nothing of it moved for too long")]
    Cut,
    #[error("a chunk is framed in a way that not every parser takes (RFC 9112 §7.1)")]
    Loose,
    #[error("the body is sent on another connection")]
    Elsewhere,
    #[error("the stream was given up with NO_ERROR before its message was whole (RFC 9113 §8.1)")]
    Short,
    #[error(transparent)]
    Broken(#[from] hyper::Error),
}

/// A request's body on its way to whoever answers.
#[derive(Debug)]
pub(super) struct RequestBody {
    flow: Arc<Mutex<Flow>>,
    call: Arc<OpenCall>,
    to: To,
    /// Which time it is sent.
    turn: usize,
    /// Counts it on the connection on which it is sent.
    permit: Option<Arc<StreamPermit>>,
}

/// Where a body comes from, whichever time it is sent.
#[derive(Debug)]
struct Flow {
    inner: Incoming,
    version: Version,
    /// Until it is wanted.
    held: Option<Held>,
    /// Of the HTTP/1 connection that it comes from.
    heads: Arc<Heads>,
    kept: Kept,
    turn: usize,
}

/// Where a request's body goes, for counting and cleaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    App,
    Peer,
}

impl RequestBody {
    /// The body of a request that came in this version.
    pub(super) fn new(
        inner: Incoming,
        version: Version,
        call: Arc<OpenCall>,
        to: To,
        heads: Arc<Heads>,
    ) -> Self {
        if inner.is_end_stream() {
            call.request_over();
        }
        let flow = Flow { inner, version, held: None, heads, kept: Kept::default(), turn: 0 };
        Self { flow: Arc::new(Mutex::new(flow)), call, to, turn: 0, permit: None }
    }

    /// Is counted until it is over.
    pub(super) fn occupy(&mut self, permit: Arc<StreamPermit>) {
        self.permit = Some(permit);
    }

    /// Takes nothing of it until it is wanted.
    pub(super) fn hold(&self, held: Option<Held>) {
        self.lock().held = held;
    }

    /// The same body while it is being sent.
    pub(super) fn spare(&self) -> Self {
        Self { flow: self.flow.clone(), call: self.call.clone(), to: self.to, turn: self.turn, permit: None }
    }

    /// From its beginning on, if that is still known; whoever was sending it sends no more.
    pub(super) fn again(mut self) -> Option<Self> {
        let mut flow = self.lock();
        if !flow.kept.rewind() {
            return None;
        }
        flow.turn += 1;
        let turn = flow.turn;
        drop(flow);
        self.turn = turn;
        Some(self)
    }

    /// The request that it belongs to.
    pub(super) fn call(&self) -> &Arc<OpenCall> {
        &self.call
    }

    /// It will not be sent again.
    pub(super) fn settle(&self) {
        self.lock().kept.forget();
    }

    fn lock(&self) -> MutexGuard<'_, Flow> {
        self.flow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.call.poll_cut(Part::RequestBody, cx) {
            return Poll::Ready(Some(Err(BodyError::Cut)));
        }
        let mut flow = self.lock();
        if flow.turn != self.turn {
            return Poll::Ready(Some(Err(BodyError::Elsewhere)));
        }
        if let Some(held) = &mut flow.held {
            ready!(held.poll(cx));
            flow.held = None;
        }
        if let Some(data) = flow.kept.next() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let Flow { inner, version, .. } = &mut *flow;
        let frame = ready!(poll_inner(inner, *version, cx))
            .inspect_err(|error| self.call.ended(EndedBy::Caller, error.ended_with()))?;
        if flow.heads.is_loose() {
            return Poll::Ready(Some(Err(BodyError::Loose)));
        }
        let counted = match self.to {
            To::App => &self.call.bytes_to_app,
            To::Peer => &self.call.bytes_to_peer,
        };
        let frame = frame.map(|frame| counting(frame, counted));
        self.call.moved();
        if frame.is_none() || flow.inner.is_end_stream() {
            self.call.request_over();
        }
        let Some(frame) = frame else { return Poll::Ready(None) };
        flow.kept.keep(&frame);
        Poll::Ready(Some(Ok(match (frame.into_trailers(), self.to) {
            (Ok(mut trailers), To::App) => {
                fields::clean_trailers(&mut trailers);
                Frame::trailers(trailers)
            }
            (Ok(trailers), To::Peer) => Frame::trailers(trailers),
            (Err(data), _) => data,
        })))
    }

    fn is_end_stream(&self) -> bool {
        let flow = self.lock();
        flow.kept.left() == 0 && flow.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let flow = self.lock();
        let (inner, again) = (flow.inner.size_hint(), flow.kept.left());
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(again));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(again));
        }
        hint
    }
}

/// What answers a request: a body on its way, or words of our own.
#[derive(Debug)]
pub(super) enum Answer {
    Carried(Box<Carried>),
    Own(Bytes),
}

/// A response's body on its way back.
#[derive(Debug)]
pub(super) struct Carried {
    inner: Incoming,
    version: Version,
    call: Arc<OpenCall>,
    to: To,
    lease: Option<Leased>,
}

impl Answer {
    /// A body that comes from a leased connection, which goes back to its pool when the body has ended well.
    pub(super) fn carried(inner: Incoming, call: Arc<OpenCall>, to: To, lease: Leased) -> Self {
        let version = if lease.is_shared() { Version::HTTP_2 } else { Version::HTTP_11 };
        let mut carried = Carried { inner, version, call, to, lease: Some(lease) };
        carried.give_back_at_end();
        Self::Carried(Box::new(carried))
    }

    pub(super) fn empty() -> Self {
        Self::Own(Bytes::new())
    }
}

impl Carried {
    /// A connection on which the request is still being sent is not used again (RFC 9112 §9.3).
    fn give_back_at_end(&mut self) {
        if self.inner.is_end_stream() {
            self.give_back();
        }
    }

    fn give_back(&mut self) {
        self.call.ended(EndedBy::Called, EndedWith::Fin);
        if let Some(lease) = self.lease.take().filter(|_| self.call.is_request_over()) {
            lease.give_back();
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.call.poll_cut(Part::ResponseBody, cx) || self.lease.as_ref().is_some_and(Leased::is_cut) {
            return Poll::Ready(Some(Err(BodyError::Cut)));
        }
        let frame = ready!(poll_inner(&mut self.inner, self.version, cx))
            .inspect_err(|error| self.call.ended(EndedBy::Called, error.ended_with()))?;
        let counted = match self.to {
            To::App => &self.call.bytes_to_app,
            To::Peer => &self.call.bytes_to_peer,
        };
        let frame = frame.map(|frame| counting(frame, counted));
        self.call.moved();
        if let Some(trailers) = frame.as_ref().and_then(Frame::trailers_ref) {
            self.call.outcome.read_grpc_status(trailers);
        }
        match &frame {
            Some(_) => self.give_back_at_end(),
            None => self.give_back(),
        }
        Poll::Ready(frame.map(Ok))
    }
}

impl Drop for Carried {
    /// Whoever called takes no more of it, unless it has ended or is cut.
    fn drop(&mut self) {
        if !self.call.is_cut() {
            self.call.ended(EndedBy::Caller, EndedWith::Reset);
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Carried(carried) => carried.poll_frame(cx),
            Self::Own(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Own(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Carried(carried) => carried.inner.is_end_stream(),
            Self::Own(bytes) => bytes.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Carried(carried) => carried.inner.size_hint(),
            Self::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}

/// The next frame, or none behind the last.
fn poll_inner(
    inner: &mut Incoming,
    version: Version,
    cx: &mut Context<'_>,
) -> Poll<Result<Option<Frame<Bytes>>, BodyError>> {
    let frame = ready!(Pin::new(&mut *inner).poll_frame(cx)).transpose()?;
    // hyper takes NO_ERROR for an end, of a stream as of its connection. Only END_STREAM is one.
    if frame.is_none() && version == Version::HTTP_2 && !inner.is_end_stream() {
        return Poll::Ready(Err(BodyError::Short));
    }
    Poll::Ready(Ok(frame))
}

impl BodyError {
    /// What ended it.
    fn ended_with(&self) -> EndedWith {
        match self {
            Self::Broken(error) => ended::of(error),
            Self::Short => EndedWith::StreamReset(h2::Reason::NO_ERROR),
            Self::Cut | Self::Elsewhere => EndedWith::Cut,
            Self::Loose => EndedWith::Invalid,
        }
    }
}

fn counting(frame: Frame<Bytes>, counted: &std::sync::atomic::AtomicU64) -> Frame<Bytes> {
    if let Some(data) = frame.data_ref() {
        counted.fetch_add(data.len() as u64, Ordering::Relaxed);
    }
    frame
}
