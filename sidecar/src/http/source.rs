//! Where a body comes from: hyper's, which says when it is wanted, and whose end is looked at twice.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Extensions, Version};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

use super::body::BodyError;
use super::frames::Stream;

/// A body that is being received.
#[derive(Debug)]
pub(super) struct Source {
    inner: Incoming,
    version: Version,
    /// Of HTTP/2: its stream, where small pieces wait until they are wanted.
    stream: Option<Arc<Stream>>,
}

impl Source {
    /// The body of a message that came in this version and with these extensions.
    pub(super) fn new(inner: Incoming, version: Version, extensions: &mut Extensions) -> Self {
        Self { inner, version, stream: extensions.remove() }
    }

    /// The next frame, or none behind the last.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, BodyError>> {
        let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) else {
            if let Some(stream) = &self.stream {
                stream.want();
            }
            return Poll::Pending;
        };
        let frame = frame.transpose()?;
        // hyper takes NO_ERROR for an end, of a stream as of its connection. Only END_STREAM is one.
        if frame.is_none() && self.version == Version::HTTP_2 && !self.inner.is_end_stream() {
            return Poll::Ready(Err(BodyError::Short));
        }
        Poll::Ready(Ok(frame))
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
