//! Interim answers (RFC 9110 §15.2): what a request is told before its answer, such as `103 Early Hints`.

use std::future::poll_fn;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use futures_util::task::AtomicWaker;
use http::header::{CONTENT_LENGTH, HeaderMap};
use http::{Request, StatusCode, Version};

use super::call::OpenCall;
use super::expect::Asked;
use super::fields;
use super::http2::interim::StreamInterim;

/// So many are carried for one request; an app that announces more announces it to nobody.
pub(super) const INTERIM_MAX: usize = 16;
/// So much of them waits until the client takes it.
const INTERIM_BYTES_MAX: usize = 64 * 1024;

/// Where the interim answers to one request go.
#[derive(Debug, Clone)]
pub(super) struct Interim {
    call: Arc<OpenCall>,
    /// The request's body is held until it is asked for.
    asked: Option<Arc<Asked>>,
    to: Way,
}

/// To whoever asked.
#[derive(Debug, Clone)]
enum Way {
    /// HTTP/1.0 knows of none.
    None,
    /// The connection, and how many were sent.
    Connection(Arc<AtomicUsize>),
    Stream(StreamInterim),
}

impl Interim {
    /// Of a request as it came, whose body is held until `asked` says that it is wanted.
    pub(super) fn new<B>(request: &mut Request<B>, call: Arc<OpenCall>, asked: Option<Arc<Asked>>) -> Self {
        let stream = request.extensions_mut().remove().map(Way::Stream);
        let to = stream.unwrap_or_else(|| match request.version() {
            Version::HTTP_11 => Way::Connection(Arc::default()),
            _ => Way::None,
        });
        Self { call, asked, to }
    }

    /// Passes on what answers the request as it is sent on an HTTP/1.1 connection.
    pub(super) fn listen<B>(&self, request: &mut Request<B>) {
        let interim = self.clone();
        hyper::ext::on_informational(request, move |response| {
            interim.tell(response.status(), response.headers());
        });
    }

    /// Passes one on. 101 is none.
    pub(super) fn tell(&self, status: StatusCode, headers: &HeaderMap) {
        if let (StatusCode::CONTINUE, Some(asked)) = (status, &self.asked) {
            // When the body is taken, hyper says so.
            return asked.yes();
        }
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return;
        }
        match &self.to {
            Way::Connection(sent) if sent.fetch_add(1, Ordering::Relaxed) < INTERIM_MAX => {
                self.call.interim().push(status, cleaned(headers));
            }
            // Whoever sends its body already does not wait for it (RFC 9110 §10.1.1).
            Way::Stream(_) if status == StatusCode::CONTINUE && self.call.has_request_begun() => {}
            Way::Stream(stream) => {
                if status == StatusCode::CONTINUE {
                    self.call.continues();
                }
                stream.send(status, cleaned(headers));
            }
            Way::Connection(_) | Way::None => {}
        }
    }
}

/// Without what concerns one hop, or a body.
fn cleaned(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    fields::remove_hop(&mut headers);
    headers.remove(CONTENT_LENGTH);
    headers
}

/// The interim answers on their way to a client of HTTP/1.1. They are sent only while hyper has nothing to send, and no
/// answer is given before they are.
#[derive(Debug, Default)]
pub(super) struct InterimQueue {
    waiting: Mutex<Waiting>,
    is_empty: Emptied,
    connection: AtomicWaker,
    request: AtomicWaker,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// Sent already.
    sent: usize,
}

/// Nothing waits; looked at without the lock.
#[derive(Debug)]
struct Emptied(AtomicBool);

impl Default for Emptied {
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

    /// Whether one has been sent in part: nothing else may be sent before the rest of it.
    pub(super) fn is_begun(&self) -> bool {
        !self.is_empty() && self.lock().sent > 0
    }

    /// Sends what waits.
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
        *waiting = Waiting::default();
        drop(waiting);
        self.is_empty.0.store(true, Ordering::Release);
        self.request.wake();
        Poll::Ready(Ok(()))
    }

    /// Waits until all are sent.
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

    fn lock(&self) -> MutexGuard<'_, Waiting> {
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
    fn one_is_sent_whole_without_what_is_of_its_hop_however_little_is_taken_at_a_time() {
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
    fn what_the_client_does_not_take_is_bounded() {
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
