//! A response that never ends by itself: one line every little while.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame};
use tokio::time::Interval;

const INTERVAL: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(crate) struct Events {
    next: Interval,
}

impl Default for Events {
    fn default() -> Self {
        Self { next: tokio::time::interval(INTERVAL) }
    }
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        ready!(self.next.poll_tick(cx));
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"charged\n")))))
    }
}
