//! `Expect: 100-continue` (RFC 9110 §10.1.1): a body that is held back until it is asked for is asked for by whoever
//! answers, not by us on the way.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use http::header::{EXPECT, HeaderMap};
use http::{Request, Version};
use tokio::time::Sleep;

/// Whoever says nothing for so long waits for the body: not every server knows of `Expect`.
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// A body that is not to be taken yet.
#[derive(Debug)]
pub(super) struct Held {
    asked: Arc<Asked>,
    silence: Pin<Box<Sleep>>,
}

/// Whether the body is wanted.
#[derive(Debug, Default)]
pub(super) struct Asked {
    yes: AtomicBool,
    waiting: AtomicWaker,
}

impl Asked {
    /// It is.
    pub(super) fn yes(&self) {
        self.yes.store(true, Ordering::Release);
        self.waiting.wake();
    }
}

/// Whether a message's sender waits with its body.
fn is_held(headers: &HeaderMap, version: Version) -> bool {
    let expects = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    version == Version::HTTP_11 && headers.get(EXPECT).is_some_and(expects)
}

/// Holds a request's body back if its sender does, until it is asked for.
pub(super) fn hold<B>(request: &Request<B>) -> Option<Held> {
    if !is_held(request.headers(), request.version()) {
        return None;
    }
    Some(Held { asked: Arc::default(), silence: Box::pin(tokio::time::sleep(SILENCE_MAX)) })
}

impl Held {
    /// Says when it is wanted.
    pub(super) fn asked(&self) -> Arc<Asked> {
        self.asked.clone()
    }

    /// Ready when the body is wanted.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.asked.waiting.register(cx.waker());
        if self.asked.yes.load(Ordering::Acquire) { Poll::Ready(()) } else { self.silence.as_mut().poll(cx) }
    }
}
