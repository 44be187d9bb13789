//! Frames of the tunnel and records of TLS.

use postern_sidecar::proxy::tls::fuzzing::Ends;
use postern_sidecar::proxy::tunnel::{Decoder, Event, FrameError};

use crate::pieces;

/// What a decoder makes of bytes, whatever pieces they come in.
#[derive(Debug, PartialEq)]
struct Decoded {
    frames: Vec<String>,
    data: Vec<u8>,
    error: Option<FrameError>,
}

fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Decoded {
    let mut decoder = Decoder::default();
    let mut decoded = Decoded { frames: Vec::new(), data: Vec::new(), error: None };
    for mut piece in pieces {
        loop {
            match decoder.next(&mut piece) {
                Ok(None) => break,
                Ok(Some(Event::Data(data))) => decoded.data.extend_from_slice(data),
                Ok(Some(Event::Frame(frame))) => {
                    decoded.frames.push(format!("{frame:?} after {} bytes", decoded.data.len()));
                }
                Err(error) => {
                    decoded.error = Some(error);
                    return decoded;
                }
            }
        }
    }
    decoded
}

/// The same frames come out, however the bytes are cut.
pub fn tunnel_frames(data: &[u8]) {
    let rest = data.get(1..).unwrap_or_default();
    let (cut, whole) = (decode(pieces(data)), decode(std::iter::once(rest)));
    assert_eq!(cut, whole);
}

/// Records of a peer who holds the keys, each of any kind and content; then bytes of somebody who does not.
pub fn tls_records(data: &[u8]) {
    let mut ends = Ends::new();
    let mut rest = data;
    while let Some(([kind, length], after)) = rest.split_first_chunk::<2>() {
        let (plain, after) = after.split_at(usize::from(*length).min(after.len()));
        ends.say(*kind, plain);
        rest = after;
    }
    ends.send_raw(rest);
    ends.send_raw(data);
}
