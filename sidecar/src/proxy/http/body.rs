//! A body on its way: counted, never held, and ended with an error when its request is cut.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use thiserror::Error;
use tokio::time::{Sleep, sleep};

use super::call::{OpenCall, Part};
use super::duplex::{GivenUp, Piped};
use super::expect::Held;
use super::framing::RawHeadCheck;
use super::http2::pipe::Outgoing;
use super::incoming::{HttpError, Incoming};
use super::pool::{Leased, StreamPermit};
use super::replay::Kept;
use super::source::Source;
use super::target::InvalidMessage;
use super::{ended, fields};
use crate::observability::{EndedBy, EndedWith};

/// Whether there is a body at all is awaited so long, before a request goes on that says neither.
const FIRST_BYTES_AWAITED: Duration = Duration::from_millis(100);

/// Why a body ended early.
#[derive(Debug, Error)]
pub(super) enum BodyError {
    #[error("the request is no longer allowed, or nothing of it moved for too long")]
    Cut,
    #[error(transparent)]
    InvalidMessage(InvalidMessage),
    #[error("the body is sent on another connection")]
    Elsewhere,
    #[error("the message broke off")]
    Broken(#[source] HttpError),
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
    /// While it waits for room after the answer: until when.
    waits: Option<Pin<Box<Sleep>>>,
}

/// Where a body comes from, whichever time it is sent.
#[derive(Debug)]
struct Flow {
    source: Source,
    /// ShutdownTokens it is wanted.
    held: Option<Held>,
    /// Of the HTTP/1 connection that it comes from.
    heads: Arc<RawHeadCheck>,
    kept: Kept,
    /// What was read before it is passed on; nothing where the body has ended.
    ahead: Option<Result<Option<Frame<Bytes>>, BodyError>>,
    turn: usize,
}

impl Flow {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, BodyError>> {
        match self.ahead.take() {
            // An end comes as often as it is asked for.
            Some(Ok(None)) => {
                self.ahead = Some(Ok(None));
                Poll::Ready(Ok(None))
            }
            Some(ahead) => Poll::Ready(ahead),
            None => self.source.poll(cx),
        }
    }

    /// Whether nothing more of it comes from its sender.
    fn is_over(&self) -> bool {
        match &self.ahead {
            Some(ahead) => matches!(ahead, Ok(None)),
            None => self.source.is_end_stream(),
        }
    }

    /// Whether it takes no look to know that there is a body, or how long it is.
    fn is_known(&self) -> bool {
        self.source.is_end_stream() || self.source.size_hint().exact().is_some() || self.kept.left() > 0
    }
}

/// Where a request's body goes, for counting and cleaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    App,
    Peer,
}

impl To {
    pub(super) fn other(self) -> Self {
        match self {
            Self::App => Self::Peer,
            Self::Peer => Self::App,
        }
    }
}

impl RequestBody {
    /// A request with the body that came with it.
    pub(super) fn of(
        request: Request<Incoming>,
        call: Arc<OpenCall>,
        to: To,
        heads: Arc<RawHeadCheck>,
    ) -> Request<Self> {
        let (mut parts, body) = request.into_parts();
        let source = Source::new(body, &mut parts.extensions);
        Request::from_parts(parts, Self::new(source, call, to, heads))
    }

    /// What is written here, as the body of the same request.
    pub(super) fn replaced(&self, body: Incoming) -> Self {
        let heads = self.lock().heads.clone();
        Self::new(Source::made(body), self.call.clone(), self.to, heads)
    }

    fn new(source: Source, call: Arc<OpenCall>, to: To, heads: Arc<RawHeadCheck>) -> Self {
        if source.is_end_stream() {
            call.request_over();
        }
        let flow = Flow { source, held: None, heads, kept: Kept::default(), ahead: None, turn: 0 };
        Self { flow: Arc::new(Mutex::new(flow)), call, to, turn: 0, permit: None, waits: None }
    }

    /// Is counted until it is over.
    pub(super) fn occupy(&mut self, permit: Arc<StreamPermit>) {
        self.permit = Some(permit);
    }

    /// Takes nothing of it until it is wanted.
    pub(super) fn hold(&self, held: Option<Held>) {
        self.lock().held = held;
    }

    /// Waits a little for its first bytes where it is not known whether there are any: a request of HTTP/2 may end with
    /// an empty frame, and then has no body (RFC 9113 §8.1).
    pub(super) async fn look_ahead(&self) {
        let first = poll_fn(|cx| {
            let mut flow = self.lock();
            if flow.ahead.is_some() || flow.held.is_some() || flow.is_known() {
                return Poll::Ready(());
            }
            let frame = ready!(flow.source.poll(cx));
            let is_empty = matches!(&frame, Ok(Some(frame)) if frame.data_ref().is_some_and(Bytes::is_empty));
            flow.ahead = Some(if is_empty && flow.source.is_end_stream() { Ok(None) } else { frame });
            Poll::Ready(())
        });
        if tokio::time::timeout(FIRST_BYTES_AWAITED, first).await.is_ok() && self.is_end_stream() {
            self.call.request_over();
        }
    }

    /// The same body while it is being sent.
    pub(super) fn spare(&self) -> Self {
        let (flow, call) = (self.flow.clone(), self.call.clone());
        Self { flow, call, to: self.to, turn: self.turn, permit: None, waits: None }
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

    /// What broke it. Once there is an answer, only the log can say so.
    fn broken(&self, flow: &Flow, error: BodyError) -> BodyError {
        self.call.ended(EndedBy::Caller, error.ended_with());
        let Some(bad) = flow.heads.fault() else { return error };
        if self.call.is_answered() {
            self.call.at_fault(bad.code(), bad.to_string());
        }
        BodyError::InvalidMessage(bad)
    }

    fn lock(&self) -> MutexGuard<'_, Flow> {
        self.flow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.waits = None;
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
        let frame = ready!(flow.poll(cx)).map_err(|error| self.broken(&flow, error))?;
        let frame = frame.map(|frame| counting(frame, self.call.bytes(self.to)));
        self.call.moved();
        self.call.request_begins();
        if frame.is_none() || flow.is_over() {
            self.call.request_over();
        }
        let Some(frame) = frame else { return Poll::Ready(None) };
        flow.kept.keep(&frame);
        Poll::Ready(Some(Ok(match (frame.into_trailers(), self.to) {
            (Ok(mut trailers), To::App) => {
                fields::clean_trailers(&mut trailers);
                Frame::trailers(trailers)
            }
            (Ok(mut trailers), To::Peer) => {
                fields::remove_hop(&mut trailers);
                Frame::trailers(trailers)
            }
            (Err(data), _) => data,
        })))
    }

    fn is_end_stream(&self) -> bool {
        let flow = self.lock();
        flow.kept.left() == 0 && flow.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        let flow = self.lock();
        if flow.is_over() {
            return SizeHint::with_exact(flow.kept.left());
        }
        let (inner, again) = (flow.source.size_hint(), flow.kept.left());
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(again));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(again));
        }
        hint
    }
}

impl Outgoing for RequestBody {
    fn poll_given_up(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        if let Poll::Ready(error) = self.call.poll_given_up(Part::RequestBody, cx) {
            return Poll::Ready(error);
        }
        if !self.call.is_answer_over() {
            return Poll::Pending;
        }
        // A server may answer before it has read everything (RFC 9113 §8.1), and need not say that it reads no more.
        let Some(limit) = self.call.half_closed_timeout() else { return Poll::Pending };
        let waits = self.waits.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(waits.as_mut().poll(cx));
        Poll::Ready(BodyError::Broken(GivenUp.into()))
    }
}

impl Outgoing for Answer {
    fn poll_given_up(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        match self {
            Self::Own(_) => Poll::Pending,
            Self::Piped(answer) => answer.call.poll_given_up(Part::ResponseBody, cx),
            Self::Carried(carried) if carried.lease.as_ref().is_some_and(Leased::is_cut) => {
                Poll::Ready(BodyError::Cut)
            }
            Self::Carried(carried) => carried.call.poll_given_up(Part::ResponseBody, cx),
        }
    }
}

/// What answers a request: a body on its way, or words of our own.
#[derive(Debug)]
pub(super) enum Answer {
    Carried(Box<Carried>),
    Own(Bytes),
    /// What a request that has switched is answered.
    Piped(PipedAnswer),
}

/// A body that is written here.
#[derive(Debug)]
pub(super) struct PipedAnswer {
    piped: Piped,
    call: Arc<OpenCall>,
    to: To,
}

/// A response's body on its way back.
#[derive(Debug)]
pub(super) struct Carried {
    source: Source,
    call: Arc<OpenCall>,
    to: To,
    lease: Option<Leased>,
}

impl Answer {
    /// A body that comes from a leased connection, which goes back to its pool when the body has ended well.
    pub(super) fn carried(
        response: Response<Incoming>,
        call: Arc<OpenCall>,
        to: To,
        lease: Leased,
    ) -> Response<Self> {
        let (mut parts, body) = response.into_parts();
        let source = Source::new(body, &mut parts.extensions);
        let mut carried = Carried { source, call, to, lease: Some(lease) };
        carried.give_back_at_end();
        Response::from_parts(parts, Self::Carried(Box::new(carried)))
    }

    pub(super) fn empty() -> Self {
        Self::Own(Bytes::new())
    }

    pub(super) fn piped(piped: Piped, call: Arc<OpenCall>, to: To) -> Self {
        Self::Piped(PipedAnswer { piped, call, to })
    }
}

impl Carried {
    /// A connection on which the request is still being sent is not used again (RFC 9112 §9.3).
    fn give_back_at_end(&mut self) {
        if self.source.is_end_stream() {
            self.give_back();
        }
    }

    fn broken(&self, error: &BodyError) {
        let with = error.ended_with();
        let with = self.lease.as_ref().map_or(with, |lease| lease.ended_with(with));
        self.call.ended(EndedBy::Called, with);
        if let BodyError::Broken(error) = error {
            self.call.answer_broke(error);
        }
    }

    fn give_back(&mut self) {
        if !self.call.is_relayed() {
            self.call.ended(EndedBy::Called, EndedWith::Fin);
        }
        self.call.answer_over();
        if let Some(lease) = self.lease.take().filter(|_| self.call.is_request_over()) {
            lease.give_back();
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.call.poll_cut(Part::ResponseBody, cx) || self.lease.as_ref().is_some_and(Leased::is_cut) {
            return Poll::Ready(Some(Err(BodyError::Cut)));
        }
        let frame = ready!(self.source.poll(cx)).inspect_err(|error| self.broken(error))?;
        let frame = frame.map(|frame| counting(frame, self.call.bytes(self.to)));
        self.call.moved();
        let frame = frame.map(|frame| match frame.into_trailers() {
            Ok(mut trailers) => {
                fields::remove_hop(&mut trailers);
                self.call.outcome.read_grpc_status(&trailers);
                Frame::trailers(trailers)
            }
            Err(data) => data,
        });
        match &frame {
            Some(_) => self.give_back_at_end(),
            None => self.give_back(),
        }
        Poll::Ready(frame.map(Ok))
    }
}

impl PipedAnswer {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.call.poll_cut(Part::ResponseBody, cx) {
            return Poll::Ready(Some(Err(BodyError::Cut)));
        }
        let frame = ready!(self.piped.poll(cx)).transpose().map_err(|gone| BodyError::Broken(gone.into()))?;
        self.call.moved();
        Poll::Ready(frame.map(|frame| Ok(counting(frame, self.call.bytes(self.to)))))
    }
}

impl Drop for Carried {
    /// Whoever called takes no more of it, unless it has ended or is cut.
    fn drop(&mut self) {
        if self.lease.as_ref().is_some_and(Leased::is_cut) {
            self.call.ended(EndedBy::Sidecar, EndedWith::Cut);
        } else if !self.call.is_cut() {
            self.call.taken_back();
        }
        // It has not ended: nobody wants the rest of its request, either.
        if self.lease.is_some() {
            self.call.abandon();
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
            Self::Piped(piped) => piped.poll_frame(cx),
            Self::Own(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Own(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Carried(carried) => carried.source.is_end_stream(),
            Self::Piped(answer) => answer.piped.is_end_stream(),
            Self::Own(bytes) => bytes.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Carried(carried) => carried.source.size_hint(),
            Self::Piped(_) => SizeHint::new(),
            Self::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}

impl BodyError {
    /// What ended it.
    fn ended_with(&self) -> EndedWith {
        match self {
            Self::Broken(error) => ended::of(&**error),
            Self::Cut | Self::Elsewhere => EndedWith::Cut,
            Self::InvalidMessage(_) => EndedWith::Invalid,
        }
    }
}

fn counting(frame: Frame<Bytes>, counted: &std::sync::atomic::AtomicU64) -> Frame<Bytes> {
    if let Some(data) = frame.data_ref() {
        counted.fetch_add(data.len() as u64, Ordering::Relaxed);
    }
    frame
}
