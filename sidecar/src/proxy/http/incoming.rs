//! The body of a message that has come, in whichever version of HTTP.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::duplex::Piped;
use super::http2::body::StreamBody;

/// Why a message is not whole: an error of hyper's, or of a stream.
pub(super) type HttpError = Box<dyn Error + Send + Sync>;

/// A body as it comes. Its end is an end: what is cut, closed or reset is an error.
#[derive(Debug)]
pub(super) enum Incoming {
    Http1(hyper::body::Incoming),
    Http2(StreamBody),
    /// Written here, once what it is the body of has switched.
    Piped(Piped),
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
    /// Of HTTP/2: the message's stream.
    pub(super) fn stream_id(&self) -> Option<u32> {
        match self {
            Self::Http2(body) => Some(body.stream_id()),
            Self::Http1(_) | Self::Piped(_) | Self::Empty => None,
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
            Self::Piped(body) => ready!(body.poll(cx)).map(|frame| frame.map_err(Into::into)),
            Self::Empty => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
            Self::Piped(body) => body.is_end_stream(),
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
            Self::Piped(_) => SizeHint::new(),
            Self::Empty => SizeHint::with_exact(0),
        }
    }
}
