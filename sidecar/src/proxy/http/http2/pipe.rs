//! A body on its way into a stream, as the other side makes room for it.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body;

use crate::proxy::http::duplex::GivenUp;

/// A body that may be given up while it waits for room.
pub(in crate::proxy::http) trait Outgoing: Body<Data = Bytes> {
    /// Ready when no more of it is to be sent, with the reason.
    fn poll_given_up(&mut self, _: &mut Context<'_>) -> Poll<Self::Error> {
        Poll::Pending
    }
}

/// Sends a body. A body that breaks resets the stream, and so does a pipe that is dropped before its end.
#[derive(Debug)]
pub(super) struct Pipe<B> {
    stream: SendStream<Bytes>,
    body: B,
    /// Waits for room, and whether it is the last.
    next: Option<(Bytes, bool)>,
}

/// Why a body was not sent whole.
#[derive(Debug)]
pub(super) enum Unsent {
    /// The body broke.
    Body,
    /// The other side reset the stream, or its connection broke.
    Stream(h2::Error),
}

impl From<h2::Error> for Unsent {
    fn from(error: h2::Error) -> Self {
        Self::Stream(error)
    }
}

impl<B> Pipe<B>
where
    B: Outgoing + Unpin,
    B::Error: Error + 'static,
{
    pub(super) fn new(stream: SendStream<Bytes>, body: B) -> Self {
        Self { stream, body, next: None }
    }

    /// Ready when all of it is sent, or no more can be.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unsent>> {
        loop {
            // Asked first, so that a reset wakes whatever is waited for.
            if let Poll::Ready(reason) = self.stream.poll_reset(cx) {
                return Poll::Ready(Err(Unsent::Stream(reason?.into())));
            }
            if self.next.is_some() {
                // The body is not looked at before there is room for what it has said.
                let Poll::Ready(room) = self.poll_room(cx) else {
                    let error = ready!(self.body.poll_given_up(cx));
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
                        // Nobody waits for an end that does not come.
                        self.stream.send_reset(Reason::INTERNAL_ERROR);
                    }
                    return Poll::Ready(sent.map_err(Unsent::Stream));
                }
                Err(Err(_)) => {}
            }
        }
    }

    /// Ready when something of `next` may be sent. A claim of one byte is enough: h2 asks for the rest when it has it.
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

/// The code with which a stream is reset whose body broke: that of the stream from which it came, if there is one that
/// says so. NO_ERROR would be taken for an end.
fn reason_of(error: &(dyn Error + 'static)) -> Reason {
    let causes = || std::iter::successors(Some(error), |error| (*error).source());
    // Of what is no HTTP any more (RFC 8441 §5).
    if causes().any(|error| error.is::<GivenUp>()) {
        return Reason::CANCEL;
    }
    let mut streams = causes().filter_map(|error| error.downcast_ref::<h2::Error>());
    match streams.next().filter(|error| error.is_reset()).and_then(h2::Error::reason) {
        Some(Reason::NO_ERROR) => Reason::CANCEL,
        Some(reason) => reason,
        None => Reason::INTERNAL_ERROR,
    }
}
