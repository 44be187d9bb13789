//! Interim responses (RFC 9110 §15.2), such as `103 Early Hints`.

use std::future::poll_fn;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use futures_util::task::AtomicWaker;
use http::header::{CONTENT_LENGTH, HeaderMap};
use http::{Request, StatusCode, Version};

use super::call::OpenCall;
use super::expect_continue::ContinueSignal;
use super::fields;
use super::http2::interim::StreamInterim;

/// Most interim responses per request; further ones are dropped.
pub(super) const INTERIM_MAX: usize = 16;
/// Most bytes that wait for the client.
const INTERIM_BYTES_MAX: usize = 64 * 1024;

/// Forwards the interim responses of one request.
#[derive(Debug, Clone)]
pub(super) struct Interim {
    call: Arc<OpenCall>,
    /// Asks for the deferred request body.
    continue_signal: Option<Arc<ContinueSignal>>,
    route: InterimRoute,
}

/// How interim responses reach the client.
#[derive(Debug, Clone)]
enum InterimRoute {
    /// HTTP/1.0 has no interim responses.
    None,
    /// Over the HTTP/1.1 connection, with the number sent.
    Connection(Arc<AtomicUsize>),
    Stream(StreamInterim),
}

impl Interim {
    /// For a received request. `continue_signal` asks for its deferred body.
    pub(super) fn new<B>(
        request: &mut Request<B>,
        call: Arc<OpenCall>,
        continue_signal: Option<Arc<ContinueSignal>>,
    ) -> Self {
        let stream = request.extensions_mut().remove().map(InterimRoute::Stream);
        let route = stream.unwrap_or_else(|| match request.version() {
            Version::HTTP_11 => InterimRoute::Connection(Arc::default()),
            _ => InterimRoute::None,
        });
        Self { call, continue_signal, route }
    }

    /// Forwards interim responses of an HTTP/1.1 server.
    pub(super) fn listen<B>(&self, request: &mut Request<B>) {
        let interim = self.clone();
        hyper::ext::on_informational(request, move |response| {
            interim.forward(response.status(), response.headers());
        });
    }

    /// Forwards an interim response. 101 is not one.
    pub(super) fn forward(&self, status: StatusCode, headers: &HeaderMap) {
        if let (StatusCode::CONTINUE, Some(continue_signal)) = (status, &self.continue_signal) {
            // hyper sends `100 Continue` when the body is read.
            return continue_signal.yes();
        }
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return;
        }
        match &self.route {
            InterimRoute::Connection(sent) if sent.fetch_add(1, Ordering::Relaxed) < INTERIM_MAX => {
                self.call.interim().push(status, cleaned(headers));
            }
            // A client that already sends its body does not wait for it (RFC 9110 §10.1.1).
            InterimRoute::Stream(_) if status == StatusCode::CONTINUE && self.call.has_request_started() => {}
            InterimRoute::Stream(stream) => {
                if status == StatusCode::CONTINUE {
                    self.call.continues();
                }
                stream.send(status, cleaned(headers));
            }
            InterimRoute::Connection(_) | InterimRoute::None => {}
        }
    }
}

/// Removes hop-by-hop fields and content-length.
fn cleaned(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    fields::remove_hop(&mut headers);
    headers.remove(CONTENT_LENGTH);
    headers
}

/// Interim responses that wait for an HTTP/1.1 client. They are sent only while hyper has nothing to send, and before
/// the final response.
#[derive(Debug, Default)]
pub(super) struct InterimQueue {
    waiting: Mutex<QueuedResponses>,
    is_empty: EmptyFlag,
    connection: AtomicWaker,
    request: AtomicWaker,
}

#[derive(Debug, Default)]
struct QueuedResponses {
    bytes: Vec<u8>,
    /// Bytes already sent.
    sent: usize,
}

/// Whether the queue is empty; read without the lock.
#[derive(Debug)]
struct EmptyFlag(AtomicBool);

impl Default for EmptyFlag {
    fn default() -> Self {
        Self(AtomicBool::new(true))
    }
}

impl InterimQueue {
    fn push(&self, status: StatusCode, headers: HeaderMap) {
        let mut waiting = self.lock();
        let before = waiting.bytes.len();
        let reason = status.canonical_reason().unwrap_or_default();
        // Writing to memory does not fail.
        let _always_ok = write!(waiting.bytes, "HTTP/1.1 {} {reason}\r\n", status.as_u16());
        for (name, value) in &headers {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                waiting.bytes.extend_from_slice(part);
            }
        }
        waiting.bytes.extend_from_slice(b"\r\n");
        if waiting.bytes.len() - waiting.sent > INTERIM_BYTES_MAX {
            waiting.bytes.truncate(before);
            return;
        }
        drop(waiting);
        self.is_empty.0.store(false, Ordering::Release);
        self.connection.wake();
    }

    /// Whether an interim response has been sent in part: its rest must be sent first.
    pub(super) fn is_begun(&self) -> bool {
        !self.is_empty() && self.lock().sent > 0
    }

    /// Sends the queued responses.
    pub(super) fn poll_send(
        &self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(&mut Context<'_>, &[u8]) -> Poll<std::io::Result<usize>>,
    ) -> Poll<std::io::Result<()>> {
        self.connection.register(cx.waker());
        if self.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let mut waiting = self.lock();
        while let Some(rest) = waiting.bytes.get(waiting.sent..).filter(|rest| !rest.is_empty()) {
            let written = ready!(write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
            }
            waiting.sent += written;
        }
        *waiting = QueuedResponses::default();
        drop(waiting);
        self.is_empty.0.store(true, Ordering::Release);
        self.request.wake();
        Poll::Ready(Ok(()))
    }

    pub(super) async fn sent(&self) {
        poll_fn(|cx| {
            self.request.register(cx.waker());
            if self.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    fn is_empty(&self) -> bool {
        self.is_empty.0.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, QueuedResponses> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn hints(value: &'static str) -> HeaderMap {
        [("link", value), ("connection", "x-once"), ("x-once", "1"), ("content-length", "3")]
            .into_iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect::<HeaderMap>()
    }

    #[test]
    fn interim_responses_are_sent_whole_without_hop_by_hop_fields() {
        let queue = InterimQueue::default();
        let (mut cx, mut sent) = (Context::from_waker(Waker::noop()), Vec::new());
        queue.push(StatusCode::EARLY_HINTS, cleaned(&hints("</a>")));
        let mut budget = 0;
        loop {
            budget += 1;
            let mut left = budget;
            let polled = queue.poll_send(&mut cx, |_, bytes| {
                let taken = bytes.len().min(left);
                if taken == 0 {
                    return Poll::Pending;
                }
                left -= taken;
                sent.extend_from_slice(&bytes[..taken]);
                Poll::Ready(Ok(taken))
            });
            if polled.is_ready() {
                break;
            }
            assert!(queue.is_begun());
        }
        assert_eq!(sent, b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
        assert!(!queue.is_begun());
    }

    #[test]
    fn unsent_interim_responses_are_bounded() {
        let queue = InterimQueue::default();
        let value: &'static str = "x".repeat(4_000).leak();
        for _ in 0..1_000 {
            queue.push(StatusCode::EARLY_HINTS, cleaned(&hints(value)));
        }
        let held = queue.lock().bytes.len();
        assert!(held <= INTERIM_BYTES_MAX && held > INTERIM_BYTES_MAX - 5_000, "{held}");
        assert!(queue.lock().bytes.ends_with(b"\r\n\r\n"), "each is whole");
    }
}
