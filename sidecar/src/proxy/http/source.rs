//! Where a body comes from: the message as it is received, which says when it is wanted.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Extensions;
use http_body::{Body as _, Frame, SizeHint};

use super::body::BodyError;
use super::frames::Stream;
use super::incoming::Incoming;

/// A body that is being received.
#[derive(Debug)]
pub(super) struct Source {
    inner: Incoming,
    /// Of HTTP/2: its stream, where small pieces wait until they are wanted.
    stream: Option<Arc<Stream>>,
}

impl Source {
    /// The body of a message with these extensions.
    pub(super) fn new(inner: Incoming, extensions: &mut Extensions) -> Self {
        Self { inner, stream: extensions.remove() }
    }

    /// Of a message that is made here.
    pub(super) fn made(inner: Incoming) -> Self {
        Self { inner, stream: None }
    }

    /// The next frame, or none behind the last.
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
