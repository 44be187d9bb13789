//! What a server says first on a connection that we made, and how many streams it allows there: HTTP/2 begins with
//! SETTINGS (RFC 9113 §3.4), and HTTP/1 says nothing before it is asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use tokio::sync::watch;

/// RFC 9113 §4.1.
const FRAME_HEAD_BYTES: usize = 9;
const KIND_SETTINGS: u8 = 4;
const KIND_GOAWAY: u8 = 7;
const FLAG_ACK: u8 = 1;
/// Of a GOAWAY, up to its debug data (RFC 9113 §6.8).
const GOAWAY_BYTES: usize = 8;
/// RFC 9113 §6.5.1.
const SETTING_BYTES: usize = 6;
const SETTINGS_MAX_CONCURRENT_STREAMS: u16 = 3;
/// RFC 8441 §3.
const SETTINGS_ENABLE_CONNECT_PROTOCOL: u16 = 8;

/// How a server begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Preface {
    #[default]
    Awaited,
    /// With SETTINGS.
    Http2,
    /// With something else.
    Other,
    /// It ended before.
    Ended,
}

/// What a server has said of itself.
#[derive(Debug)]
pub(super) struct ServerSays {
    preface: watch::Sender<Preface>,
    /// Streams that it allows at once (RFC 9113 §6.5.2).
    streams_max: AtomicU32,
    /// It takes extended CONNECT (RFC 8441 §3).
    extended_connect: AtomicBool,
    /// It takes no further requests (RFC 9113 §6.8).
    goes_away: AtomicBool,
    /// The code with which it goes away, plus one; 0 before it has said so.
    goaway_code: AtomicU64,
}

impl Default for ServerSays {
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

impl ServerSays {
    pub(super) fn preface(&self) -> Preface {
        *self.preface.borrow()
    }

    /// Waits until it has begun, or ended.
    pub(super) async fn begun(&self) -> Preface {
        let mut preface = self.preface.subscribe();
        let begun = preface.wait_for(|preface| *preface != Preface::Awaited).await;
        begun.map_or(Preface::Ended, |begun| *begun)
    }

    /// As many streams as it allows at once.
    pub(super) fn streams_max(&self) -> usize {
        self.streams_max.load(Ordering::Relaxed) as usize
    }

    /// Whether it takes extended CONNECT.
    pub(super) fn takes_extended_connect(&self) -> bool {
        self.extended_connect.load(Ordering::Relaxed)
    }

    /// Whether it takes no further requests.
    pub(super) fn goes_away(&self) -> bool {
        self.goes_away.load(Ordering::Relaxed)
    }

    /// The code with which it goes away.
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

/// Reads SETTINGS among what a server sends.
#[derive(Debug)]
pub(super) struct SettingsReader {
    at: At,
    says: Arc<ServerSays>,
}

#[derive(Debug, Clone, Copy)]
enum At {
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
    /// It does not speak HTTP/2: there are no frames.
    Over,
}

const NEXT_FRAME: At = At::Head { read: [0; FRAME_HEAD_BYTES], bytes: 0 };

impl SettingsReader {
    pub(super) fn new(says: Arc<ServerSays>) -> Self {
        Self { at: NEXT_FRAME, says }
    }

    /// The connection has ended, or nothing more can be read from it.
    pub(super) fn ended(&self) {
        self.says.begins(Preface::Ended);
    }

    /// Bytes on their way to the parser.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = match self.at {
                At::Head { read, bytes: before } => self.pass_head(bytes, read, before),
                At::Settings { read, bytes: before, left } => self.pass_settings(bytes, read, before, left),
                At::GoAway { read, bytes: before, left } => self.pass_goaway(bytes, read, before, left),
                At::Skipped { left } => {
                    let taken = left.min(bytes.len());
                    self.at = if taken == left { NEXT_FRAME } else { At::Skipped { left: left - taken } };
                    bytes.get(taken..).unwrap_or_default()
                }
                At::Over => return,
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
        self.at = if bytes < FRAME_HEAD_BYTES { At::Head { read, bytes } } else { self.begin(read) };
        rest
    }

    fn begin(&mut self, [a, b, c, kind, flags, stream @ ..]: [u8; FRAME_HEAD_BYTES]) -> At {
        let left = u32::from_be_bytes([0, a, b, c]) as usize;
        let settings = kind == KIND_SETTINGS && stream == [0; 4] && left.is_multiple_of(SETTING_BYTES);
        if self.says.preface() != Preface::Http2 {
            if !settings || flags != 0 {
                self.says.begins(Preface::Other);
                return At::Over;
            }
            // What it allows is known before anybody is told that it has begun.
            if left == 0 {
                self.says.begins(Preface::Http2);
            }
        }
        if kind == KIND_GOAWAY {
            self.says.goes_away.store(true, Ordering::Relaxed);
        }
        match (left, settings && flags & FLAG_ACK == 0) {
            (0, _) => NEXT_FRAME,
            (GOAWAY_BYTES.., false) if kind == KIND_GOAWAY => {
                At::GoAway { read: [0; GOAWAY_BYTES], bytes: 0, left }
            }
            (left, true) => At::Settings { read: [0; SETTING_BYTES], bytes: 0, left },
            (left, false) => At::Skipped { left },
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
            self.at = At::GoAway { read, bytes, left };
            return rest;
        }
        let [_, _, _, _, code @ ..] = read;
        self.says.goaway_code.store(u64::from(u32::from_be_bytes(code)) + 1, Ordering::Relaxed);
        self.at = if left == 0 { NEXT_FRAME } else { At::Skipped { left } };
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
            self.at = At::Settings { read, bytes, left };
            return rest;
        }
        let [a, b, value @ ..] = read;
        let value = u32::from_be_bytes(value);
        match u16::from_be_bytes([a, b]) {
            SETTINGS_MAX_CONCURRENT_STREAMS => self.says.streams_max.store(value, Ordering::Relaxed),
            SETTINGS_ENABLE_CONNECT_PROTOCOL => {
                self.says.extended_connect.store(value == 1, Ordering::Relaxed);
            }
            _ => {}
        }
        self.at = if left == 0 { NEXT_FRAME } else { At::Settings { read, bytes: 0, left } };
        if left == 0 {
            self.says.begins(Preface::Http2);
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
        let says = Arc::<ServerSays>::default();
        let mut reader = SettingsReader::new(says.clone());
        bytes.chunks(piece).for_each(|bytes| reader.pass(bytes));
        (says.preface(), says.streams_max())
    }

    #[test]
    fn the_newest_settings_hold_however_they_are_cut() {
        for piece in 1..40 {
            let all = [SETTINGS, ACK, PING].concat();
            assert_eq!(after(&all, piece), (Preface::Http2, 7), "in pieces of {piece}");
            let all = [SETTINGS, PING, FEWER, PING].concat();
            assert_eq!(after(&all, piece), (Preface::Http2, 2), "in pieces of {piece}");
        }
    }

    #[test]
    fn who_goes_away_takes_no_further_requests() {
        let says = Arc::<ServerSays>::default();
        let mut reader = SettingsReader::new(says.clone());
        reader.pass(&[SETTINGS, PING].concat());
        assert!(!says.goes_away());
        reader.pass(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert!(says.goes_away());
        assert_eq!(says.goaway_reason(), Some(h2::Reason::NO_ERROR));
    }

    #[test]
    fn the_newest_code_of_who_goes_away_holds_however_it_is_cut() {
        const GRACEFUL: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 127, 255, 255, 255, 0, 0, 0, 0];
        const WITH_DEBUG_DATA: &[u8] = &[0, 0, 10, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 11, b'h', b'i'];
        for piece in 1..40 {
            let says = Arc::<ServerSays>::default();
            let mut reader = SettingsReader::new(says.clone());
            let all = [SETTINGS, GRACEFUL, PING, WITH_DEBUG_DATA, FEWER].concat();
            all.chunks(piece).for_each(|bytes| reader.pass(bytes));
            assert_eq!(says.goaway_reason(), Some(h2::Reason::ENHANCE_YOUR_CALM), "in pieces of {piece}");
            assert_eq!(says.streams_max(), 2, "what follows is read, in pieces of {piece}");
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
