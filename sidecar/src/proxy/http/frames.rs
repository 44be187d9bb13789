//! Checks the frames of an HTTP/2 connection before h2 reads them. Header blocks are checked whole, and replaced when
//! refused. Small DATA payloads are buffered compactly until they are read, because h2 keeps each as a slice of the
//! buffer it came in. Frames of unknown types are dropped: they have no meaning (RFC 9113 §4.1).

mod block;
mod hpack;
mod huffman;
mod streams;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Context;
use std::time::{Duration, Instant};

use super::FRAME_BYTES_MAX;
use super::framing::{CheckedBytes, Output};
use super::target::InvalidMessage;
use crate::config::Http;
use block::{BlockVerdict, Kind, Table};
use hpack::Decoder;
pub(super) use streams::{Stream, Streams};

/// RFC 9113 §3.4.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// RFC 9113 §4.1.
const FRAME_HEAD_BYTES: usize = 9;
const KIND_DATA: u8 = 0;
const KIND_HEADERS: u8 = 1;
const KIND_RST_STREAM: u8 = 3;
const KIND_PUSH_PROMISE: u8 = 5;
const KIND_CONTINUATION: u8 = 9;
const FLAG_END_STREAM: u8 = 1;
const FLAG_END_HEADERS: u8 = 4;
const FLAG_PADDED: u8 = 8;
const FLAG_PRIORITY: u8 = 0x20;
const PRIORITY_BYTES: usize = 5;
/// Smaller DATA payloads are buffered until they are read.
const PIECE_BYTES_MIN: usize = 4 * 1024;
/// An encoded header block longer than this many times `header_bytes_max` ends its connection.
const BLOCK_TIMES_MAX: usize = 4;
/// Most frames of one header block.
const FRAGMENTS_MAX: usize = 64;
/// Payload size of the DATA frames that forward buffered bytes.
const HANDED_ON_BYTES_MAX: usize = 16 * 1024;

/// Since when a frame or header block has been incomplete.
#[derive(Debug, Default)]
pub(super) struct Unfinished(Mutex<Option<Instant>>);

impl Unfinished {
    /// Whether it has been incomplete for longer than `limit`.
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

/// Reports an invalid message whose sender gets no response.
pub(super) type Report = Arc<dyn Fn(&InvalidMessage) + Send + Sync>;

/// The frame parser of one connection.
pub(super) struct Frames {
    at: ParserState,
    limits: Http,
    decoder: Decoder,
    table: Table,
    streams: Arc<Streams>,
    messages: Messages,
    /// The incomplete header block.
    block: Option<Block>,
    /// The value last written to `unfinished`.
    reported: bool,
    unfinished: Arc<Unfinished>,
    report: Report,
}

/// Which header blocks begin a message, rather than being trailers.
enum Messages {
    /// Each new stream is a request; `newest` is the highest stream id.
    Requests { newest: u32 },
    /// Streams whose response has started.
    Responses(HashSet<u32>),
}

struct Block {
    stream: u32,
    end_stream: bool,
    priority: Vec<u8>,
    fragments: Vec<u8>,
    frames: usize,
}

#[derive(Debug, Clone, Copy)]
struct FrameHead {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

enum ParserState {
    Preface {
        left: usize,
    },
    Head {
        read: [u8; FRAME_HEAD_BYTES],
        bytes: usize,
    },
    /// A payload that is passed to h2.
    Payload {
        kind: u8,
        left: usize,
    },
    Skipped {
        left: usize,
    },
    /// The payload of HEADERS or CONTINUATION.
    Fragment {
        head: FrameHead,
        payload: Vec<u8>,
    },
    /// The pad length of a DATA frame comes next.
    PadLength(FrameHead),
    /// A DATA payload that is buffered.
    Held {
        stream: u32,
        left: usize,
        padding: usize,
        end_stream: bool,
    },
    /// h2 has been given a frame for which it ends the connection.
    Over,
}

const NEXT_FRAME: ParserState = ParserState::Head { read: [0; FRAME_HEAD_BYTES], bytes: 0 };

impl std::fmt::Debug for Frames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frames").field("streams", &self.streams).finish_non_exhaustive()
    }
}

impl Frames {
    /// For a connection that receives requests.
    pub(super) fn for_requests(
        limits: Http,
        streams: Arc<Streams>,
        unfinished: Arc<Unfinished>,
        report: Report,
    ) -> Self {
        let (at, messages) = (ParserState::Preface { left: PREFACE.len() }, Messages::Requests { newest: 0 });
        Self::new(at, messages, limits, streams, unfinished, report)
    }

    /// For a connection that receives responses.
    pub(super) fn for_responses(limits: Http, streams: Arc<Streams>) -> Self {
        let report: Report = Arc::new(|bad| tracing::debug!(%bad, "a trailer section is not valid"));
        Self::new(NEXT_FRAME, Messages::Responses(HashSet::new()), limits, streams, Arc::default(), report)
    }

    fn new(
        at: ParserState,
        messages: Messages,
        limits: Http,
        streams: Arc<Streams>,
        unfinished: Arc<Unfinished>,
        report: Report,
    ) -> Self {
        let (decoder, table) = (Decoder::default(), Table::InStep);
        Self {
            at,
            limits,
            decoder,
            table,
            streams,
            messages,
            block: None,
            reported: false,
            unfinished,
            report,
        }
    }

    /// Frames with the buffered bytes that are to be read now. `cx` is woken when there are more.
    pub(super) fn wanted(&self, cx: &Context<'_>) -> Vec<u8> {
        let mut frames = Vec::new();
        self.streams.read_by(cx);
        if matches!(self.at, ParserState::Preface { .. } | ParserState::Payload { .. } | ParserState::Over) {
            // A frame that is partly passed to h2 must not be interrupted.
            return frames;
        }
        for (stream, held) in self.streams.take_wanted() {
            frames.append(&mut data(stream, &held, false));
        }
        frames
    }

    /// Checks received bytes; returns what h2 gets.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> CheckedBytes {
        let mut output = Output::of(bytes);
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = match &mut self.at {
                ParserState::Preface { left } => {
                    let (taken, after) = rest.split_at((*left).min(rest.len()));
                    *left -= taken.len();
                    if *left == 0 {
                        self.at = NEXT_FRAME;
                    }
                    output.push(taken);
                    after
                }
                ParserState::Head { read, bytes: before } => {
                    if *before > 0 || rest.len() < FRAME_HEAD_BYTES {
                        output.hold_back(rest);
                    }
                    let (taken, after) = rest.split_at((FRAME_HEAD_BYTES - *before).min(rest.len()));
                    read.iter_mut().skip(*before).zip(taken).for_each(|(to, from)| *to = *from);
                    *before += taken.len();
                    if *before == FRAME_HEAD_BYTES {
                        let read = *read;
                        self.begin(read, rest, &mut output);
                    }
                    after
                }
                ParserState::Payload { left, .. } | ParserState::Skipped { left } => {
                    let (taken, after) = rest.split_at((*left).min(rest.len()));
                    *left -= taken.len();
                    let is_over = *left == 0;
                    if let ParserState::Payload { .. } = self.at {
                        output.push(taken);
                    } else {
                        output.hold_back(rest);
                    }
                    if is_over {
                        self.at = NEXT_FRAME;
                    }
                    after
                }
                ParserState::Fragment { head, payload } => {
                    output.hold_back(rest);
                    let (taken, after) = rest.split_at((head.length - payload.len()).min(rest.len()));
                    payload.extend_from_slice(taken);
                    if payload.len() == head.length {
                        let (head, payload) = (*head, std::mem::take(payload));
                        self.fragment(head, &payload, &mut output);
                    }
                    after
                }
                ParserState::PadLength(head) => {
                    output.hold_back(rest);
                    let (head, padding) = (*head, usize::from(rest.first().copied().unwrap_or_default()));
                    self.padded(head, padding, &mut output);
                    rest.get(1..).unwrap_or_default()
                }
                ParserState::Held { stream, left, padding, end_stream } => {
                    output.hold_back(rest);
                    let (taken, after) = rest.split_at((*left).min(rest.len()));
                    *left -= taken.len();
                    let (stream, left, padding, end_stream) = (*stream, *left, *padding, *end_stream);
                    self.held(stream, taken, left, end_stream, &mut output);
                    if left == 0 {
                        self.at =
                            if padding == 0 { NEXT_FRAME } else { ParserState::Skipped { left: padding } };
                    }
                    after
                }
                ParserState::Over => {
                    output.push(rest);
                    break;
                }
            };
        }
        self.report_unfinished();
        output.passed()
    }

    /// Updates `unfinished`. DATA does not count: the idle timeout of its request applies to it.
    fn report_unfinished(&mut self) {
        let unfinished = self.block.is_some()
            || match &self.at {
                ParserState::Preface { .. } | ParserState::Fragment { .. } | ParserState::PadLength(_) => {
                    true
                }
                ParserState::Head { bytes, .. } => *bytes > 0,
                ParserState::Payload { kind, .. } => *kind != KIND_DATA,
                ParserState::Skipped { .. } | ParserState::Held { .. } | ParserState::Over => false,
            };
        if unfinished != self.reported {
            self.reported = unfinished;
            self.unfinished.set(unfinished.then(Instant::now));
        }
    }

    /// Starts a frame. `at` starts with its header, or with the rest of the header if the first part was held back.
    fn begin(&mut self, read: [u8; FRAME_HEAD_BYTES], at: &[u8], output: &mut Output<'_>) {
        let head = FrameHead::of(read);
        let FrameHead { length, kind, flags, stream } = head;
        let is_interrupted = self.block.is_some() != (kind == KIND_CONTINUATION);
        if length > FRAME_BYTES_MAX as usize || is_interrupted || kind == KIND_PUSH_PROMISE {
            return self.give_up(&read, at, output);
        }
        match kind {
            KIND_HEADERS | KIND_CONTINUATION if stream != 0 => {
                output.hold_back(at);
                self.at = ParserState::Fragment { head, payload: Vec::new() };
                if length == 0 {
                    self.fragment(head, &[], output);
                }
            }
            KIND_DATA if stream != 0 && flags & FLAG_PADDED != 0 && length > 0 => {
                output.hold_back(at);
                self.at = ParserState::PadLength(head);
            }
            KIND_DATA if stream != 0 && length > 0 && !self.goes_straight_on(head) => {
                output.hold_back(at);
                self.at = ParserState::Held { stream, left: length, padding: 0, end_stream: false };
            }
            KIND_DATA | KIND_RST_STREAM => {
                let held = self.streams.held(stream);
                if !held.is_empty() {
                    output.hold_back(at);
                    output.push(&data(stream, &held, false));
                }
                if kind == KIND_RST_STREAM || flags & FLAG_END_STREAM != 0 {
                    self.end(stream);
                }
                self.pass_on(head, &read, output);
            }
            ..=KIND_CONTINUATION => self.pass_on(head, &read, output),
            _ => {
                output.hold_back(at);
                self.at = if length == 0 { NEXT_FRAME } else { ParserState::Skipped { left: length } };
            }
        }
    }

    fn pass_on(&mut self, head: FrameHead, read: &[u8], output: &mut Output<'_>) {
        output.push(read);
        let FrameHead { length: left, kind, .. } = head;
        self.at = if left == 0 { NEXT_FRAME } else { ParserState::Payload { kind, left } };
    }

    /// Passes h2 a frame for which it ends the connection: one that it does not accept, or that interrupts a header
    /// block.
    fn give_up(&mut self, frame: &[u8], at: &[u8], output: &mut Output<'_>) {
        if let Some(block) = self.block.take() {
            output.hold_back(at);
            output.push(&frame_of(KIND_HEADERS, 0, block.stream, &[]));
        }
        output.push(frame);
        self.at = ParserState::Over;
    }

    fn goes_straight_on(&self, head: FrameHead) -> bool {
        head.length >= PIECE_BYTES_MIN
            || head.flags & FLAG_END_STREAM != 0
            || self.streams.goes_straight_on(head.stream)
    }

    /// A padded DATA frame: the padding is passed on at once, because h2 counts it for flow control, and the data is
    /// buffered.
    fn padded(&mut self, head: FrameHead, padding: usize, output: &mut Output<'_>) {
        let FrameHead { length, flags, stream, .. } = head;
        let Some(left) = (length - 1).checked_sub(padding) else {
            // RFC 9113 §6.1: the padding is longer than the payload.
            output.push(&frame_of(KIND_DATA, FLAG_PADDED, stream, &[u8::MAX]));
            self.at = ParserState::Over;
            return;
        };
        let mut payload = vec![0; padding + 1];
        if let Some(first) = payload.first_mut() {
            *first = u8::try_from(padding).unwrap_or(u8::MAX);
        }
        output.push(&frame_of(KIND_DATA, FLAG_PADDED, stream, &payload));
        let end_stream = flags & FLAG_END_STREAM != 0;
        if left > 0 {
            self.at = ParserState::Held { stream, left, padding, end_stream };
            return;
        }
        self.held(stream, &[], left, end_stream, output);
        self.at = if padding == 0 { NEXT_FRAME } else { ParserState::Skipped { left: padding } };
    }

    /// Buffers bytes of a DATA payload.
    fn held(&self, stream: u32, bytes: &[u8], left: usize, end_stream: bool, output: &mut Output<'_>) {
        let mut wanted = self.streams.hold(stream, bytes);
        let is_end = left == 0 && end_stream;
        if is_end {
            wanted.append(&mut self.streams.held(stream));
        }
        if is_end || !wanted.is_empty() {
            output.push(&data(stream, &wanted, is_end));
        }
        if is_end {
            self.streams.end(stream);
        }
    }

    fn end(&mut self, stream: u32) {
        self.streams.end(stream);
        if let Messages::Responses(begun) = &mut self.messages {
            begun.remove(&stream);
        }
    }

    /// Handles a complete HEADERS or CONTINUATION frame.
    fn fragment(&mut self, head: FrameHead, payload: &[u8], output: &mut Output<'_>) {
        let FrameHead { kind, flags, stream, .. } = head;
        self.at = NEXT_FRAME;
        let raw = || frame_of(kind, flags, stream, payload);
        let max = self.limits.header_bytes_max.saturating_mul(BLOCK_TIMES_MAX);
        let block = match self.block.take() {
            None => {
                let Some((priority, fragment)) = unpadded(flags, payload) else {
                    return self.give_up(&raw(), &[], output);
                };
                let (priority, fragments) = (priority.to_vec(), fragment.to_vec());
                Block { stream, end_stream: flags & FLAG_END_STREAM != 0, priority, fragments, frames: 1 }
            }
            Some(mut block) if block.stream == stream => {
                block.fragments.extend_from_slice(payload);
                block.frames += 1;
                block
            }
            Some(block) => {
                self.block = Some(block);
                return self.give_up(&raw(), &[], output);
            }
        };
        if block.fragments.len() > max || block.frames > FRAGMENTS_MAX {
            (self.report)(&InvalidMessage::HeadTooLarge { max: self.limits.header_bytes_max });
            self.block = Some(block);
            return self.give_up(&frame_of(KIND_DATA, 0, stream, &[]), &[], output);
        }
        if flags & FLAG_END_HEADERS == 0 {
            self.block = Some(block);
        } else {
            self.check(&block, output);
        }
    }

    /// The kind of a header block. Blocks of streams that are not open are left to h2.
    fn kind(&mut self, stream: u32) -> Kind {
        let begins = match &mut self.messages {
            Messages::Requests { newest } if stream > *newest => {
                *newest = stream;
                Some(Kind::Request)
            }
            Messages::Requests { .. } => None,
            Messages::Responses(begun) => begun.insert(stream).then_some(Kind::Response),
        };
        begins.unwrap_or(if self.streams.is_open(stream) { Kind::Trailers } else { Kind::Stray })
    }

    fn check(&mut self, block: &Block, output: &mut Output<'_>) {
        let stream = block.stream;
        let kind = self.kind(stream);
        let Ok(verdict) = block::check(&mut self.decoder, &block.fragments, (kind, self.table), &self.limits)
        else {
            // Index 0 is invalid (RFC 7541 §6.1).
            output.push(&frame_of(KIND_HEADERS, FLAG_END_HEADERS, stream, &[0x80]));
            self.at = ParserState::Over;
            return;
        };
        let held = self.streams.held(stream);
        if !held.is_empty() {
            output.push(&data(stream, &held, false));
        }
        let mut has_body = false;
        let instead = match verdict {
            BlockVerdict::Accepted { rewritten, is_informational, expanded_bytes } => {
                self.streams.expanded(stream, expanded_bytes);
                if is_informational && let Messages::Responses(begun) = &mut self.messages {
                    begun.remove(&stream);
                }
                has_body = !is_informational && matches!(kind, Kind::Request | Kind::Response);
                rewritten
            }
            BlockVerdict::Refused { block, refused } => {
                self.streams.refuse(stream, refused);
                self.table = Table::Unused;
                Some(block)
            }
            BlockVerdict::Malformed { block, bad } => {
                (self.report)(&bad);
                self.table = Table::Unused;
                Some(block)
            }
        };
        if block.end_stream {
            self.end(stream);
        } else if has_body {
            self.streams.begin(stream, self.limits.streams_max);
        }
        output.push(&block.written(instead.as_ref().unwrap_or(&block.fragments)));
    }
}

impl Block {
    /// Frames of this header block with `block` as its content.
    fn written(&self, block: &[u8]) -> Vec<u8> {
        let mut flags = if self.end_stream { FLAG_END_STREAM } else { 0 };
        if !self.priority.is_empty() {
            flags |= FLAG_PRIORITY;
        }
        let first = FRAME_BYTES_MAX as usize - PRIORITY_BYTES;
        let (mut part, mut rest) = block.split_at(first.min(block.len()));
        let (mut kind, mut frames) = (KIND_HEADERS, Vec::with_capacity(block.len() + 2 * FRAME_HEAD_BYTES));
        let mut prefix = &*self.priority;
        loop {
            let end = if rest.is_empty() { FLAG_END_HEADERS } else { 0 };
            frames.extend_from_slice(&frame_head(prefix.len() + part.len(), kind, flags | end, self.stream));
            frames.extend_from_slice(prefix);
            frames.extend_from_slice(part);
            if rest.is_empty() {
                return frames;
            }
            (part, rest) = rest.split_at(first.min(rest.len()));
            (kind, flags, prefix) = (KIND_CONTINUATION, 0, &[]);
        }
    }
}

impl FrameHead {
    fn of(read: [u8; FRAME_HEAD_BYTES]) -> Self {
        let [a, b, c, kind, flags, d, e, f, g] = read;
        // The first bit of the stream is reserved (RFC 9113 §4.1).
        let stream = u32::from_be_bytes([d, e, f, g]) & 0x7fff_ffff;
        Self { length: u32::from_be_bytes([0, a, b, c]) as usize, kind, flags, stream }
    }
}

/// The priority and the field block of a HEADERS frame (RFC 9113 §6.2).
fn unpadded(flags: u8, payload: &[u8]) -> Option<(&[u8], &[u8])> {
    let payload = if flags & FLAG_PADDED == 0 {
        payload
    } else {
        let (padding, rest) = payload.split_first()?;
        rest.get(..rest.len().checked_sub(usize::from(*padding))?)?
    };
    payload.split_at_checked(if flags & FLAG_PRIORITY == 0 { 0 } else { PRIORITY_BYTES })
}

fn frame_head(length: usize, kind: u8, flags: u8, stream: u32) -> [u8; FRAME_HEAD_BYTES] {
    let [_, a, b, c] = u32::try_from(length).unwrap_or_default().to_be_bytes();
    let [d, e, f, g] = stream.to_be_bytes();
    [a, b, c, kind, flags, d, e, f, g]
}

fn frame_of(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    [&frame_head(payload.len(), kind, flags, stream)[..], payload].concat()
}

/// DATA frames with these bytes. The last one may carry END_STREAM.
fn data(stream: u32, bytes: &[u8], end_stream: bool) -> Vec<u8> {
    let mut frames = Vec::with_capacity(bytes.len() + 2 * FRAME_HEAD_BYTES);
    let mut rest = bytes;
    loop {
        let (part, after) = rest.split_at(rest.len().min(HANDED_ON_BYTES_MAX));
        let flags = if end_stream && after.is_empty() { FLAG_END_STREAM } else { 0 };
        frames.extend_from_slice(&frame_head(part.len(), KIND_DATA, flags, stream));
        frames.extend_from_slice(part);
        if after.is_empty() {
            return frames;
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests;
