//! `Expect: 100-continue` (RFC 9110 §10.1.1): the server asks for a deferred body, not this proxy.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use http::header::{EXPECT, HeaderMap};
use http::{Request, Version};
use tokio::time::Sleep;

/// A server that sends nothing for this long waits for the body: not every server implements `Expect`.
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// A request body that is not read before the server asks for it.
#[derive(Debug)]
pub(super) struct DeferredBody {
    continue_signal: Arc<ContinueSignal>,
    silence: Pin<Box<Sleep>>,
}

/// Whether the server has asked for the body.
#[derive(Debug, Default)]
pub(super) struct ContinueSignal {
    yes: AtomicBool,
    waiting: AtomicWaker,
}

impl ContinueSignal {
    /// The server asks for the body.
    pub(super) fn yes(&self) {
        self.yes.store(true, Ordering::Release);
        self.waiting.wake();
    }
}

/// Whether the client waits before it sends the body.
fn is_deferred(headers: &HeaderMap, version: Version) -> bool {
    let expects = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    version == Version::HTTP_11 && headers.get(EXPECT).is_some_and(expects)
}

/// Defers a request's body if the client waits with it.
pub(super) fn defer_body<B>(request: &Request<B>) -> Option<DeferredBody> {
    if !is_deferred(request.headers(), request.version()) {
        return None;
    }
    Some(DeferredBody { continue_signal: Arc::default(), silence: Box::pin(tokio::time::sleep(SILENCE_MAX)) })
}

impl DeferredBody {
    /// The signal that the server asks for the body.
    pub(super) fn continue_signal(&self) -> Arc<ContinueSignal> {
        self.continue_signal.clone()
    }

    /// Ready when the body may be read.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.continue_signal.waiting.register(cx.waker());
        if self.continue_signal.yes.load(Ordering::Acquire) {
            Poll::Ready(())
        } else {
            self.silence.as_mut().poll(cx)
        }
    }
}
