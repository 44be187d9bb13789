//! `docs/WIRE.md` says what the code does: its example, its bounds and its known answer are computed here.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test says no")]

use std::fmt::Write as _;

use postern_proto::authenticator::{
    AUTHENTICATOR_BYTES_MAX, AuthenticatorError, CONTEXT_BYTES, Expected, REQUEST_BYTES_MAX, Request, judge,
};
use postern_proto::identity::{SpiffeId, TrustBundles};
use postern_proto::mtls::{ExporterSecret, SuiteHash};
use postern_sidecar::proxy::tunnel::{AUTH_FRAMES_MAX, Decoder, Frame, FrameError, Open, header};
use rustls::Side;
use time::OffsetDateTime;

const DOCUMENT: &str = include_str!("../../docs/WIRE.md");
/// Bytes of one line of the example.
const LINE_BYTES: usize = 16;

/// What is sent in the example, by whom, and what it is.
fn example() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let frame = |frame: Frame| {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        bytes
    };
    let data = |bytes: &[u8]| [&header(bytes.len())[..], bytes].concat();
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned();
    let traced = Open { port: Some("api".to_owned()), trace: Some(trace) };
    let asked = Open { port: Some("api".to_owned()), trace: None };
    let document = br#"{"type":"urn:postern:denied","title":"Not allowed","status":403}"#.to_vec();
    let request = [&[1][..], request().as_bytes()].concat();
    vec![
        ("▶", frame(Frame::Open(asked)), "OPEN lease 1, port \"api\""),
        ("▶", data(b"ping"), "DATA \"ping\", at once"),
        ("◀", frame(Frame::Accept), "ACCEPT"),
        ("◀", data(b"pong"), "DATA \"pong\""),
        ("◀", frame(Frame::Fin), "FIN: the called app has ended"),
        ("▶", frame(Frame::Fin), "FIN: lease 1 is over"),
        ("▶", frame(Frame::Open(traced)), "OPEN lease 2, port \"api\", traceparent"),
        ("◀", frame(Frame::Refuse(document)), "REFUSE, with a problem document"),
        ("▶", frame(Frame::Fin), "FIN: lease 2 is over"),
        ("▶", frame(Frame::Open(Open::default())), "OPEN lease 3"),
        ("▶", frame(Frame::Reset { lease: 3, note: Vec::new() }), "RESET of lease 3, without a document"),
        ("◀", frame(Frame::Accept), "ACCEPT: it has crossed"),
        ("◀", frame(Frame::Reset { lease: 3, note: Vec::new() }), "RESET of lease 3: it is over"),
        ("▶", frame(Frame::Auth(vec![0])), "AUTH NEWS: the caller was rotated"),
        ("◀", frame(Frame::Auth(request)), "AUTH REQUEST of the called side, which PROOF follows"),
    ]
}

/// The called side's, with a context that nobody should use.
fn request() -> Request {
    let mut context = [0; CONTEXT_BYTES];
    context.iter_mut().zip(0..).for_each(|(byte, at)| *byte = at);
    Request::new(Side::Server, context)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

#[test]
fn the_example_is_what_the_code_sends() {
    let mut expected = String::new();
    for (direction, bytes, meaning) in example() {
        for (at, line) in bytes.chunks(LINE_BYTES).enumerate() {
            let (direction, meaning) = if at == 0 { (direction, meaning) } else { (" ", "") };
            let line = format!(" {direction}  {:<47}   {meaning}", hex(line));
            writeln!(expected, "{}", line.trim_end()).unwrap();
        }
    }
    assert!(DOCUMENT.contains(&expected), "docs/WIRE.md lacks its example:\n{expected}");
}

/// The table of frames, by row: type, and the least and the greatest length.
fn rows() -> Vec<(u8, usize, usize)> {
    let number = |text: &str| text.trim().replace(',', "").parse().ok();
    let is_row = |line: &&str| line.starts_with("| ") && line.matches('|').count() == 6;
    let row = |line: &str| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [_, kind, _, _, length, ..] = cells[..] else { return None };
        let (min, max) = length.split_once(" to ").unwrap_or((length, length));
        Some((kind.parse().ok()?, number(min)?, number(max)?))
    };
    DOCUMENT.lines().filter(is_row).filter_map(row).collect()
}

#[test]
fn the_bounds_of_all_frames_are_those_of_the_code() {
    let found = |kind: u8, length: usize| {
        let [.., high, middle, low] = length.to_be_bytes();
        Decoder::default().next(&mut &[kind, high, middle, low][..]).map(|_| ())
    };
    let rows = rows();
    assert_eq!(rows.iter().map(|row| row.0).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7]);
    for (kind, min, max) in rows {
        for inside in [min, max] {
            assert!(!matches!(
                found(kind, inside),
                Err(FrameError::TooLong { .. } | FrameError::TooShort { .. })
            ));
        }
        assert_eq!(found(kind, max + 1), Err(FrameError::TooLong { kind, max, found: max + 1 }));
        if let Some(below) = min.checked_sub(1) {
            assert_eq!(found(kind, below), Err(FrameError::TooShort { kind, min, found: below }));
        }
    }
    for unknown in [0, 8, 255] {
        assert_eq!(found(unknown, 0), Err(FrameError::Kind(unknown)));
    }
    let with_comma = |number: usize| format!("{},{:03}", number / 1000, number % 1000);
    for said in [
        format!(
            "an authenticator (RFC 9261 §5.2): Certificate, CertificateVerify, Finished; at most {} bytes",
            with_comma(AUTHENTICATOR_BYTES_MAX)
        ),
        format!("an authenticator request (RFC 9261 §4), at most {} bytes", with_comma(REQUEST_BYTES_MAX)),
        format!("`certificate_request_context` is {CONTEXT_BYTES} bytes"),
        format!("At most {AUTH_FRAMES_MAX} AUTH frames within 10 seconds"),
    ] {
        assert!(DOCUMENT.contains(&said), "docs/WIRE.md does not say: {said}");
    }
}

#[test]
fn unknown_fields_of_open_are_treated_as_is_said() {
    let open = |field: u8| {
        Decoder::default().next(&mut &[&[1, 0, 0, 4, field, 0, 1, b'x'][..]].concat()[..]).map(|_| ())
    };
    for known in [1, 2] {
        assert_eq!(open(known), Ok(()));
    }
    for field in (0..=0).chain(3..=127) {
        assert!(matches!(open(field), Err(FrameError::Open(_))), "{field}");
    }
    for field in 128..=255 {
        assert_eq!(open(field), Ok(()), "{field}");
    }
}

#[test]
fn the_known_answer_holds() {
    let secret: Vec<u8> = (0..32).map(|at| 0xa0 + at).collect();
    let exporter = ExporterSecret::new(SuiteHash::Sha256, &secret).unwrap();
    let export = |what: &str| {
        let label = format!("EXPORTER-client authenticator {what}");
        exporter.export(&label, &[], 32).unwrap()
    };
    let (context, key) = (export("handshake context"), export("finished key"));
    let certificate = [&[11, 0, 0, 36, 32][..], request().context(), &[0, 0, 0]].concat();
    let transcript = [&context[..], request().as_bytes(), &certificate].concat();
    let hash = ring::digest::digest(&ring::digest::SHA256, &transcript);
    let mac = ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key), hash.as_ref());
    let empty = [&[20, 0, 0, 32][..], mac.as_ref()].concat();
    let (id, bundles) = (SpiffeId::parse("spiffe://shop.example/orders").unwrap(), TrustBundles::default());
    let expected = Expected { id: &id, bundles: &bundles, now: OffsetDateTime::UNIX_EPOCH };
    let judged = judge(&exporter, request(), &empty, expected);
    assert_eq!(judged, Err(AuthenticatorError::Refused), "it is authentic");
    let mut expected = String::new();
    for (name, bytes) in [
        ("exporter_master_secret", &secret[..]),
        ("client handshake context", &context[..]),
        ("client finished key", &key[..]),
        ("REQUEST", request().as_bytes()),
        ("Certificate, empty", &certificate),
        ("Finished, all of an empty authenticator", &empty),
    ] {
        writeln!(expected, " {name}").unwrap();
        bytes.chunks(LINE_BYTES).for_each(|line| writeln!(expected, "    {}", hex(line)).unwrap());
    }
    assert!(DOCUMENT.contains(&expected), "docs/WIRE.md lacks the known answer:\n{expected}");
}
