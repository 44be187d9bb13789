//! Sends a body on a stream, within its flow-control window.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body;

use crate::proxy::http::duplex::WriterDropped;

/// A body that can be abandoned while it waits for flow-control capacity.
pub(in crate::proxy::http) trait OutgoingBody: Body<Data = Bytes> {
    /// Ready when no more of it is to be sent, with the reason.
    fn poll_abandoned(&mut self, _: &mut Context<'_>) -> Poll<Self::Error> {
        Poll::Pending
    }
}

/// Sends a body. If the body fails, or the pipe is dropped before its end, the stream is reset.
#[derive(Debug)]
pub(super) struct Pipe<B> {
    stream: SendStream<Bytes>,
    body: B,
    /// Data that waits for capacity, and whether it is the last.
    next: Option<(Bytes, bool)>,
}

/// Why a body was not sent completely.
#[derive(Debug)]
pub(super) enum Unsent {
    /// The body failed.
    Body,
    /// The peer reset the stream, or the connection failed.
    Stream(h2::Error),
}

impl From<h2::Error> for Unsent {
    fn from(error: h2::Error) -> Self {
        Self::Stream(error)
    }
}

impl<B> Pipe<B>
where
    B: OutgoingBody + Unpin,
    B::Error: Error + 'static,
{
    pub(super) fn new(stream: SendStream<Bytes>, body: B) -> Self {
        Self { stream, body, next: None }
    }

    /// Ready when all of it is sent, or no more can be sent.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unsent>> {
        loop {
            // Polled first, so that a reset wakes the task in every state.
            if let Poll::Ready(reason) = self.stream.poll_reset(cx) {
                return Poll::Ready(Err(Unsent::Stream(reason?.into())));
            }
            if self.next.is_some() {
                // The body is not polled before there is capacity for the last piece.
                let Poll::Ready(room) = self.poll_room(cx) else {
                    let error = ready!(self.body.poll_abandoned(cx));
                    self.stream.send_reset(reason_of(&error));
                    return Poll::Ready(Err(Unsent::Body));
                };
                room?;
                let Some((data, last)) = self.next.take() else { continue };
                self.stream.send_data(data, last)?;
                if last {
                    return Poll::Ready(Ok(()));
                }
            }
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => {
                    self.stream.send_reset(reason_of(&error));
                    return Poll::Ready(Err(Unsent::Body));
                }
                None => {
                    self.stream.send_data(Bytes::new(), true)?;
                    return Poll::Ready(Ok(()));
                }
            };
            match frame.into_data().map_err(http_body::Frame::into_trailers) {
                Ok(data) => self.next = Some((data, self.body.is_end_stream())),
                Err(Ok(trailers)) => {
                    let sent = self.stream.send_trailers(trailers);
                    if sent.is_err() {
                        // The receiver must not wait for an end that does not come.
                        self.stream.send_reset(Reason::INTERNAL_ERROR);
                    }
                    return Poll::Ready(sent.map_err(Unsent::Stream));
                }
                Err(Err(_)) => {}
            }
        }
    }

    /// Ready when part of `next` may be sent. A reservation of one byte is enough: h2 reserves the rest when it has
    /// it.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unsent>> {
        if self.next.as_ref().is_none_or(|(data, _)| data.is_empty()) {
            return Poll::Ready(Ok(()));
        }
        self.stream.reserve_capacity(1);
        while self.stream.capacity() == 0 {
            match ready!(self.stream.poll_capacity(cx)) {
                Some(room) => drop(room?),
                None => return Poll::Ready(Err(Unsent::Stream(Reason::STREAM_CLOSED.into()))),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// The RST_STREAM code for a failed body: that of the stream it came from, if known. NO_ERROR could be taken for an
/// end.
fn reason_of(error: &(dyn Error + 'static)) -> Reason {
    let causes = || std::iter::successors(Some(error), |error| (*error).source());
    // For an upgraded stream (RFC 8441 §5).
    if causes().any(|error| error.is::<WriterDropped>()) {
        return Reason::CANCEL;
    }
    let mut streams = causes().filter_map(|error| error.downcast_ref::<h2::Error>());
    match streams.next().filter(|error| error.is_reset()).and_then(h2::Error::reason) {
        Some(Reason::NO_ERROR) => Reason::CANCEL,
        Some(reason) => reason,
        None => Reason::INTERNAL_ERROR,
    }
}
