//! Frames that cost nothing to send and say nothing, in great number.

use postern_integration::frames::{
    DATA, END_HEADERS, Ears, GOAWAY, HEADERS, PING, PRIORITY, SETTINGS, WINDOW_UPDATE, frame, request,
};

use crate::scene::Scene;

const TIMES: usize = 200;
const FRAMES_AT_ONCE: usize = 1_000;
const LAST: &[u8] = b"the last";

/// Says `opening`, then the same frames again and again until all is said or the connection ends, and reads meanwhile.
async fn flood(attack: &str, opening: &[u8], many: &[u8]) {
    let scene = Scene::new().await;
    let (mut mouth, mut ears) = scene.attack(&[]).await;
    mouth.say(opening).await.unwrap();
    let say = async {
        for _ in 0..TIMES {
            if mouth.say(many).await.is_err() {
                return;
            }
        }
        // The answer to this says that everything before it was read.
        let _ended = mouth.say(&frame(PING, 0, 0, LAST)).await;
    };
    let (heard, ()) = tokio::join!(until_last(&mut ears), say);
    println!("{attack}: {heard}");
    scene.judge(attack).await;
}

/// The same by a peer that reads nothing, for as long as it takes to serve its neighbour a hundred times.
async fn flood_unread(attack: &str, many: &[u8]) {
    let scene = Scene::new().await;
    let (mut mouth, _ears) = scene.attack(&[]).await;
    let say = async { while mouth.say(many).await.is_ok() {} };
    tokio::select! {
        () = say => {}
        () = scene.served_more(100) => {}
    }
    scene.judge(attack).await;
}

async fn until_last(ears: &mut Ears) -> String {
    let mut code = None;
    while let Some(heard) = ears.next().await {
        if heard.kind == PING && heard.payload == LAST {
            return "borne to its end".to_owned();
        }
        code = if heard.kind == GOAWAY { heard.code() } else { code };
    }
    format!("ended with {code:?}")
}

#[tokio::test]
async fn empty_data_is_bounded() {
    let open = frame(HEADERS, END_HEADERS, 1, &request("POST", "/charges/digest"));
    flood("empty DATA", &open, &frame(DATA, 0, 1, &[]).repeat(FRAMES_AT_ONCE)).await;
}

#[tokio::test]
async fn settings_are_bounded() {
    flood("empty SETTINGS", &[], &frame(SETTINGS, 0, 0, &[]).repeat(FRAMES_AT_ONCE)).await;
}

#[tokio::test]
async fn pings_are_bounded() {
    flood("PING", &[], &frame(PING, 0, 0, &[0; 8]).repeat(FRAMES_AT_ONCE)).await;
}

#[tokio::test]
async fn window_updates_are_bounded() {
    let open = frame(HEADERS, END_HEADERS, 1, &request("POST", "/charges/digest"));
    let update = frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]);
    flood("WINDOW_UPDATE", &open, &update.repeat(FRAMES_AT_ONCE)).await;
}

#[tokio::test]
async fn priorities_are_bounded() {
    // Each depends on the one before it (RFC 9113 §5.3.2 has done away with them; peers may still send them).
    let tree: Vec<_> = (0..FRAMES_AT_ONCE as u32)
        .flat_map(|at| {
            let (stream, parent) = (2 * at + 3, 2 * at + 1);
            frame(PRIORITY, 0, stream, &[&parent.to_be_bytes()[..], &[255]].concat())
        })
        .collect();
    flood("PRIORITY tree", &[], &tree).await;
}

#[tokio::test]
async fn what_wants_answers_from_us_is_bounded_when_nobody_reads_them() {
    flood_unread("PING, unread", &frame(PING, 0, 0, &[0; 8]).repeat(FRAMES_AT_ONCE)).await;
    flood_unread("SETTINGS, unread", &frame(SETTINGS, 0, 0, &[]).repeat(FRAMES_AT_ONCE)).await;
}
