//! Frames of `postern/1` as bytes (docs/WIRE.md, Frames): pure, and read as they come.

use postern_proto::authenticator::AUTHENTICATOR_BYTES_MAX;
use thiserror::Error;

use super::open::{OPEN_BYTES_MAX, Open, OpenError};

/// Kind, and the length of what follows.
pub const HEADER_BYTES: usize = 4;
/// A DATA frame carries at most this many bytes.
pub(super) const DATA_BYTES_MAX: usize = 64 * 1024;
/// REFUSE and RESET carry a problem document of at most this many bytes.
pub(super) const NOTE_BYTES_MAX: usize = 8 * 1024;
/// An AUTH frame carries at most this many bytes: its kind, and the longest authenticator.
pub(super) const AUTH_BYTES_MAX: usize = 1 + AUTHENTICATOR_BYTES_MAX;

/// RESET starts with the number of its lease.
const LEASE_BYTES: usize = 4;

const OPEN: u8 = 1;
const ACCEPT: u8 = 2;
const REFUSE: u8 = 3;
const DATA: u8 = 4;
const FIN: u8 = 5;
const RESET: u8 = 6;
const AUTH: u8 = 7;

/// A complete frame. DATA is passed on incrementally instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A lease begins.
    Open(Open),
    /// The server has connected to its app.
    Accept,
    /// It was refused or failed, for the reason in the problem document (RFC 9457), which may be empty.
    Refuse(Vec<u8>),
    /// The sender's direction ends cleanly.
    Fin,
    /// The sender has reset its side of the lease with this number, counted from 1. The problem document with the
    /// reason may be empty.
    Reset { lease: u32, note: Vec<u8> },
    /// Re-authentication (docs/WIRE.md, Re-authentication).
    Auth(Vec<u8>),
}

/// An item decoded from received bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// Bytes of the app.
    Data(&'a [u8]),
    Frame(Frame),
}

/// Why bytes cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FrameError {
    #[error("expected a frame's kind from {OPEN} to {AUTH}, found {0}")]
    Kind(u8),
    #[error("expected a frame of kind {kind} of at most {max} bytes, found {found}")]
    TooLong { kind: u8, max: usize, found: usize },
    #[error("expected a frame of kind {kind} of at least {min} bytes, found {found}")]
    TooShort { kind: u8, min: usize, found: usize },
    #[error("an OPEN frame cannot be read")]
    Open(#[from] OpenError),
}

impl Frame {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (kind, body): (u8, &[u8]) = match self {
            Self::Open(open) => {
                let body = open.encode();
                out.extend_from_slice(&head(OPEN, body.len()));
                return out.extend_from_slice(&body);
            }
            Self::Accept => (ACCEPT, &[]),
            Self::Refuse(note) => (REFUSE, note),
            Self::Fin => (FIN, &[]),
            Self::Reset { lease, note } => {
                out.extend_from_slice(&head(RESET, LEASE_BYTES + note.len()));
                out.extend_from_slice(&lease.to_be_bytes());
                return out.extend_from_slice(note);
            }
            Self::Auth(body) => (AUTH, body),
        };
        out.extend_from_slice(&head(kind, body.len()));
        out.extend_from_slice(body);
    }
}

/// The header of a DATA frame.
pub fn header(data_bytes: usize) -> [u8; HEADER_BYTES] {
    head(DATA, data_bytes)
}

fn head(kind: u8, body_bytes: usize) -> [u8; HEADER_BYTES] {
    debug_assert!(body_bytes <= AUTH_BYTES_MAX, "every kind has a smaller bound");
    let [.., high, middle, low] = body_bytes.to_be_bytes();
    [kind, high, middle, low]
}

/// Decodes frames from bytes that arrive in any fragments.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The received part of a header, or of a frame other than DATA.
    held: Vec<u8>,
    /// Bytes left of a DATA frame.
    data_left: usize,
}

impl Decoder {
    /// Decodes the next item in `bytes` and advances them; `None` when more bytes are needed.
    pub fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<Event<'a>>, FrameError> {
        if self.data_left > 0 {
            return Ok(self.data(bytes));
        }
        let Some((kind, length)) = self.head(bytes)? else { return Ok(None) };
        if kind == DATA {
            self.held.clear();
            self.data_left = length;
            return Ok(self.data(bytes));
        }
        if !self.hold(bytes, HEADER_BYTES + length) {
            return Ok(None);
        }
        let whole = std::mem::take(&mut self.held);
        let body = whole.get(HEADER_BYTES..).unwrap_or_default();
        Ok(Some(Event::Frame(match kind {
            OPEN => Frame::Open(Open::parse(body)?),
            ACCEPT => Frame::Accept,
            REFUSE => Frame::Refuse(body.to_vec()),
            FIN => Frame::Fin,
            RESET => reset(body),
            _ => Frame::Auth(body.to_vec()),
        })))
    }

    /// Whether no frame is incomplete.
    pub fn is_between(&self) -> bool {
        self.held.is_empty() && self.data_left == 0
    }

    fn data<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<Event<'a>> {
        let (data, rest) = bytes.split_at(self.data_left.min(bytes.len()));
        *bytes = rest;
        self.data_left -= data.len();
        (!data.is_empty()).then_some(Event::Data(data))
    }

    /// Kind and length, once the header is complete and valid.
    fn head(&mut self, bytes: &mut &[u8]) -> Result<Option<(u8, usize)>, FrameError> {
        if !self.hold(bytes, HEADER_BYTES) {
            return Ok(None);
        }
        let Some(&[kind, high, middle, low]) = self.held.first_chunk() else { return Ok(None) };
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        check(kind, length)?;
        Ok(Some((kind, length)))
    }

    /// Buffers bytes until there are `count`. Returns whether there are.
    fn hold(&mut self, bytes: &mut &[u8], count: usize) -> bool {
        let missing = count.saturating_sub(self.held.len());
        let (taken, rest) = bytes.split_at(missing.min(bytes.len()));
        self.held.extend_from_slice(taken);
        *bytes = rest;
        self.held.len() >= count
    }
}

fn reset(body: &[u8]) -> Frame {
    let (lease, note) = body.split_first_chunk().unwrap_or((&[0; LEASE_BYTES], &[]));
    Frame::Reset { lease: u32::from_be_bytes(*lease), note: note.to_vec() }
}

/// Checks a header: bounds the bytes that a frame may make us buffer.
fn check(kind: u8, found: usize) -> Result<(), FrameError> {
    let (min, max) = match kind {
        OPEN => (0, OPEN_BYTES_MAX),
        DATA => (1, DATA_BYTES_MAX),
        REFUSE => (0, NOTE_BYTES_MAX),
        RESET => (LEASE_BYTES, LEASE_BYTES + NOTE_BYTES_MAX),
        AUTH => (1, AUTH_BYTES_MAX),
        ACCEPT | FIN => (0, 0),
        unknown => return Err(FrameError::Kind(unknown)),
    };
    if found > max {
        return Err(FrameError::TooLong { kind, max, found });
    }
    if found < min {
        return Err(FrameError::TooShort { kind, min, found });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn some_frame() -> impl Strategy<Value = Frame> {
        let body = proptest::collection::vec(any::<u8>(), 0..200);
        prop_oneof![
            ("[a-z][a-z0-9-]{0,10}").prop_map(|port| Frame::Open(Open { port: Some(port), trace: None })),
            Just(Frame::Accept),
            body.clone().prop_map(Frame::Refuse),
            Just(Frame::Fin),
            (any::<u32>(), body).prop_map(|(lease, note)| Frame::Reset { lease, note }),
            proptest::collection::vec(any::<u8>(), 1..200).prop_map(Frame::Auth),
        ]
    }

    /// Everything in `bytes`, with DATA of one frame put together.
    fn read(decoder: &mut Decoder, bytes: &[u8], piece: usize) -> Result<(Vec<Frame>, Vec<u8>), FrameError> {
        let (mut frames, mut data) = (Vec::new(), Vec::new());
        for mut bytes in bytes.chunks(piece.max(1)) {
            while let Some(event) = decoder.next(&mut bytes)? {
                match event {
                    Event::Data(more) => data.extend_from_slice(more),
                    Event::Frame(frame) => frames.push(frame),
                }
            }
            assert!(bytes.is_empty(), "everything is taken");
        }
        Ok((frames, data))
    }

    proptest! {
        #[test]
        fn frames_are_what_they_were_in_whatever_pieces_they_come(
            frames in proptest::collection::vec(some_frame(), 0..8),
            data in proptest::collection::vec(any::<u8>(), 1..3_000),
            piece in 1..70usize,
        ) {
            let mut bytes = Vec::new();
            for frame in &frames {
                frame.encode(&mut bytes);
                bytes.extend_from_slice(&header(data.len()));
                bytes.extend_from_slice(&data);
            }
            let mut decoder = Decoder::default();
            let (found, carried) = read(&mut decoder, &bytes, piece).unwrap();
            prop_assert!(decoder.is_between());
            prop_assert_eq!(&found, &frames);
            prop_assert_eq!(carried, data.repeat(frames.len()));
        }

        #[test]
        fn any_bytes_are_read_or_refused_and_little_is_held(
            bytes in proptest::collection::vec(any::<u8>(), 0..500),
            piece in 1..70usize,
        ) {
            let mut decoder = Decoder::default();
            let _read_or_refused = read(&mut decoder, &bytes, piece);
            prop_assert!(decoder.held.len() <= HEADER_BYTES + AUTH_BYTES_MAX);
        }
    }

    #[test]
    fn a_header_is_refused_before_its_body_comes() {
        let refused = |bytes: [u8; 4]| Decoder::default().next(&mut &bytes[..]).unwrap_err();
        assert_eq!(refused([0, 0, 0, 0]), FrameError::Kind(0));
        assert_eq!(refused([8, 0, 0, 0]), FrameError::Kind(8));
        assert_eq!(refused([FIN, 0, 0, 1]), FrameError::TooLong { kind: FIN, max: 0, found: 1 });
        assert_eq!(refused([DATA, 0, 0, 0]), FrameError::TooShort { kind: DATA, min: 1, found: 0 });
        assert_eq!(refused([AUTH, 0, 0, 0]), FrameError::TooShort { kind: AUTH, min: 1, found: 0 });
        assert_eq!(refused([RESET, 0, 0, 3]), FrameError::TooShort { kind: RESET, min: 4, found: 3 });
        for (kind, max) in [
            (OPEN, OPEN_BYTES_MAX),
            (DATA, DATA_BYTES_MAX),
            (REFUSE, NOTE_BYTES_MAX),
            (RESET, LEASE_BYTES + NOTE_BYTES_MAX),
            (AUTH, AUTH_BYTES_MAX),
        ] {
            let [.., high, middle, low] = (max + 1).to_be_bytes();
            let found = max + 1;
            assert_eq!(refused([kind, high, middle, low]), FrameError::TooLong { kind, max, found });
        }
    }
}
