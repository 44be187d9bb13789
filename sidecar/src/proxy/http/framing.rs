//! Checks the requests of an HTTP/1 connection before hyper reads them. hyper receives only heads that were checked
//! whole, so that both parse the same messages. A refused head is replaced by one that only triggers the refusal.

mod chunks;
mod head;

use std::borrow::Cow;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::target::InvalidMessage;
use crate::config::Http;
use crate::proxy::connections::RequestInfo;
use chunks::{Chunks, Step};
use head::BodyLength;

/// Bytes of an oversized head that are discarded while waiting for its end. A response sent before the client has
/// sent its whole head would be lost in the connection reset.
const HEAD_DISCARDED_BYTES_MAX: usize = 1024 * 1024;

/// The results of checking the requests of one connection, in order.
#[derive(Debug)]
pub(super) struct RawHeadCheck {
    state_lock: Mutex<CheckState>,
}

#[derive(Debug)]
struct CheckState {
    limits: Http,
    state: State,
    /// The incomplete head: at most `header_bytes_max`.
    begun: Vec<u8>,
    since: Option<Instant>,
    /// Number of valid heads whose requests hyper has not handed over yet.
    passed: u64,
    refused: Option<Refused>,
    /// The fault of the current body.
    fault: Option<InvalidMessage>,
}

#[derive(Debug)]
enum State {
    Head,
    Body(u64),
    Chunked(Chunks),
    /// The rest of an oversized head, with the number of bytes discarded and the last ones of them.
    Oversized {
        instead: Vec<u8>,
        discarded: usize,
        tail: Vec<u8>,
    },
    /// No further requests are read.
    Refused,
    /// The connection was upgraded: what follows is not HTTP.
    Upgraded,
}

/// An invalid request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) bad: InvalidMessage,
    /// As far as they could be parsed.
    pub(super) facts: RequestInfo,
}

/// The bytes that hyper receives.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CheckedBytes {
    Unchanged,
    Replaced(Vec<u8>),
}

/// The result of checking a request that hyper hands over.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RequestCheck {
    Valid,
    Refused(Refused),
    /// hyper parsed a request that was not checked.
    Unknown,
}

impl RawHeadCheck {
    pub(super) fn new(limits: Http) -> Self {
        let state_lock = CheckState {
            limits,
            state: State::Head,
            begun: Vec::new(),
            since: None,
            passed: 0,
            refused: None,
            fault: None,
        };
        Self { state_lock: Mutex::new(state_lock) }
    }

    /// The result for the next request. hyper hands requests over in the order of their heads.
    pub(super) fn next(&self) -> RequestCheck {
        let mut state_lock = self.lock();
        if state_lock.passed > 0 {
            state_lock.passed -= 1;
            return RequestCheck::Valid;
        }
        state_lock.refused.take().map_or(RequestCheck::Unknown, RequestCheck::Refused)
    }

    /// The connection was upgraded: what follows is not HTTP.
    pub(super) fn upgraded(&self) {
        self.lock().state = State::Upgraded;
    }

    /// The bytes held back on an upgraded connection.
    pub(super) fn held_back(&self) -> Vec<u8> {
        let mut state_lock = self.lock();
        if matches!(state_lock.state, State::Upgraded) {
            std::mem::take(&mut state_lock.begun)
        } else {
            Vec::new()
        }
    }

    /// Whether a head has been incomplete for longer than `limit`.
    pub(super) fn is_stalled(&self, limit: Duration, now: Instant) -> bool {
        self.lock().since.is_some_and(|since| now.duration_since(since) > limit)
    }

    /// Checks received bytes; returns what hyper gets.
    pub(super) fn pass(&self, bytes: &[u8]) -> Result<CheckedBytes, InvalidMessage> {
        self.lock().pass(bytes)
    }

    /// The fault of the current body.
    pub(super) fn fault(&self) -> Option<InvalidMessage> {
        self.lock().fault.clone()
    }

    /// Bytes buffered of the incomplete head.
    #[cfg(fuzzing)]
    pub(super) fn held_bytes(&self) -> usize {
        self.lock().begun.len()
    }

    fn lock(&self) -> MutexGuard<'_, CheckState> {
        self.state_lock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Builds the bytes that hyper gets, copying only if they differ from the input.
pub(super) struct Output<'b> {
    all: &'b [u8],
    instead: Option<Vec<u8>>,
}

impl<'b> Output<'b> {
    pub(super) fn of(all: &'b [u8]) -> Self {
        Self { all, instead: None }
    }

    /// Passes everything before `rest`; after that, only what is pushed.
    pub(super) fn hold_back(&mut self, rest: &[u8]) -> &mut Vec<u8> {
        let before = self.all.len().saturating_sub(rest.len());
        self.instead.get_or_insert_with(|| self.all.get(..before).unwrap_or_default().to_vec())
    }

    /// Appends bytes. Pushing bytes that are passed unchanged has no effect.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if let Some(instead) = &mut self.instead {
            instead.extend_from_slice(bytes);
        }
    }
}

impl Output<'_> {
    pub(super) fn passed(self) -> CheckedBytes {
        self.instead.map_or(CheckedBytes::Unchanged, CheckedBytes::Replaced)
    }
}

impl CheckState {
    fn pass(&mut self, bytes: &[u8]) -> Result<CheckedBytes, InvalidMessage> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let mut output = Output::of(bytes);
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = match &mut self.state {
                State::Head => self.pass_head(rest, &mut output),
                State::Body(left) => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    let (body, after) = rest.split_at(taken);
                    *left -= taken as u64;
                    if *left == 0 {
                        self.state = State::Head;
                    }
                    output.push(body);
                    after
                }
                State::Chunked(chunks) => match chunks.step(rest, &self.limits) {
                    Ok(Step { taken, over }) => {
                        let (body, after) = rest.split_at(taken);
                        if over {
                            self.state = State::Head;
                        }
                        output.push(body);
                        after
                    }
                    Err(bad) => {
                        output.hold_back(rest);
                        self.fault = Some(bad.clone());
                        if output.instead.as_ref().is_some_and(Vec::is_empty) {
                            return Err(bad);
                        }
                        break;
                    }
                },
                State::Oversized { .. } => self.pass_oversized(rest, &mut output),
                State::Refused => {
                    output.hold_back(rest);
                    break;
                }
                State::Upgraded => {
                    output.push(rest);
                    break;
                }
            };
        }
        Ok(output.passed())
    }

    fn pass_head<'b>(&mut self, bytes: &'b [u8], output: &mut Output<'_>) -> &'b [u8] {
        if self.begun.is_empty()
            && let Some(rest) = bytes.strip_prefix(b"\r\n")
        {
            // Empty lines before a request are ignored (RFC 9112 §2.2).
            output.hold_back(bytes);
            return rest;
        }
        if self.begun == b"\r"
            && let Some(rest) = bytes.strip_prefix(b"\n")
        {
            output.hold_back(bytes);
            (self.begun, self.since) = (Vec::new(), None);
            return rest;
        }
        let (end, bare_line_feed) = match scan(&self.begun, bytes) {
            Scan::GoesOn => (None, false),
            Scan::Ends(end) => (Some(end), false),
            Scan::BareLineFeed(end) => (Some(end), true),
        };
        let (last, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
        if self.begun.len() + last.len() > self.limits.header_bytes_max {
            output.hold_back(bytes);
            self.begin_oversized(last);
            return bytes;
        }
        if end.is_none() {
            output.hold_back(bytes);
            self.begun.extend_from_slice(bytes);
            self.since.get_or_insert_with(Instant::now);
            return &[];
        }
        let begun = std::mem::take(&mut self.begun);
        self.since = None;
        let whole = if begun.is_empty() {
            Cow::Borrowed(last)
        } else {
            output.hold_back(bytes);
            Cow::Owned([&*begun, last].concat())
        };
        let checked = if bare_line_feed {
            Err(InvalidMessage::BareLineFeed)
        } else {
            head::check(&whole, &self.limits)
        };
        match checked {
            Ok(length) => {
                self.passed += 1;
                self.state = match length {
                    BodyLength::None => State::Head,
                    BodyLength::Bytes(length) => State::Body(length),
                    BodyLength::Chunked => State::Chunked(Chunks::default()),
                };
                output.push(&whole);
            }
            Err(bad) => {
                output.hold_back(bytes);
                output.push(&self.refuse(bad, &whole));
            }
        }
        rest
    }

    /// Reads no further requests; returns what hyper gets in place of this head.
    fn refuse(&mut self, bad: InvalidMessage, head: &[u8]) -> Vec<u8> {
        let (facts, instead) = head::stand_in(head);
        self.refused = Some(Refused { bad, facts });
        self.state = State::Refused;
        instead
    }

    fn begin_oversized(&mut self, last: &[u8]) {
        let mut begun = std::mem::take(&mut self.begun);
        self.since.get_or_insert_with(Instant::now);
        let discarded = begun.len();
        let tail = tail(&[], &begun);
        begun.extend_from_slice(last.get(..last.len().min(self.limits.header_bytes_max)).unwrap_or_default());
        let bad = InvalidMessage::HeadTooLarge { max: self.limits.header_bytes_max };
        let instead = self.refuse(bad, &begun);
        self.state = State::Oversized { instead, discarded, tail };
    }

    /// Discards the rest of an oversized head, then passes hyper the head that triggers the refusal.
    fn pass_oversized<'b>(&mut self, bytes: &'b [u8], output: &mut Output<'_>) -> &'b [u8] {
        let State::Oversized { instead, discarded, tail } = &mut self.state else { return bytes };
        output.hold_back(bytes);
        *discarded += bytes.len();
        if matches!(scan(tail, bytes), Scan::GoesOn) && *discarded < HEAD_DISCARDED_BYTES_MAX {
            *tail = self::tail(tail, bytes);
        } else {
            output.push(instead);
            (self.state, self.since) = (State::Refused, None);
        }
        &[]
    }
}

enum Scan {
    GoesOn,
    /// The number of bytes that belong to the head.
    Ends(usize),
    /// The number of bytes up to a line feed without a carriage return.
    BareLineFeed(usize),
}

/// Finds the end of the head that starts with `begun`, or a bare line feed.
fn scan(begun: &[u8], bytes: &[u8]) -> Scan {
    let before = |at: usize, back: usize| match at.checked_sub(back) {
        Some(at) => bytes.get(at),
        None => (begun.len() + at).checked_sub(back).and_then(|at| begun.get(at)),
    };
    for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
        if before(at, 1) != Some(&b'\r') {
            return Scan::BareLineFeed(at + 1);
        }
        if before(at, 2) == Some(&b'\n') {
            return Scan::Ends(at + 1);
        }
    }
    Scan::GoesOn
}

/// The last bytes of a head.
fn tail(before: &[u8], bytes: &[u8]) -> Vec<u8> {
    let all = [before, bytes.get(bytes.len().saturating_sub(2)..).unwrap_or_default()].concat();
    all.get(all.len().saturating_sub(2)..).unwrap_or_default().to_vec()
}

#[cfg(test)]
mod tests;
