//! hyper and the check in front of it see the same requests, and neither holds more than its limit.

use super::*;

/// What hyper is given of these bytes, sent in pieces of `piece`, with what is seen then.
fn through(heads: &RawHeadCheck, bytes: &[u8], piece: usize) -> (Vec<u8>, Option<InvalidMessage>) {
    let mut given = Vec::new();
    for bytes in bytes.chunks(piece) {
        match heads.pass(bytes) {
            Ok(CheckedBytes::Unchanged) => given.extend_from_slice(bytes),
            Ok(CheckedBytes::Replaced(instead)) => given.extend_from_slice(&instead),
            Err(bad) => return (given, Some(bad)),
        }
    }
    (given, heads.fault())
}

fn limits() -> Http {
    Http { header_bytes_max: 200, headers_max: 3, ..Http::default() }
}

const PIECES: [usize; 5] = [1, 2, 3, 7, 100_000];

#[test]
fn valid_requests_reach_hyper_unchanged_in_any_fragmentation() {
    let requests = [
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello",
        "POST /b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5;x=\"y\"\r\nhello\r\n0\r\nx: y\r\n\r\n",
        "HEAD /c?{} HTTP/1.0\r\n\r\n",
    ];
    for piece in PIECES {
        let heads = RawHeadCheck::new(limits());
        let all = requests.concat();
        assert_eq!(through(&heads, all.as_bytes(), piece), (all.into_bytes(), None), "in pieces of {piece}");
        for _ in requests {
            assert_eq!(heads.next(), RequestCheck::Valid);
        }
        assert_eq!(heads.next(), RequestCheck::Unknown);
    }
}

#[test]
fn hyper_sees_nothing_of_a_refused_head_or_of_what_follows() {
    let cases = [
        ("GET / HTTP/1.1\r\nhost : a\r\n\r\n", "header_field"),
        ("GET / HTTP/1.1\nhost: a\n\n", "bare_line_feed"),
        ("GET /a?\"b HTTP/1.1\r\nhost: a\r\n\r\n", "target"),
        ("GET / HTTP/1.2\r\nhost: a\r\n\r\n", "version"),
        ("\u{1}\r\n\r\n", "request_line"),
        ("GET / HTTP/1.1\r\nhost: a\r\n1: a\r\n2: a\r\n3: a\r\n4: a\r\n\r\n", "headers_max"),
        (&format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", "a".repeat(300)), "header_bytes_max"),
        (&format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(3_000)), "header_bytes_max"),
    ];
    for (request, code) in cases {
        for piece in PIECES {
            let heads = RawHeadCheck::new(limits());
            let all = format!("{request}GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n");
            let (given, fault) = through(&heads, all.as_bytes(), piece);
            assert_eq!(String::from_utf8(given).unwrap().matches("HTTP/1.1").count(), 1, "{request:?}");
            let RequestCheck::Refused(refused) = heads.next() else {
                panic!("{request:?} in pieces of {piece}")
            };
            assert_eq!((refused.bad.code(), fault), (code, None), "{request:?} in pieces of {piece}");
            assert_eq!(heads.next(), RequestCheck::Unknown);
        }
    }
}

#[test]
fn a_chunked_body_is_framed_in_one_way_or_the_connection_breaks() {
    let long = "x".repeat(300);
    for (body, code) in [
        ("5\nhello\r\n0\r\n\r\n", "loose_chunk"),
        ("5 \r\nhello\r\n0\r\n\r\n", "loose_chunk"),
        ("5\r\nhello\n0\r\n\r\n", "loose_chunk"),
        ("5;x\ny\r\nhello\r\n0\r\n\r\n", "loose_chunk"),
        ("\r\n0\r\n\r\n", "loose_chunk"),
        ("00000000000000005\r\nhello\r\n0\r\n\r\n", "loose_chunk"),
        ("0\r\n\n", "bare_line_feed"),
        ("0\r\nx: y\n\r\n", "bare_line_feed"),
        ("0\r\nno field\r\n\r\n", "trailers"),
        ("0\r\nx : y\r\n\r\n", "trailers"),
        ("0\r\n1: a\r\n2: a\r\n3: a\r\n4: a\r\n\r\n", "headers_max"),
        (&format!("0\r\nx: {long}\r\n\r\n"), "header_bytes_max"),
        (&format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(20_000)), "chunk_extensions"),
    ] {
        for piece in PIECES {
            let heads = RawHeadCheck::new(limits());
            let head = "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
            let all = [head, body, "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"].concat();
            let (given, fault) = through(&heads, all.as_bytes(), piece);
            assert_eq!(fault.map(|bad| bad.code()), Some(code), "{body:?} in pieces of {piece}");
            assert!(!String::from_utf8(given).unwrap().contains("smuggled"), "{body:?}");
            assert_eq!((heads.next(), heads.next()), (RequestCheck::Valid, RequestCheck::Unknown));
        }
    }
}

/// A bare line feed after the last chunk once put the check out of step: it took the next head for a body.
#[test]
fn nothing_a_client_sends_makes_the_check_hold_more_than_a_head() {
    let attack = "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\nGET /b HTTP/1.1\r\n\
                  host: a\r\ncontent-length: 58\r\n\r\n";
    let floods = [
        format!("{attack}{}", "x".repeat(1_000_000)),
        "\r\n".repeat(500_000),
        format!("GET / HTTP/1.1\r\nx: {}", "x".repeat(2_000_000)),
        format!(
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n{}",
            "x: y\r\n".repeat(100_000)
        ),
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n".repeat(10_000),
    ];
    for flood in floods {
        for piece in [1_000, 16_384] {
            let heads = RawHeadCheck::new(limits());
            let _given = through(&heads, flood.as_bytes(), piece);
            let state_lock = heads.lock();
            let trailers = match &state_lock.state {
                State::Chunked(chunks) => chunks.held(),
                _ => 0,
            };
            let held = state_lock.begun.capacity() + trailers;
            assert!(held <= 2 * limits().header_bytes_max, "{held} bytes held of {:?}", flood.get(..60));
        }
    }
}

#[test]
fn a_head_is_as_old_as_its_first_byte() {
    let heads = RawHeadCheck::new(limits());
    let long_ago = Instant::now() + Duration::from_secs(60);
    let limit = Duration::from_secs(10);
    heads.pass(b"GET / HTTP/1.1\r\n").unwrap();
    assert!(heads.is_stalled(limit, long_ago));
    heads.pass(b"host: a\r\n\r\n").unwrap();
    assert!(!heads.is_stalled(limit, long_ago));
}

#[test]
fn upgraded_bytes_are_not_held_back() {
    let heads = RawHeadCheck::new(limits());
    heads.pass(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    assert_eq!(heads.pass(b"early").unwrap(), CheckedBytes::Replaced(Vec::new()));
    heads.upgraded();
    assert_eq!(heads.held_back(), b"early");
    assert_eq!(heads.pass(b"\n\x00").unwrap(), CheckedBytes::Unchanged);
}
