//! The body of a received HTTP/2 message.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Body, Frame, SizeHint};

use super::client::ActiveRequest;

/// A received body. Only END_STREAM ends it: a reset with NO_ERROR, or a closed connection, is an error.
#[derive(Debug)]
pub(in crate::proxy::http) struct StreamBody {
    receive: RecvStream,
    /// Bytes left, if content-length is known.
    left: Option<u64>,
    data_over: bool,
    /// For a response.
    under_way: Option<ActiveRequest>,
}

impl StreamBody {
    pub(super) fn new(receive: RecvStream, headers: &HeaderMap) -> Self {
        let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let left = if receive.is_end_stream() { Some(0) } else { length };
        Self { receive, left, data_over: false, under_way: None }
    }

    pub(in crate::proxy::http) fn stream_id(&self) -> u32 {
        self.receive.stream_id().as_u32()
    }

    /// Counts its request until it is dropped.
    pub(super) fn counted(mut self, under_way: ActiveRequest) -> Self {
        self.under_way = Some(under_way);
        self
    }
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.data_over {
            if let Some(data) = ready!(self.receive.poll_data(cx)).transpose()? {
                // Never more than was received, so it is not refused.
                self.receive.flow_control().release_capacity(data.len())?;
                self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            self.data_over = true;
        }
        let trailers = ready!(self.receive.poll_trailers(cx))?;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.receive.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}
