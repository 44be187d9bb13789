//! When a request is sent again, and what of its body is kept for that.

use std::error::Error;
use std::io;

use bytes::Bytes;
use http::Method;
use http_body::Frame;
use thiserror::Error;

/// Of a body so much is kept while its request has no answer; a longer one is not sent again.
const KEPT_BYTES_MAX: usize = 64 * 1024;

/// A piece of fewer bytes is copied: it may be a small part of a buffer of 64 KiB.
const COPIED_BYTES_BELOW: usize = 16 * 1024;

/// Nothing of a request was sent, because its HTTP/2 connection had ended or the other side had gone away.
#[derive(Debug, Error)]
#[error("the connection ended before the request was sent")]
pub(super) struct NotSent(#[source] pub(super) h2::Error);

/// Whether a request that got this error was not sent, or not looked at by the other side, which says so (RFC 9113 §8.7):
/// it went away before, or refused the stream.
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

/// Whether a request on a connection that was kept may be repeated: the other side closed it meanwhile (RFC 9112
/// §9.3.1), and whether it saw the request makes no difference (RFC 9110 §9.2.2).
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

/// What was passed on of a body.
#[derive(Debug)]
pub(super) struct Kept {
    pieces: Vec<Bytes>,
    /// Which of them is passed on next, when the body is sent again.
    next: usize,
    bytes: usize,
    /// Nothing is missing.
    whole: bool,
}

impl Default for Kept {
    fn default() -> Self {
        Self { pieces: Vec::new(), next: 0, bytes: 0, whole: true }
    }
}

impl Kept {
    /// Keeps a frame that is passed on for the first time.
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

    /// Keeps nothing any more.
    pub(super) fn forget(&mut self) {
        *self = Self { pieces: self.pieces.split_off(self.next), next: 0, bytes: 0, whole: false };
    }

    /// Begins again, if nothing is missing.
    pub(super) fn rewind(&mut self) -> bool {
        if self.whole {
            self.next = 0;
        }
        self.whole
    }

    /// What is passed on again next.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        let piece = self.pieces.get(self.next)?.clone();
        self.next += 1;
        Some(piece)
    }

    /// Bytes still to be passed on again.
    pub(super) fn left(&self) -> u64 {
        self.pieces.iter().skip(self.next).map(|piece| piece.len() as u64).sum()
    }
}

/// A piece that does not hold the whole buffer into which it was read.
fn compact(data: &Bytes) -> Bytes {
    if data.len() < COPIED_BYTES_BELOW { Bytes::copy_from_slice(data) } else { data.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(kept: &mut Kept) -> Vec<Bytes> {
        std::iter::from_fn(|| kept.next()).collect()
    }

    #[test]
    fn a_request_that_was_not_sent_is_not_looked_at_whatever_ended_its_connection() {
        let error = || h2::Error::from(h2::Reason::PROTOCOL_ERROR);
        assert!(is_unprocessed(&NotSent(error())));
        assert!(!is_unprocessed(&error()));
    }

    #[test]
    fn what_was_passed_on_comes_again_in_its_order_as_often_as_asked() {
        let mut kept = Kept::default();
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
    fn a_body_that_is_too_long_or_has_trailers_does_not_come_again() {
        let mut long = Kept::default();
        for _ in 0..=KEPT_BYTES_MAX / 1024 {
            long.keep(&Frame::data(Bytes::from(vec![0; 1024])));
        }
        assert!(!long.rewind());
        assert!(all(&mut long).is_empty(), "nothing of it is held");
        let mut ended = Kept::default();
        ended.keep(&Frame::trailers(http::HeaderMap::new()));
        assert!(!ended.rewind());
    }

    #[test]
    fn what_is_still_to_come_again_is_not_forgotten() {
        let mut kept = Kept::default();
        for piece in ["a", "b"] {
            kept.keep(&Frame::data(Bytes::from_static(piece.as_bytes())));
        }
        kept.rewind();
        assert_eq!(kept.next().unwrap(), "a");
        kept.forget();
        assert_eq!(all(&mut kept), ["b"]);
    }
}
