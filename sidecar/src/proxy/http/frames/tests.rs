//! The check of HTTP/2 frames, without a connection: what h2 is given, and what is held.

use std::sync::atomic::{AtomicUsize, Ordering};

use http::header::{HeaderMap, HeaderValue};

use super::*;
use crate::proxy::http::framing::Refused;

const FLAG_LAST: u8 = FLAG_END_HEADERS | FLAG_END_STREAM;

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    fields.iter().for_each(|(name, value)| hpack::encode(name.as_bytes(), value.as_bytes(), &mut block));
    block
}

fn request(path: &str) -> Vec<u8> {
    block(&[(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a")])
}

fn headers(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    frame_of(KIND_HEADERS, flags, stream, block)
}

struct Checked {
    frames: Frames,
    streams: Arc<Streams>,
    unfinished: Arc<Unfinished>,
    reported: Arc<AtomicUsize>,
}

impl Checked {
    fn new(limits: Http) -> Self {
        let (streams, unfinished) = (Arc::<Streams>::default(), Arc::<Unfinished>::default());
        let reported = Arc::<AtomicUsize>::default();
        let count = reported.clone();
        let report = Arc::new(move |_: &InvalidMessage| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let frames = Frames::for_requests(limits, streams.clone(), unfinished.clone(), report);
        Self { frames, streams, unfinished, reported }
    }

    /// The bytes that h2 gets, for input in fragments.
    fn pass(&mut self, bytes: &[u8], piece: usize) -> Vec<u8> {
        bytes.chunks(piece).fold(Vec::new(), |mut given, bytes| {
            match self.frames.pass(bytes) {
                CheckedBytes::Unchanged => given.extend_from_slice(bytes),
                CheckedBytes::Replaced(instead) => given.extend(instead),
            }
            given
        })
    }

    /// What is wrong with the head that h2 was given instead of one that is refused.
    fn refused(&self, id: u32) -> Refused {
        let mut headers = HeaderMap::new();
        headers.insert(streams::REFUSED, HeaderValue::from_static(""));
        self.streams.take(id, &mut headers).unwrap_err().unwrap()
    }

    fn take(&self, id: u32) -> Stream {
        self.streams.take(id, &mut HeaderMap::new()).unwrap()
    }
}

/// The frames in these bytes: kind, flags, stream and payload.
fn read(mut bytes: &[u8]) -> Vec<(u8, u8, u32, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<FRAME_HEAD_BYTES>() {
        let FrameHead { length, kind, flags, stream } = FrameHead::of(*head);
        frames.push((kind, flags, stream, rest[..length].to_vec()));
        bytes = &rest[length..];
    }
    assert_eq!(bytes, b"");
    frames
}

fn after_preface(given: &[u8]) -> Vec<(u8, u8, u32, Vec<u8>)> {
    read(given.strip_prefix(PREFACE).unwrap())
}

const PIECES: [usize; 5] = [1, 2, 9, 24, 100_000];

#[test]
fn a_message_does_not_depend_on_fragmentation_or_interleaved_frames() {
    let unknown = frame_of(0xfa, 0, 0, &[7; 500]);
    let padded = frame_of(KIND_DATA, FLAG_PADDED, 1, &[&[3][..], b"lo", &[0; 3]].concat());
    let split = request("/charge");
    let (first, rest) = split.split_at(4);
    let sent = [
        PREFACE,
        &headers(1, 0, first),
        &frame_of(KIND_CONTINUATION, FLAG_END_HEADERS, 1, rest),
        &unknown,
        &frame_of(KIND_DATA, 0, 1, b"hel"),
        &unknown,
        &padded,
        &frame_of(KIND_DATA, 0, 1, &vec![b'x'; 10_000]),
        &frame_of(KIND_DATA, FLAG_END_STREAM, 1, b"!"),
    ]
    .concat();
    for piece in PIECES {
        let mut checked = Checked::new(Http::default());
        let frames = after_preface(&checked.pass(&sent, piece));
        let heads: Vec<_> = frames.iter().filter(|(kind, ..)| *kind == KIND_HEADERS).collect();
        assert_eq!((heads.len(), heads[0].1), (1, FLAG_END_HEADERS), "in pieces of {piece}");
        let body: Vec<u8> = frames
            .iter()
            .filter(|(kind, flags, ..)| *kind == KIND_DATA && flags & FLAG_PADDED == 0)
            .flat_map(|(.., payload)| payload.clone())
            .collect();
        assert_eq!(body, [&b"hello"[..], &vec![b'x'; 10_000], b"!"].concat(), "in pieces of {piece}");
        let last = frames.last().unwrap();
        assert_eq!((last.0, last.1), (KIND_DATA, FLAG_END_STREAM));
        assert!(
            frames.iter().all(|(kind, ..)| *kind <= KIND_CONTINUATION),
            "what is unknown goes no further"
        );
        checked.take(1);
    }
}

#[test]
fn unread_small_pieces_take_only_their_own_size() {
    let mut checked = Checked::new(Http::default());
    checked.pass(&[PREFACE, &headers(1, FLAG_END_HEADERS, &request("/charge"))].concat(), 100_000);
    let piece = [frame_of(KIND_DATA, 0, 1, b"d"), frame_of(0xfa, 0, 0, &vec![0; 16_000])].concat();
    let given: Vec<u8> = (0..20_000).flat_map(|_| checked.pass(&piece, 100_000)).collect();
    let frames = read(&given);
    assert!(
        frames.iter().all(|(.., payload)| payload.len() >= PIECE_BYTES_MIN),
        "h2 keeps none that is small"
    );
    assert!(checked.streams.bytes_held() <= 2 * HANDED_ON_BYTES_MAX, "{} held", checked.streams.bytes_held());
    let given: usize = frames.iter().map(|(.., payload)| payload.len()).sum();
    assert_eq!(given + checked.streams.held(1).len(), 20_000);
}

#[test]
fn a_small_piece_is_handed_on_when_it_is_wanted_and_what_nobody_takes_goes_to_h2() {
    let waker = std::task::Waker::noop();
    let cx = Context::from_waker(waker);
    let mut checked = Checked::new(Http::default());
    checked.pass(&[PREFACE, &headers(1, FLAG_END_HEADERS, &request("/charge"))].concat(), 100_000);
    let stream = checked.take(1);
    assert_eq!(checked.pass(&frame_of(KIND_DATA, 0, 1, b"one"), 100_000), b"");
    assert_eq!(checked.frames.wanted(&cx), b"", "not yet");
    stream.want();
    assert_eq!(checked.frames.wanted(&cx), frame_of(KIND_DATA, 0, 1, b"one"));
    stream.want();
    let two = frame_of(KIND_DATA, 0, 1, b"two");
    assert_eq!(checked.pass(&two, 100_000), two, "straight on: it is waited for");
    assert_eq!(checked.pass(&frame_of(KIND_DATA, 0, 1, b"three"), 100_000), b"");
    drop(stream);
    assert_eq!(checked.frames.wanted(&cx), frame_of(KIND_DATA, 0, 1, b"three"));
    let four = frame_of(KIND_DATA, 0, 1, b"four");
    assert_eq!(checked.pass(&four, 100_000), four);
}

#[test]
fn nothing_comes_between_the_parts_of_a_frame_that_h2_reads() {
    let cx = Context::from_waker(std::task::Waker::noop());
    let mut checked = Checked::new(Http::default());
    let open = |stream| headers(stream, FLAG_END_HEADERS, &request("/charge"));
    checked.pass(&[PREFACE, &open(1), &open(3), &frame_of(KIND_DATA, 0, 1, b"small")].concat(), 100_000);
    let stream = checked.take(1);
    let large = frame_of(KIND_DATA, 0, 3, &vec![b'x'; 8_000]);
    checked.pass(&large[..1_000], 100_000);
    stream.want();
    assert_eq!(checked.frames.wanted(&cx), b"");
    checked.pass(&large[1_000..], 100_000);
    assert_eq!(checked.frames.wanted(&cx), frame_of(KIND_DATA, 0, 1, b"small"));
}

#[test]
fn a_head_that_is_refused_is_no_fault_of_its_connection() {
    let limits = Http { header_bytes_max: 500, headers_max: 3, ..Http::default() };
    let many: Vec<_> = ["a", "b", "c", "d"].map(|name| block(&[(name, "")])).concat();
    for (head, code) in [
        (request("/a?\""), "target"),
        (request("/a#b"), "fragment"),
        (block(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "u@a")]), "host"),
        ([request("/"), many].concat(), "headers_max"),
        ([request("/"), block(&[("x", &"x".repeat(500))])].concat(), "header_bytes_max"),
    ] {
        let mut checked = Checked::new(limits);
        let sent =
            [PREFACE, &headers(1, FLAG_LAST, &head), &headers(3, FLAG_LAST, &request("/good"))].concat();
        let frames = after_preface(&checked.pass(&sent, 7));
        assert_eq!(frames.len(), 2);
        assert_eq!(checked.refused(1).bad.code(), code);
        checked.take(3);
    }
    let mut latin1 = request("/caf");
    let at = latin1.windows(4).position(|four| four == b"/caf").unwrap();
    latin1[at + 3] = 0xe9;
    let mut checked = Checked::new(limits);
    checked.pass(&[PREFACE, &headers(1, FLAG_LAST, &latin1)].concat(), 100_000);
    assert!(checked.refused(1).bad.to_string().contains("0xe9"));
}

#[test]
fn a_malformed_message_is_told_and_h2_resets_its_stream_alone() {
    for bad in [
        vec![headers(1, FLAG_LAST, &[request("/"), block(&[("Upper", "1")])].concat())],
        vec![headers(1, FLAG_LAST, &[request("/"), block(&[("x", "a\nb")])].concat())],
        vec![headers(1, FLAG_END_HEADERS, &request("/")), headers(1, FLAG_LAST, &block(&[(":path", "/x")]))],
        vec![headers(1, FLAG_LAST, &[request("/"), block(&[(":status", "200")])].concat())],
    ] {
        let mut checked = Checked::new(Http::default());
        let good = headers(3, FLAG_LAST, &request("/good"));
        let frames = after_preface(&checked.pass(&[PREFACE, &bad.concat(), &good].concat(), 100_000));
        let malformed = block(&[("connection", "")]);
        assert_eq!(frames[frames.len() - 2].3, malformed);
        assert_eq!(checked.reported.load(Ordering::Relaxed), 1);
        checked.take(3);
    }
}

#[test]
fn a_head_that_says_of_itself_that_it_is_refused_is_refused() {
    let mut checked = Checked::new(Http::default());
    let head = [request("/"), block(&[("postern-refused", "")])].concat();
    let sent = headers(1, FLAG_LAST, &head);
    assert_eq!(after_preface(&checked.pass(&[PREFACE, &sent].concat(), 100_000)), read(&sent));
    let mut fields = HeaderMap::new();
    fields.insert(streams::REFUSED, HeaderValue::from_static(""));
    assert!(checked.streams.take(1, &mut fields).unwrap_err().is_none(), "nobody here refused it");
}

/// A field that the sender's table keeps, as an entry of that table.
const KEPT: [u8; 1] = [0x80 | 62];

#[test]
fn a_block_passes_as_it_came_and_without_a_table_once_one_was_replaced() {
    let keeps = |name: &str, value: &str| {
        let (name, value) = (name.as_bytes(), value.as_bytes());
        [&[0x40, name.len() as u8][..], name, &[value.len() as u8], value].concat()
    };
    let mut checked = Checked::new(Http::default());
    let first = [request("/"), keeps("x-kept", "value")].concat();
    let second = [request("/"), KEPT.to_vec()].concat();
    let sent = [headers(1, FLAG_LAST, &first), headers(3, FLAG_LAST, &second)].concat();
    assert_eq!(after_preface(&checked.pass(&[PREFACE, &sent].concat(), 7)), read(&sent));

    let refused = [request("/a#b"), keeps("x-other", "refused")].concat();
    let sent = [headers(5, FLAG_LAST, &refused), headers(7, FLAG_LAST, &second)].concat();
    let given = read(&checked.pass(&sent, 7));
    assert_eq!(checked.refused(5).bad.code(), "fragment");
    assert_eq!(
        given[1].3,
        [request("/"), block(&[("x-other", "refused")])].concat(),
        "h2 knows of no such entry"
    );
}

#[test]
fn a_block_is_unfinished_until_its_last_frame_and_a_body_is_not() {
    let mut checked = Checked::new(Http::default());
    let mut after = |bytes: &[u8], piece| {
        checked.pass(bytes, piece);
        checked.unfinished.since().is_some()
    };
    let head = request("/charge");
    assert!(after(&PREFACE[..5], 1));
    assert!(!after(&PREFACE[5..], 1));
    assert!(after(&headers(1, 0, &head[..3]), 1));
    assert!(after(&[0, 0, 0], 1), "a part of a frame's head");
    assert!(!after(&frame_of(KIND_CONTINUATION, FLAG_END_HEADERS, 1, &head[3..])[3..], 1));
    assert!(!after(&frame_of(KIND_DATA, 0, 1, b"abc")[..10], 1));
}

#[test]
fn a_body_polled_twice_before_data_gets_its_next_piece() {
    let streams = Arc::<Streams>::default();
    streams.begin(1, 10);
    assert!(streams.hold(1, b"a").is_empty());
    let taken =
        |streams: &Streams| streams.take_wanted().into_iter().map(|(_, held)| held).collect::<Vec<_>>();
    streams.want(1);
    assert_eq!(streams.hold(1, b"b"), b"ab", "it is handed on before whoever reads has looked");
    streams.want(1);
    assert!(taken(&streams).is_empty());
    assert_eq!(streams.hold(1, b"c"), b"c");
}
