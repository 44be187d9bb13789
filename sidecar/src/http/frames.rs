//! Watches the frames of an HTTP/2 connection on their way to the parser, for a header block or a frame that never ends:
//! the parser waits for it as long as the connection lasts.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// RFC 9113 §3.4.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// RFC 9113 §4.1.
const FRAME_HEAD_BYTES: usize = 9;
const KIND_DATA: u8 = 0;
const KIND_HEADERS: u8 = 1;
const KIND_CONTINUATION: u8 = 9;
const FLAG_END_HEADERS: u8 = 4;

/// Since when something has begun and not ended.
#[derive(Debug, Default)]
pub(super) struct Unfinished(Mutex<Option<Instant>>);

impl Unfinished {
    /// Whether that was so long ago.
    pub(super) fn is_stalled(&self, limit: Duration, now: Instant) -> bool {
        self.since().is_some_and(|since| now.saturating_duration_since(since) > limit)
    }

    fn since(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }
}

/// Where in its frames a connection is.
#[derive(Debug)]
pub(super) struct Frames {
    at: At,
    /// A header block goes on in the next frame.
    in_block: bool,
    /// What `unfinished` was last told.
    told: bool,
    unfinished: Arc<Unfinished>,
}

#[derive(Debug, Clone, Copy)]
enum At {
    Preface { left: usize },
    Head { read: [u8; FRAME_HEAD_BYTES], bytes: usize },
    Payload { kind: u8, left: usize },
}

const NEXT_FRAME: At = At::Head { read: [0; FRAME_HEAD_BYTES], bytes: 0 };

impl Frames {
    pub(super) fn new(unfinished: Arc<Unfinished>) -> Self {
        let at = At::Preface { left: PREFACE.len() };
        Self { at, in_block: false, told: false, unfinished }
    }

    /// Bytes on their way to the parser.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = match self.at {
                At::Preface { left } => self.pass_preface(bytes, left),
                At::Head { read, bytes: before } => self.pass_head(bytes, read, before),
                At::Payload { kind, left } => self.pass_payload(bytes, kind, left),
            };
        }
        let unfinished = self.is_unfinished();
        if unfinished != self.told {
            self.told = unfinished;
            self.unfinished.set(unfinished.then(Instant::now));
        }
    }

    /// A body may be as slow as its request may.
    fn is_unfinished(&self) -> bool {
        self.in_block
            || match self.at {
                At::Preface { .. } => true,
                At::Head { bytes, .. } => bytes > 0,
                At::Payload { kind, .. } => kind != KIND_DATA,
            }
    }

    fn pass_preface<'b>(&mut self, bytes: &'b [u8], left: usize) -> &'b [u8] {
        let (taken, rest) = bytes.split_at(left.min(bytes.len()));
        let left = left - taken.len();
        self.at = if left == 0 { NEXT_FRAME } else { At::Preface { left } };
        rest
    }

    fn pass_head<'b>(
        &mut self,
        bytes: &'b [u8],
        mut read: [u8; FRAME_HEAD_BYTES],
        before: usize,
    ) -> &'b [u8] {
        let (taken, rest) = bytes.split_at((FRAME_HEAD_BYTES - before).min(bytes.len()));
        read.iter_mut().skip(before).zip(taken).for_each(|(to, from)| *to = *from);
        let bytes = before + taken.len();
        self.at = if bytes < FRAME_HEAD_BYTES { At::Head { read, bytes } } else { self.begin(read) };
        rest
    }

    fn begin(&mut self, head: [u8; FRAME_HEAD_BYTES]) -> At {
        let [a, b, c, kind, flags, ..] = head;
        if matches!(kind, KIND_HEADERS | KIND_CONTINUATION) {
            self.in_block = flags & FLAG_END_HEADERS == 0;
        }
        match u32::from_be_bytes([0, a, b, c]) as usize {
            0 => NEXT_FRAME,
            left => At::Payload { kind, left },
        }
    }

    fn pass_payload<'b>(&mut self, bytes: &'b [u8], kind: u8, left: usize) -> &'b [u8] {
        let (taken, rest) = bytes.split_at(left.min(bytes.len()));
        let left = left - taken.len();
        self.at = if left == 0 { NEXT_FRAME } else { At::Payload { kind, left } };
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADERS: &[u8] = &[0, 0, 2, KIND_HEADERS, 0, 0, 0, 0, 1, 0x82, 0x84];
    const CONTINUATION: &[u8] = &[0, 0, 0, KIND_CONTINUATION, FLAG_END_HEADERS, 0, 0, 0, 1];
    const DATA: &[u8] = &[0, 0, 3, KIND_DATA, 0, 0, 0, 0, 1, b'a', b'b', b'c'];

    /// Whether something is unfinished after each of these, passed in pieces of so many bytes.
    fn unfinished(parts: &[&[u8]], piece: usize) -> Vec<bool> {
        let unfinished = Arc::<Unfinished>::default();
        let mut frames = Frames::new(unfinished.clone());
        let mut after = |part: &&[u8]| {
            part.chunks(piece).for_each(|bytes| frames.pass(bytes));
            unfinished.since().is_some()
        };
        parts.iter().map(&mut after).collect()
    }

    #[test]
    fn a_block_is_unfinished_until_its_last_frame_however_it_is_cut() {
        for piece in 1..=HEADERS.len() {
            let told = unfinished(&[PREFACE, DATA, HEADERS, CONTINUATION, DATA], piece);
            assert_eq!(told, [false, false, true, false, false], "in pieces of {piece}");
        }
    }

    #[test]
    fn a_part_of_the_preface_a_frames_head_or_a_header_block_is_unfinished_and_a_part_of_a_body_is_not() {
        assert_eq!(unfinished(&[&PREFACE[..5]], 5), [true]);
        assert_eq!(unfinished(&[PREFACE, &DATA[..4]], 24), [false, true]);
        assert_eq!(unfinished(&[PREFACE, &HEADERS[..10]], 24), [false, true]);
        assert_eq!(unfinished(&[PREFACE, &DATA[..10]], 24), [false, false]);
    }

    #[test]
    fn its_time_runs_from_its_first_byte_whatever_follows() {
        let unfinished = Arc::<Unfinished>::default();
        let mut frames = Frames::new(unfinished.clone());
        frames.pass(&[PREFACE, HEADERS].concat());
        let since = unfinished.since().unwrap();
        frames.pass(&[0, 0, 1, KIND_CONTINUATION, 0, 0, 0, 0, 1, 0x84]);
        assert_eq!(unfinished.since(), Some(since));
        assert!(!unfinished.is_stalled(Duration::from_secs(1), since));
        assert!(unfinished.is_stalled(Duration::from_secs(1), since + Duration::from_secs(2)));
    }
}
