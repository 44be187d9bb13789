//! Responses that are there and that nobody takes: what they hold does not depend on how few bytes asked for them, so
//! it is bounded for each identity.

use postern_integration::web;

use crate::frames::*;
use crate::harness::{Attack, Door, Hold};

fn zero_window() -> Vec<u8> {
    preface(&[(INITIAL_WINDOW_SIZE, 0)])
}

/// From 100 connections with 100 requests each the measure holds as it stands: the identity's share is far less.
#[tokio::test]
async fn ten_thousand_requests_of_one_identity_are_bounded_by_its_share() {
    let door = Door::open_with("[http]\nrequests_per_peer_max = 500\n").await;
    let cost = door
        .attack(&Attack {
            name: "large responses on a hundred connections",
            first: zero_window(),
            again: &|turn| headers(stream(turn), &get("/big"), END_HEADERS | END_STREAM),
            turns: 100,
            connections: 100,
            hold: Hold::Open,
            streams: 0,
        })
        .await;
    println!("{cost}");
    assert!(!cost.is_too_much(), "{cost}");
    assert!(door.metric("postern_refusals_total", &["requests_per_peer_max"]).await > 0.0);
}

/// gRPC rides HTTP/2 to the app, which sends ahead into its window.
#[tokio::test]
async fn grpc_responses_that_nobody_takes_hold_no_more_than_others() {
    let app = web::app().await;
    let door = Door::before_another(&app).await;
    let cost = door
        .attack(&Attack {
            name: "large responses, gRPC",
            first: zero_window(),
            again: &|turn| {
                let block = [post("/charges/bytes/1073741824"), literal("content-type", "application/grpc")];
                headers(stream(turn), &block.concat(), END_HEADERS | END_STREAM)
            },
            turns: 100,
            connections: 4,
            hold: Hold::Open,
            streams: 400,
        })
        .await;
    println!("{cost}");
    assert!(!cost.is_too_much(), "{cost}");
}
