//! The source of a body: the received message, whose buffered data is requested on demand.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Extensions;
use http_body::{Body as _, Frame, SizeHint};

use super::body::BodyError;
use super::frames::Stream;
use super::incoming::Incoming;

/// A body while it is received.
#[derive(Debug)]
pub(super) struct Source {
    inner: Incoming,
    /// Its stream, on HTTP/2, which buffers small DATA payloads until they are requested.
    stream: Option<Arc<Stream>>,
}

impl Source {
    /// The body of a message with these extensions.
    pub(super) fn new(inner: Incoming, extensions: &mut Extensions) -> Self {
        Self { inner, stream: extensions.remove() }
    }

    /// For a message that the sidecar creates.
    pub(super) fn made(inner: Incoming) -> Self {
        Self { inner, stream: None }
    }

    /// The next frame, or `None` after the last.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, BodyError>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if polled.is_pending()
            && let Some(stream) = &self.stream
        {
            stream.want();
        }
        polled.map(|frame| frame.transpose().map_err(BodyError::Broken))
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
