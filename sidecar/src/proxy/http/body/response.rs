//! The body of a response. Its connection returns to the pool when it has ended cleanly.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};

use super::{BodyError, Destination, counting};
use crate::observability::{EndedBy, EndedWith};
use crate::proxy::http::call::{OpenCall, RequestPart};
use crate::proxy::http::duplex::PipedBody;
use crate::proxy::http::fields;
use crate::proxy::http::http2::pipe::OutgoingBody;
use crate::proxy::http::incoming::Incoming;
use crate::proxy::http::pool::ConnectionLease;
use crate::proxy::http::source::Source;

/// The body of a response: forwarded from the server or generated here.
#[derive(Debug)]
pub(in crate::proxy::http) enum ResponseBody {
    Forwarded(Box<ForwardedBody>),
    Generated(Bytes),
    /// The response to a request that became a tunnel, such as a WebSocket.
    Piped(PipedResponse),
}

/// A response body that a relay writes.
#[derive(Debug)]
pub(in crate::proxy::http) struct PipedResponse {
    piped: PipedBody,
    call: Arc<OpenCall>,
    to: Destination,
}

/// A response body forwarded from the server.
#[derive(Debug)]
pub(in crate::proxy::http) struct ForwardedBody {
    source: Source,
    call: Arc<OpenCall>,
    to: Destination,
    lease: Option<ConnectionLease>,
}

impl ResponseBody {
    /// A body from a leased connection. The connection returns to its pool when the body has ended cleanly.
    pub(in crate::proxy::http) fn forwarded(
        response: Response<Incoming>,
        call: Arc<OpenCall>,
        to: Destination,
        lease: ConnectionLease,
    ) -> Response<Self> {
        let (mut parts, body) = response.into_parts();
        let source = Source::new(body, &mut parts.extensions);
        let mut forwarded = ForwardedBody { source, call, to, lease: Some(lease) };
        forwarded.give_back_at_end();
        Response::from_parts(parts, Self::Forwarded(Box::new(forwarded)))
    }

    pub(in crate::proxy::http) fn empty() -> Self {
        Self::Generated(Bytes::new())
    }

    pub(in crate::proxy::http) fn piped(piped: PipedBody, call: Arc<OpenCall>, to: Destination) -> Self {
        Self::Piped(PipedResponse { piped, call, to })
    }
}

impl ForwardedBody {
    /// A connection on which the request is still being sent is not reused (RFC 9112 §9.3).
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
            self.call.response_failed(error);
        }
    }

    fn give_back(&mut self) {
        if !self.call.is_relayed() {
            self.call.ended(EndedBy::Called, EndedWith::Fin);
        }
        self.call.response_over();
        if let Some(lease) = self.lease.take().filter(|_| self.call.is_request_over()) {
            lease.give_back();
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.call.poll_terminated(RequestPart::ResponseBody, cx)
            || self.lease.as_ref().is_some_and(ConnectionLease::is_terminated)
        {
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

impl PipedResponse {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.call.poll_terminated(RequestPart::ResponseBody, cx) {
            return Poll::Ready(Some(Err(BodyError::Cut)));
        }
        let frame = ready!(self.piped.poll(cx)).transpose().map_err(|gone| BodyError::Broken(gone.into()))?;
        self.call.moved();
        Poll::Ready(frame.map(|frame| Ok(counting(frame, self.call.bytes(self.to)))))
    }
}

impl Drop for ForwardedBody {
    /// The client reads no more of the body, unless the body has ended or was terminated.
    fn drop(&mut self) {
        if self.lease.as_ref().is_some_and(ConnectionLease::is_terminated) {
            self.call.ended(EndedBy::Sidecar, EndedWith::Cut);
        } else if !self.call.is_terminated() {
            self.call.client_cancelled();
        }
        // The response has not ended, so the rest of the request body is not needed either.
        if self.lease.is_some() {
            self.call.abandon();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Forwarded(forwarded) => forwarded.poll_frame(cx),
            Self::Piped(piped) => piped.poll_frame(cx),
            Self::Generated(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Generated(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Forwarded(forwarded) => forwarded.source.is_end_stream(),
            Self::Piped(piped) => piped.piped.is_end_stream(),
            Self::Generated(bytes) => bytes.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Forwarded(forwarded) => forwarded.source.size_hint(),
            Self::Piped(_) => SizeHint::new(),
            Self::Generated(bytes) => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}

impl OutgoingBody for ResponseBody {
    fn poll_abandoned(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        match self {
            Self::Generated(_) => Poll::Pending,
            Self::Piped(piped) => piped.call.poll_abandoned(RequestPart::ResponseBody, cx),
            Self::Forwarded(forwarded)
                if forwarded.lease.as_ref().is_some_and(ConnectionLease::is_terminated) =>
            {
                Poll::Ready(BodyError::Cut)
            }
            Self::Forwarded(forwarded) => forwarded.call.poll_abandoned(RequestPart::ResponseBody, cx),
        }
    }
}
