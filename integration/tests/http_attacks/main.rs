//! What a hostile peer sends over HTTP/2 makes a sidecar hold less than a hundred times the bytes that it took, harms no
//! neighbour, and reaches the app only if it is a valid request.

#![allow(unreachable_pub, reason = "a test program has no public items, only shared ones")]

mod frames;
mod harness;
mod stalled;

use frames::*;
use harness::{Attack, Door, Hold};

#[tokio::test]
async fn floods_are_bounded_and_harm_no_neighbour() {
    let mut too_much = Vec::new();
    for attack in floods() {
        // A fresh one for each: what one attack made it hold must not hide the next one's.
        let door = Door::open().await;
        let cost = door.attack(&attack).await;
        println!("{cost}");
        if cost.is_too_much() {
            too_much.push(cost.to_string());
        }
    }
    assert!(too_much.is_empty(), "held too much:\n{}", too_much.join("\n"));
}

/// Each is sent whole, again and again, on a number of connections.
fn floods() -> Vec<Attack> {
    let open_post = || [preface(&[]), headers(1, &post("/charge"), END_HEADERS)].concat();
    vec![
        Attack {
            name: "rapid reset",
            first: preface(&[]),
            again: &|turn| {
                let stream = stream(turn);
                [headers(stream, &get("/big"), END_HEADERS | END_STREAM), reset(stream)].concat()
            },
            turns: 5_000,
            connections: 4,
            hold: Hold::Read,
            streams: 0,
        },
        Attack {
            name: "resets that we are made to send",
            first: preface(&[]),
            again: &|turn| {
                let stream = stream(turn);
                [headers(stream, &post("/charge"), END_HEADERS), window_update(stream, 0)].concat()
            },
            turns: 5_000,
            connections: 4,
            hold: Hold::Read,
            streams: 0,
        },
        Attack {
            name: "a header block that goes on",
            first: [preface(&[]), headers(1, &get("/charge"), 0)].concat(),
            again: &|_| frame(CONTINUATION, 0, 1, &vec![0; 16_384]),
            turns: 200,
            connections: 4,
            hold: Hold::Read,
            streams: 0,
        },
        Attack {
            name: "empty pieces of a header block",
            first: [preface(&[]), headers(1, &get("/charge"), 0)].concat(),
            again: &|_| frame(CONTINUATION, 0, 1, &[]),
            turns: 50_000,
            connections: 4,
            hold: Hold::Read,
            streams: 0,
        },
        Attack {
            name: "an unfinished header block, held",
            first: [preface(&[]), headers(1, &[get("/charge"), padding_header(8_000)].concat(), 0)].concat(),
            again: &|_| Vec::new(),
            turns: 0,
            connections: 200,
            hold: Hold::Open,
            streams: 0,
        },
        Attack {
            name: "headers that expand, held",
            first: [
                preface(&[(INITIAL_WINDOW_SIZE, 0)]),
                headers(1, &[get("/big"), indexed_header(3_900)].concat(), END_HEADERS | END_STREAM),
            ]
            .concat(),
            again: &|turn| {
                let block = [get("/big"), vec![FIRST_DYNAMIC; 6]].concat();
                headers(stream(turn + 1), &block, END_HEADERS | END_STREAM)
            },
            turns: 90,
            connections: 4,
            hold: Hold::Open,
            streams: 364,
        },
        Attack {
            name: "headers that expand beyond all bounds",
            first: [
                preface(&[]),
                headers(1, &[get("/charge"), indexed_header(3_900)].concat(), END_HEADERS | END_STREAM),
            ]
            .concat(),
            again: &|turn| {
                let block = [get("/charge"), vec![FIRST_DYNAMIC; 8_000]].concat();
                headers(stream(turn + 1), &block, END_HEADERS | END_STREAM)
            },
            turns: 500,
            connections: 4,
            hold: Hold::Read,
            streams: 0,
        },
        Attack {
            name: "table churn",
            first: preface(&[]),
            again: &|turn| {
                // Dynamic table size updates (RFC 7541 §6.3): to nothing, and back to 4,096.
                let block = [vec![0x20, 0x3f, 0xe1, 0x1f], get("/charge"), indexed_header(2_000)].concat();
                headers(stream(turn), &block, END_HEADERS | END_STREAM)
            },
            turns: 1_000,
            connections: 4,
            hold: Hold::Read,
            streams: 0,
        },
        Attack {
            name: "empty header blocks",
            first: preface(&[]),
            again: &|turn| headers(stream(turn), &[], END_HEADERS | END_STREAM),
            turns: 20_000,
            connections: 4,
            hold: Hold::Read,
            streams: 0,
        },
        Attack {
            name: "empty data",
            first: open_post(),
            again: &|_| frame(DATA, 0, 1, &[]),
            turns: 50_000,
            connections: 4,
            hold: Hold::Read,
            streams: 0,
        },
        Attack {
            name: "data of padding only",
            first: open_post(),
            again: &|_| frame(DATA, PADDED, 1, &[&[255][..], &[0; 255]].concat()),
            turns: 5_000,
            connections: 4,
            hold: Hold::Read,
            streams: 0,
        },
        Attack {
            name: "small data between frames that mean nothing, not taken",
            first: [preface(&[]), headers(1, &post("/stuck"), END_HEADERS)].concat(),
            again: &|_| [frame(DATA, 0, 1, b"d"), frame(0xfa, 0, 0, &[0; 16_000])].concat(),
            turns: 2_000,
            connections: 4,
            hold: Hold::Read,
            streams: 4,
        },
        Attack {
            name: "small data between that of another stream, not taken",
            first: [
                preface(&[]),
                headers(1, &post("/stuck"), END_HEADERS),
                headers(3, &post("/charge"), END_HEADERS),
            ]
            .concat(),
            again: &|_| [frame(DATA, 0, 1, b"d"), frame(DATA, 0, 3, &[0; 2_000])].concat(),
            turns: 10_000,
            connections: 4,
            hold: Hold::Read,
            streams: 8,
        },
        Attack {
            name: "settings",
            first: preface(&[]),
            again: &|_| frame(SETTINGS, 0, 0, &[]),
            turns: 50_000,
            connections: 4,
            hold: Hold::Open,
            streams: 0,
        },
        Attack {
            name: "pings",
            first: preface(&[]),
            again: &|_| frame(PING, 0, 0, &[0; 8]),
            turns: 50_000,
            connections: 4,
            hold: Hold::Open,
            streams: 0,
        },
        Attack {
            name: "window updates",
            first: open_post(),
            again: &|_| window_update(1, 1),
            turns: 50_000,
            connections: 4,
            hold: Hold::Read,
            streams: 0,
        },
        Attack {
            name: "priorities",
            first: preface(&[]),
            again: &|turn| frame(PRIORITY, 0, stream(turn), &[0, 0, 0, 0, 16]),
            turns: 20_000,
            connections: 4,
            hold: Hold::Read,
            streams: 0,
        },
        Attack {
            name: "zero window, large responses",
            first: preface(&[(INITIAL_WINDOW_SIZE, 0)]),
            again: &|turn| headers(stream(turn), &get("/big"), END_HEADERS | END_STREAM),
            turns: 100,
            connections: 4,
            hold: Hold::Open,
            streams: 400,
        },
        Attack {
            name: "a window of one byte, large responses",
            first: preface(&[(INITIAL_WINDOW_SIZE, 1)]),
            again: &|turn| headers(stream(turn), &get("/big"), END_HEADERS | END_STREAM),
            turns: 100,
            connections: 4,
            hold: Hold::Open,
            streams: 400,
        },
        Attack {
            name: "responses that nobody reads",
            first: preface(&[(INITIAL_WINDOW_SIZE, 0x7fff_ffff)]),
            again: &|turn| headers(stream(turn), &get("/big"), END_HEADERS | END_STREAM),
            turns: 100,
            connections: 4,
            hold: Hold::Open,
            streams: 400,
        },
        Attack {
            name: "uploads that the app does not read",
            first: [preface(&[]), headers(1, &post("/stuck"), END_HEADERS)].concat(),
            again: &|_| frame(DATA, 0, 1, &[0; 16_000]),
            turns: 4,
            connections: 20,
            hold: Hold::Open,
            streams: 20,
        },
        Attack {
            name: "connections that say they go away and stay",
            first: [preface(&[]), frame(GOAWAY, 0, 0, &[0; 8])].concat(),
            again: &|_| Vec::new(),
            turns: 0,
            connections: 200,
            hold: Hold::Open,
            streams: 0,
        },
    ]
}

#[tokio::test]
async fn what_is_not_valid_http2_never_reaches_the_app() {
    let door = Door::open().await;
    let with = |fields: &[(&str, &str)]| {
        [post("/charge"), fields.iter().flat_map(|(name, value)| literal(name, value)).collect()].concat()
    };
    let request = |fields: &[(&str, &str)]| {
        fields.iter().flat_map(|(name, value)| literal(name, value)).collect::<Vec<_>>()
    };
    let basic = [(":method", "POST"), (":scheme", "http"), (":path", "/charge"), (":authority", "a")];
    for (what, block) in [
        ("an upper-case name", with(&[("X-Upper", "1")])),
        ("connection", with(&[("connection", "close")])),
        ("transfer-encoding", with(&[("transfer-encoding", "chunked")])),
        ("upgrade", with(&[("upgrade", "websocket")])),
        ("te that is not trailers", with(&[("te", "gzip")])),
        ("a line break in a value", with(&[("x", "a\r\nx-smuggled: 1")])),
        ("NUL in a value", with(&[("x", "a\0b")])),
        ("an empty name", with(&[("", "a")])),
        ("a space in a name", with(&[("x y", "a")])),
        ("a pseudo-header after a regular one", [with(&[("x", "1")]), literal(":authority", "b")].concat()),
        ("two paths", request(&[&basic[..], &[(":path", "/other")]].concat())),
        ("two methods", request(&[&basic[..], &[(":method", "GET")]].concat())),
        ("an unknown pseudo-header", request(&[&basic[..], &[(":smuggled", "1")]].concat())),
        ("a response's pseudo-header", request(&[&basic[..], &[(":status", "200")]].concat())),
        ("no path", request(&basic[..2])),
        (
            "an empty path",
            request(&[(":method", "POST"), (":scheme", "http"), (":path", ""), (":authority", "a")]),
        ),
        ("no method", request(&basic[1..])),
        ("authority and host that disagree", with(&[("host", "b")])),
        ("two hosts", with(&[("host", "a"), ("host", "a")])),
        ("a length that is not the body's", with(&[("content-length", "5")])),
        ("two lengths", with(&[("content-length", "0"), ("content-length", "1")])),
    ] {
        let bytes = [preface(&[]), headers(1, &block, END_HEADERS | END_STREAM)].concat();
        door.say(&bytes).await;
        let seen = door.app.requests();
        assert!(!seen.iter().any(|head| head.starts_with("POST /charge")), "{what}: {seen:?}");
    }
    // The same without a fault passes, or the above would say nothing.
    let bytes = [preface(&[]), headers(1, &post("/charge"), END_HEADERS | END_STREAM)].concat();
    door.say(&bytes).await;
    assert!(door.app.requests().iter().any(|head| head.starts_with("POST /charge")));
}
