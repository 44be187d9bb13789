//! Reads the start of a server connection, and its stream limit: HTTP/2 begins with SETTINGS (RFC 9113 §3.4), and
//! HTTP/1 sends nothing before a request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use tokio::sync::watch;

/// RFC 9113 §4.1.
const FRAME_HEAD_BYTES: usize = 9;
const KIND_SETTINGS: u8 = 4;
const KIND_GOAWAY: u8 = 7;
const FLAG_ACK: u8 = 1;
/// Bytes of a GOAWAY up to its debug data (RFC 9113 §6.8).
const GOAWAY_BYTES: usize = 8;
/// RFC 9113 §6.5.1.
const SETTING_BYTES: usize = 6;
const SETTINGS_MAX_CONCURRENT_STREAMS: u16 = 3;
/// RFC 8441 §3.
const SETTINGS_ENABLE_CONNECT_PROTOCOL: u16 = 8;

/// The first bytes of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Preface {
    #[default]
    Awaited,
    /// SETTINGS.
    Http2,
    /// Something else.
    Other,
    /// The connection ended first.
    Ended,
}

/// The settings and state that a server has announced.
#[derive(Debug)]
pub(super) struct ServerState {
    preface: watch::Sender<Preface>,
    /// Its limit of concurrent streams (RFC 9113 §6.5.2).
    streams_max: AtomicU32,
    /// It accepts extended CONNECT (RFC 8441 §3).
    extended_connect: AtomicBool,
    /// It has sent GOAWAY (RFC 9113 §6.8).
    goes_away: AtomicBool,
    /// The GOAWAY code, plus one; 0 before GOAWAY.
    goaway_code: AtomicU64,
}

impl Default for ServerState {
    fn default() -> Self {
        Self {
            preface: watch::Sender::default(),
            streams_max: AtomicU32::new(u32::MAX),
            extended_connect: AtomicBool::default(),
            goes_away: AtomicBool::default(),
            goaway_code: AtomicU64::default(),
        }
    }
}

impl ServerState {
    pub(super) fn preface(&self) -> Preface {
        *self.preface.borrow()
    }

    /// Waits for its first bytes, or its end.
    pub(super) async fn begun(&self) -> Preface {
        let mut preface = self.preface.subscribe();
        let begun = preface.wait_for(|preface| *preface != Preface::Awaited).await;
        begun.map_or(Preface::Ended, |begun| *begun)
    }

    /// Its limit of concurrent streams.
    pub(super) fn streams_max(&self) -> usize {
        self.streams_max.load(Ordering::Relaxed) as usize
    }

    /// Whether it accepts extended CONNECT.
    pub(super) fn takes_extended_connect(&self) -> bool {
        self.extended_connect.load(Ordering::Relaxed)
    }

    /// Whether it has sent GOAWAY.
    pub(super) fn goes_away(&self) -> bool {
        self.goes_away.load(Ordering::Relaxed)
    }

    /// The GOAWAY code.
    pub(super) fn goaway_reason(&self) -> Option<h2::Reason> {
        let code = self.goaway_code.load(Ordering::Relaxed).checked_sub(1)?;
        u32::try_from(code).ok().map(h2::Reason::from)
    }

    fn begins(&self, with: Preface) {
        self.preface.send_if_modified(|preface| {
            let first = *preface == Preface::Awaited;
            if first {
                *preface = with;
            }
            first
        });
    }
}

/// Reads the SETTINGS and GOAWAY frames of a server.
#[derive(Debug)]
pub(super) struct SettingsReader {
    at: ParserState,
    server_state: Arc<ServerState>,
}

#[derive(Debug, Clone, Copy)]
enum ParserState {
    Head {
        read: [u8; FRAME_HEAD_BYTES],
        bytes: usize,
    },
    Settings {
        read: [u8; SETTING_BYTES],
        bytes: usize,
        left: usize,
    },
    GoAway {
        read: [u8; GOAWAY_BYTES],
        bytes: usize,
        left: usize,
    },
    Skipped {
        left: usize,
    },
    /// The server does not speak HTTP/2: there are no frames.
    Over,
}

const NEXT_FRAME: ParserState = ParserState::Head { read: [0; FRAME_HEAD_BYTES], bytes: 0 };

impl SettingsReader {
    pub(super) fn new(server_state: Arc<ServerState>) -> Self {
        Self { at: NEXT_FRAME, server_state }
    }

    /// The connection has ended or failed.
    pub(super) fn ended(&self) {
        self.server_state.begins(Preface::Ended);
    }

    /// Reads received bytes.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = match self.at {
                ParserState::Head { read, bytes: before } => self.pass_head(bytes, read, before),
                ParserState::Settings { read, bytes: before, left } => {
                    self.pass_settings(bytes, read, before, left)
                }
                ParserState::GoAway { read, bytes: before, left } => {
                    self.pass_goaway(bytes, read, before, left)
                }
                ParserState::Skipped { left } => {
                    let taken = left.min(bytes.len());
                    self.at =
                        if taken == left { NEXT_FRAME } else { ParserState::Skipped { left: left - taken } };
                    bytes.get(taken..).unwrap_or_default()
                }
                ParserState::Over => return,
            };
        }
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
        self.at = if bytes < FRAME_HEAD_BYTES { ParserState::Head { read, bytes } } else { self.begin(read) };
        rest
    }

    fn begin(&mut self, [a, b, c, kind, flags, stream @ ..]: [u8; FRAME_HEAD_BYTES]) -> ParserState {
        let left = u32::from_be_bytes([0, a, b, c]) as usize;
        let settings = kind == KIND_SETTINGS && stream == [0; 4] && left.is_multiple_of(SETTING_BYTES);
        if self.server_state.preface() != Preface::Http2 {
            if !settings || flags != 0 {
                self.server_state.begins(Preface::Other);
                return ParserState::Over;
            }
            // The limits are set before waiting tasks are notified.
            if left == 0 {
                self.server_state.begins(Preface::Http2);
            }
        }
        if kind == KIND_GOAWAY {
            self.server_state.goes_away.store(true, Ordering::Relaxed);
        }
        match (left, settings && flags & FLAG_ACK == 0) {
            (0, _) => NEXT_FRAME,
            (GOAWAY_BYTES.., false) if kind == KIND_GOAWAY => {
                ParserState::GoAway { read: [0; GOAWAY_BYTES], bytes: 0, left }
            }
            (left, true) => ParserState::Settings { read: [0; SETTING_BYTES], bytes: 0, left },
            (left, false) => ParserState::Skipped { left },
        }
    }

    fn pass_goaway<'b>(
        &mut self,
        bytes: &'b [u8],
        mut read: [u8; GOAWAY_BYTES],
        before: usize,
        left: usize,
    ) -> &'b [u8] {
        let (taken, rest) = bytes.split_at((GOAWAY_BYTES - before).min(bytes.len()));
        read.iter_mut().skip(before).zip(taken).for_each(|(to, from)| *to = *from);
        let (bytes, left) = (before + taken.len(), left - taken.len());
        if bytes < GOAWAY_BYTES {
            self.at = ParserState::GoAway { read, bytes, left };
            return rest;
        }
        let [_, _, _, _, code @ ..] = read;
        self.server_state.goaway_code.store(u64::from(u32::from_be_bytes(code)) + 1, Ordering::Relaxed);
        self.at = if left == 0 { NEXT_FRAME } else { ParserState::Skipped { left } };
        rest
    }

    fn pass_settings<'b>(
        &mut self,
        bytes: &'b [u8],
        mut read: [u8; SETTING_BYTES],
        before: usize,
        left: usize,
    ) -> &'b [u8] {
        let (taken, rest) = bytes.split_at((SETTING_BYTES - before).min(bytes.len()));
        read.iter_mut().skip(before).zip(taken).for_each(|(to, from)| *to = *from);
        let (bytes, left) = (before + taken.len(), left - taken.len());
        if bytes < SETTING_BYTES {
            self.at = ParserState::Settings { read, bytes, left };
            return rest;
        }
        let [a, b, value @ ..] = read;
        let value = u32::from_be_bytes(value);
        match u16::from_be_bytes([a, b]) {
            SETTINGS_MAX_CONCURRENT_STREAMS => self.server_state.streams_max.store(value, Ordering::Relaxed),
            SETTINGS_ENABLE_CONNECT_PROTOCOL => {
                self.server_state.extended_connect.store(value == 1, Ordering::Relaxed);
            }
            _ => {}
        }
        self.at = if left == 0 { NEXT_FRAME } else { ParserState::Settings { read, bytes: 0, left } };
        if left == 0 {
            self.server_state.begins(Preface::Http2);
        }
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: &[u8] = &[0, 0, 12, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 255, 255, 0, 3, 0, 0, 0, 7];
    const ACK: &[u8] = &[0, 0, 0, 4, 1, 0, 0, 0, 0];
    const PING: &[u8] = &[0, 0, 8, 6, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 9, 0, 3];
    const FEWER: &[u8] = &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 2];

    fn after(bytes: &[u8], piece: usize) -> (Preface, usize) {
        let server_state = Arc::<ServerState>::default();
        let mut reader = SettingsReader::new(server_state.clone());
        bytes.chunks(piece).for_each(|bytes| reader.pass(bytes));
        (server_state.preface(), server_state.streams_max())
    }

    #[test]
    fn the_newest_settings_apply_in_any_fragmentation() {
        for piece in 1..40 {
            let all = [SETTINGS, ACK, PING].concat();
            assert_eq!(after(&all, piece), (Preface::Http2, 7), "in pieces of {piece}");
            let all = [SETTINGS, PING, FEWER, PING].concat();
            assert_eq!(after(&all, piece), (Preface::Http2, 2), "in pieces of {piece}");
        }
    }

    #[test]
    fn a_server_that_sent_goaway_gets_no_further_requests() {
        let server_state = Arc::<ServerState>::default();
        let mut reader = SettingsReader::new(server_state.clone());
        reader.pass(&[SETTINGS, PING].concat());
        assert!(!server_state.goes_away());
        reader.pass(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert!(server_state.goes_away());
        assert_eq!(server_state.goaway_reason(), Some(h2::Reason::NO_ERROR));
    }

    #[test]
    fn the_newest_goaway_code_applies_in_any_fragmentation() {
        const GRACEFUL: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 127, 255, 255, 255, 0, 0, 0, 0];
        const WITH_DEBUG_DATA: &[u8] = &[0, 0, 10, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 11, b'h', b'i'];
        for piece in 1..40 {
            let server_state = Arc::<ServerState>::default();
            let mut reader = SettingsReader::new(server_state.clone());
            let all = [SETTINGS, GRACEFUL, PING, WITH_DEBUG_DATA, FEWER].concat();
            all.chunks(piece).for_each(|bytes| reader.pass(bytes));
            assert_eq!(
                server_state.goaway_reason(),
                Some(h2::Reason::ENHANCE_YOUR_CALM),
                "in pieces of {piece}"
            );
            assert_eq!(server_state.streams_max(), 2, "what follows is read, in pieces of {piece}");
        }
    }

    #[test]
    fn who_begins_otherwise_does_not_speak_http_2() {
        let unlimited = u32::MAX as usize;
        for bytes in [PING, ACK, b"HTTP/1.1 400 InvalidMessage Request\r\n\r\n", b"SSH-2.0-OpenSSH\r\n"] {
            assert_eq!(after(bytes, 4), (Preface::Other, unlimited));
        }
        assert_eq!(after(&SETTINGS[..15], 4), (Preface::Awaited, unlimited), "it is not whole yet");
        assert_eq!(after(&[0, 0, 0, 4, 0, 0, 0, 0, 0], 4), (Preface::Http2, unlimited));
    }
}
