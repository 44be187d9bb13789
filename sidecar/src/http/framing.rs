//! Watches the bytes of an HTTP/1 connection on their way to the parser, for what that does not show: both lengths
//! given, a fragment in the target, and a head that never ends.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What was seen of one request's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Head {
    /// `Content-Length` and `Transfer-Encoding` together, which two parsers may read in two ways (RFC 9112 §6.1).
    pub(super) both_lengths: bool,
    /// `Content-Length` more than once, which some refuse even when they agree (RFC 9110 §8.6).
    pub(super) repeated_length: bool,
    /// A line that ends without a carriage return, which some take for the middle of a line (RFC 9112 §2.2).
    pub(super) bare_line_feed: bool,
    /// `#` in the target, where no fragment belongs (RFC 9112 §3.2).
    pub(super) fragment: bool,
}

/// What was seen of the heads of one connection, in their order.
#[derive(Debug, Default)]
pub(super) struct Heads {
    watch: Mutex<Watch>,
    over: AtomicBool,
    /// A chunk was framed in a way that some parsers take and others do not.
    loose: AtomicBool,
}

#[derive(Debug, Default)]
struct Watch {
    state: State,
    /// The head that has begun and not ended.
    begun: Vec<u8>,
    since: Option<Instant>,
    seen: VecDeque<Head>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunks {
    Exact,
    Loose,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Head,
    Body(u64),
    ChunkSize {
        size: u64,
        digits_over: bool,
    },
    ChunkData(u64),
    /// The line end after a chunk's data.
    ChunkEnd {
        carriage_return: bool,
    },
    Trailers {
        line_bytes: usize,
    },
    /// The parser will not take this either.
    Unreadable,
}

impl Heads {
    /// The next request's head. The parser hands out requests in the order in which their heads passed.
    pub(super) fn next(&self) -> Option<Head> {
        self.lock().seen.pop_front()
    }

    /// What follows is not HTTP any more.
    pub(super) fn upgraded(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Whether a head has begun so long ago and not ended.
    pub(super) fn is_stalled(&self, limit: Duration, now: Instant) -> bool {
        self.lock().since.is_some_and(|since| now.duration_since(since) > limit)
    }

    /// Bytes on their way to the parser.
    pub(super) fn pass(&self, bytes: &[u8]) {
        if !self.over.load(Ordering::Relaxed) && self.lock().pass(bytes) == Chunks::Loose {
            self.loose.store(true, Ordering::Release);
        }
    }

    /// Whether a chunk was framed in a way that not every parser takes.
    pub(super) fn is_loose(&self) -> bool {
        self.loose.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    fn pass(&mut self, mut bytes: &[u8]) -> Chunks {
        let mut chunks = Chunks::Exact;
        while !bytes.is_empty() {
            if self.is_loose(bytes) {
                chunks = Chunks::Loose;
            }
            bytes = match self.state {
                State::Head => self.pass_head(bytes),
                State::Body(left) => self.pass_data(bytes, left, State::Body, State::Head),
                State::ChunkData(left) => {
                    self.pass_data(bytes, left, State::ChunkData, State::ChunkEnd { carriage_return: false })
                }
                State::ChunkSize { .. } | State::ChunkEnd { .. } | State::Trailers { .. } => {
                    self.pass_line(bytes)
                }
                State::Unreadable => return chunks,
            };
        }
        chunks
    }

    /// White space in a chunk's size, or a line end there that is not CRLF (RFC 9112 §7.1).
    fn is_loose(&self, bytes: &[u8]) -> bool {
        let first = bytes.first();
        match self.state {
            State::ChunkSize { digits_over: false, .. } => matches!(first, Some(b' ' | b'\t' | b'\n')),
            State::ChunkEnd { carriage_return: false } => first != Some(&b'\r'),
            _ => false,
        }
    }

    fn pass_head<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        if self.begun.is_empty() && bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
            // Empty lines before a request (RFC 9112 §2.2).
            return &[];
        }
        let Some(end) = head_end(&self.begun, bytes) else {
            self.begun.extend_from_slice(bytes);
            self.since.get_or_insert_with(Instant::now);
            return &[];
        };
        let (last, rest) = bytes.split_at(end);
        let (head, state) = if self.begun.is_empty() {
            read_head(last)
        } else {
            self.begun.extend_from_slice(last);
            read_head(&self.begun)
        };
        (self.begun, self.since, self.state) = (Vec::new(), None, state);
        self.seen.push_back(head);
        rest
    }

    fn pass_data<'b>(
        &mut self,
        bytes: &'b [u8],
        left: u64,
        within: fn(u64) -> State,
        after: State,
    ) -> &'b [u8] {
        let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let left = left - taken as u64;
        self.state = if left == 0 { after } else { within(left) };
        bytes.get(taken..).unwrap_or_default()
    }

    /// Chunk sizes, the line ends of chunks, and trailers (RFC 9112 §7.1).
    fn pass_line<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let Some((&byte, rest)) = bytes.split_first() else { return &[] };
        self.state = match (self.state, byte) {
            (State::ChunkSize { size: 0, .. }, b'\n') => State::Trailers { line_bytes: 0 },
            (State::ChunkSize { size, .. }, b'\n') => State::ChunkData(size),
            (State::ChunkSize { size, digits_over: false }, byte) => match char::from(byte).to_digit(16) {
                Some(digit) => match size.checked_mul(16) {
                    Some(size) => {
                        State::ChunkSize { size: size.saturating_add(digit.into()), digits_over: false }
                    }
                    None => State::Unreadable,
                },
                None => State::ChunkSize { size, digits_over: true },
            },
            (State::ChunkEnd { .. }, b'\r') => State::ChunkEnd { carriage_return: true },
            (State::ChunkEnd { .. }, b'\n') => State::ChunkSize { size: 0, digits_over: false },
            (State::Trailers { line_bytes: 0 }, b'\n') => State::Head,
            (State::Trailers { .. }, b'\n') => State::Trailers { line_bytes: 0 },
            (State::Trailers { line_bytes }, byte) if byte != b'\r' => {
                State::Trailers { line_bytes: line_bytes.saturating_add(1) }
            }
            (state, _) => state,
        };
        rest
    }
}

/// Where in `bytes` the head ends that `begun` began: after its empty line.
fn head_end(begun: &[u8], bytes: &[u8]) -> Option<usize> {
    // Of what came before, only the last line end matters.
    let mut after_line_end = ends_line(begun);
    let mut anything = !begun.is_empty();
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'\n' if after_line_end && anything => return Some(at + 1),
            b'\n' => after_line_end = true,
            b'\r' => {}
            _ => (after_line_end, anything) = (false, true),
        }
    }
    None
}

fn ends_line(bytes: &[u8]) -> bool {
    bytes.iter().rev().find(|byte| **byte != b'\r') == Some(&b'\n')
}

fn read_head(head: &[u8]) -> (Head, State) {
    let mut lines = head.split(|byte| *byte == b'\n').skip_while(|line| line.trim_ascii().is_empty());
    let request = lines.next().unwrap_or_default();
    let (mut length, mut lengths, mut chunked) = (None, 0, false);
    for line in lines {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (name, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        if name.eq_ignore_ascii_case(b"content-length") {
            lengths += 1;
            length = std::str::from_utf8(value.trim_ascii()).ok().and_then(|text| text.parse().ok());
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            chunked = true;
        }
    }
    let seen = Head {
        both_lengths: chunked && lengths > 0,
        repeated_length: lengths > 1,
        bare_line_feed: has_bare_line_feed(head),
        fragment: request.contains(&b'#'),
    };
    let state = match length {
        _ if chunked => State::ChunkSize { size: 0, digits_over: false },
        Some(length) if length > 0 => State::Body(length),
        _ => State::Head,
    };
    (seen, state)
}

fn has_bare_line_feed(head: &[u8]) -> bool {
    head.starts_with(b"\n") || head.windows(2).any(|two| matches!(two, [before, b'\n'] if *before != b'\r'))
}
