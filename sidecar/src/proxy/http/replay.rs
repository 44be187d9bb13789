//! Decides when a request is retried, and buffers its body for that.

use std::error::Error;
use std::io;

use bytes::Bytes;
use http::Method;
use http_body::Frame;
use thiserror::Error;

/// Bytes of a body that are buffered until the response starts. Longer bodies are not retried.
const KEPT_BYTES_MAX: usize = 64 * 1024;

/// Smaller pieces are copied: they may be slices of a 64 KiB buffer.
const COPIED_BYTES_BELOW: usize = 16 * 1024;

/// Nothing of a request was sent, because its HTTP/2 connection had ended or received GOAWAY.
#[derive(Debug, Error)]
#[error("the connection ended before the request was sent")]
pub(super) struct NotSent(#[source] pub(super) h2::Error);

/// Whether a request with this error was not sent, or not processed by the server, which says so by GOAWAY or
/// REFUSED_STREAM (RFC 9113 §8.7).
pub(super) fn is_unprocessed(error: &(dyn Error + 'static)) -> bool {
    if cause::<NotSent>(error).is_some() {
        return true;
    }
    let Some(error) = cause::<h2::Error>(error).filter(|error| error.is_remote()) else { return false };
    match error.reason() {
        Some(h2::Reason::NO_ERROR) => error.is_go_away(),
        Some(h2::Reason::REFUSED_STREAM) => error.is_reset(),
        _ => false,
    }
}

/// Whether a request on a reused connection may be repeated: the server closed it meanwhile (RFC 9112 §9.3.1), and
/// processing the request twice has the same effect as once (RFC 9110 §9.2.2).
pub(super) fn is_repeatable(error: &(dyn Error + 'static), method: &Method) -> bool {
    let closed = |error: &io::Error| {
        matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
    };
    let incomplete = cause::<hyper::Error>(error).is_some_and(hyper::Error::is_incomplete_message);
    method.is_idempotent() && (incomplete || cause::<io::Error>(error).is_some_and(closed))
}

fn cause<'e, E: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e E> {
    std::iter::successors(Some(error), |error| (*error).source()).find_map(|error| error.downcast_ref())
}

/// The forwarded bytes of a request body, for a retry.
#[derive(Debug)]
pub(super) struct BodyReplay {
    pieces: Vec<Bytes>,
    /// The piece to send next in a retry.
    next: usize,
    bytes: usize,
    /// No piece has been dropped.
    whole: bool,
}

impl Default for BodyReplay {
    fn default() -> Self {
        Self { pieces: Vec::new(), next: 0, bytes: 0, whole: true }
    }
}

impl BodyReplay {
    /// Buffers a frame that is forwarded for the first time.
    pub(super) fn keep(&mut self, frame: &Frame<Bytes>) {
        match frame.data_ref().filter(|data| self.whole && data.len() <= KEPT_BYTES_MAX - self.bytes) {
            Some(data) => {
                self.pieces.push(compact(data));
                self.next = self.pieces.len();
                self.bytes += data.len();
            }
            None => self.forget(),
        }
    }

    /// Drops the buffer, except what a retry still has to send.
    pub(super) fn forget(&mut self) {
        *self = Self { pieces: self.pieces.split_off(self.next), next: 0, bytes: 0, whole: false };
    }

    /// Starts again, if no piece has been dropped.
    pub(super) fn rewind(&mut self) -> bool {
        if self.whole {
            self.next = 0;
        }
        self.whole
    }

    /// The next piece of a retry.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        let piece = self.pieces.get(self.next)?.clone();
        self.next += 1;
        Some(piece)
    }

    /// Bytes that the retry still has to send.
    pub(super) fn left(&self) -> u64 {
        self.pieces.iter().skip(self.next).map(|piece| piece.len() as u64).sum()
    }
}

/// A copy, so that the piece does not keep its whole read buffer alive.
fn compact(data: &Bytes) -> Bytes {
    if data.len() < COPIED_BYTES_BELOW { Bytes::copy_from_slice(data) } else { data.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(kept: &mut BodyReplay) -> Vec<Bytes> {
        std::iter::from_fn(|| kept.next()).collect()
    }

    #[test]
    fn an_unsent_request_is_unprocessed_for_any_connection_error() {
        let error = || h2::Error::from(h2::Reason::PROTOCOL_ERROR);
        assert!(is_unprocessed(&NotSent(error())));
        assert!(!is_unprocessed(&error()));
    }

    #[test]
    fn forwarded_pieces_are_replayed_in_order_repeatedly() {
        let mut kept = BodyReplay::default();
        for piece in ["a", "bc"] {
            kept.keep(&Frame::data(Bytes::from_static(piece.as_bytes())));
        }
        assert_eq!(kept.left(), 0);
        for _ in 0..2 {
            assert!(kept.rewind());
            assert_eq!(kept.left(), 3);
            assert_eq!(all(&mut kept), ["a", "bc"]);
        }
    }

    #[test]
    fn a_long_body_or_one_with_trailers_is_not_replayed() {
        let mut long = BodyReplay::default();
        for _ in 0..=KEPT_BYTES_MAX / 1024 {
            long.keep(&Frame::data(Bytes::from(vec![0; 1024])));
        }
        assert!(!long.rewind());
        assert!(all(&mut long).is_empty(), "nothing of it is held");
        let mut ended = BodyReplay::default();
        ended.keep(&Frame::trailers(http::HeaderMap::new()));
        assert!(!ended.rewind());
    }

    #[test]
    fn pieces_still_to_be_replayed_are_kept() {
        let mut kept = BodyReplay::default();
        for piece in ["a", "b"] {
            kept.keep(&Frame::data(Bytes::from_static(piece.as_bytes())));
        }
        kept.rewind();
        assert_eq!(kept.next().unwrap(), "a");
        kept.forget();
        assert_eq!(all(&mut kept), ["b"]);
    }
}
