//! Streams that are reset as soon as they are opened, by the client or by us for its faults.

use postern_integration::frames::{
    END_HEADERS, END_STREAM, HEADERS, RST_STREAM, WINDOW_UPDATE, frame, request,
};

use crate::scene::Scene;

const STREAMS: u32 = 20_000;
/// RFC 9113 §7.
const ENHANCE_YOUR_CALM: u32 = 0xb;
const CANCEL: [u8; 4] = [0, 0, 0, 8];

#[tokio::test]
async fn rapid_resets_end_the_connection() {
    let scene = Scene::new().await;
    let (mut mouth, mut ears) = scene.attack(&[]).await;
    let block = request("GET", "/charges/7");
    let say = async {
        for stream in (1..).step_by(2).take(STREAMS as usize) {
            let open = frame(HEADERS, END_HEADERS | END_STREAM, stream, &block);
            if mouth.say(&[open, frame(RST_STREAM, 0, stream, &CANCEL)].concat()).await.is_err() {
                return;
            }
        }
    };
    let (code, ()) = tokio::join!(ears.until_end(), say);
    assert_eq!(code, Some(ENHANCE_YOUR_CALM));
    scene.judge("rapid reset").await;
}

/// CVE-2025-8671: a window that overflows makes us reset the stream, which then counts as closed.
#[tokio::test]
async fn resets_that_we_are_made_to_send_end_the_connection() {
    let scene = Scene::new().await;
    let (mut mouth, mut ears) = scene.attack(&[]).await;
    let block = request("GET", "/charges/bytes/1000000");
    let say = async {
        for stream in (1..).step_by(2).take(STREAMS as usize) {
            let open = frame(HEADERS, END_HEADERS | END_STREAM, stream, &block);
            let overflow = frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes());
            if mouth.say(&[open, overflow].concat()).await.is_err() {
                return;
            }
        }
    };
    let (code, ()) = tokio::join!(ears.until_end(), say);
    assert_eq!(code, Some(ENHANCE_YOUR_CALM));
    scene.judge("made you reset").await;
}
