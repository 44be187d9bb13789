//! The body of a received message, in either version of HTTP.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::duplex::PipedBody;
use super::http2::body::StreamBody;

/// Why a message is incomplete: an error of hyper or of an HTTP/2 stream.
pub(super) type HttpError = Box<dyn Error + Send + Sync>;

/// A received body. Truncation by a reset, a close or a termination is an error.
#[derive(Debug)]
pub(super) enum Incoming {
    Http1(hyper::body::Incoming),
    Http2(StreamBody),
    /// Written by the relay of an upgraded request.
    PipedBody(PipedBody),
    Empty,
}

impl From<hyper::body::Incoming> for Incoming {
    fn from(body: hyper::body::Incoming) -> Self {
        Self::Http1(body)
    }
}

impl From<StreamBody> for Incoming {
    fn from(body: StreamBody) -> Self {
        Self::Http2(body)
    }
}

impl Incoming {
    /// The message's stream, on HTTP/2.
    pub(super) fn stream_id(&self) -> Option<u32> {
        match self {
            Self::Http2(body) => Some(body.stream_id()),
            Self::Http1(_) | Self::PipedBody(_) | Self::Empty => None,
        }
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        Poll::Ready(match self.get_mut() {
            Self::Http1(body) => ready!(Pin::new(body).poll_frame(cx)).map(|frame| frame.map_err(Into::into)),
            Self::Http2(body) => ready!(Pin::new(body).poll_frame(cx)).map(|frame| frame.map_err(Into::into)),
            Self::PipedBody(body) => ready!(body.poll(cx)).map(|frame| frame.map_err(Into::into)),
            Self::Empty => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
            Self::PipedBody(body) => body.is_end_stream(),
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
            Self::PipedBody(_) => SizeHint::new(),
            Self::Empty => SizeHint::with_exact(0),
        }
    }
}
