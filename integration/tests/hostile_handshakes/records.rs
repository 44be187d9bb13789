//! Records after an honest handshake that no honest client sends: the connection is cut, and the app sees a reset.

use tokio::io::AsyncWriteExt as _;

use crate::door::{Door, Ending, PATIENCE, Sent};
use crate::hello::Hello;
use crate::raw::{Answer, Raw, Seal};

const WARNING: u8 = 1;
const FATAL: u8 = 2;
const CLOSE_NOTIFY: u8 = 0;
const INTERNAL_ERROR: u8 = 80;
const USER_CANCELED: u8 = 90;

fn word(clean: bool) -> Ending {
    Ending { bytes: b"word".to_vec(), clean }
}

#[tokio::test]
async fn a_handshake_message_out_of_place_cuts_the_connection() {
    let door = Door::open().await;
    let hello = Hello::of(&door).message();
    let messages: [(&str, &[u8]); 8] = [
        ("a ClientHello: TLS 1.3 knows no renegotiation", &hello),
        ("a HelloRequest", &[0, 0, 0, 0]),
        ("a session ticket", &[4, 0, 0, 0]),
        ("a certificate request", &[13, 0, 0, 3, 0, 0, 0]),
        ("another Finished", &[20, 0, 0, 1, 7]),
        ("a KeyUpdate that is neither", &[24, 0, 0, 1, 2]),
        ("a KeyUpdate with something behind it in its record", &[24, 0, 0, 1, 0, 24, 0, 0, 1, 0]),
        ("a message of no kind", &[99, 0, 0, 0]),
    ];
    for (at, (what, message)) in messages.into_iter().enumerate() {
        let mut raw = Raw::connect(&door).await;
        raw.word().await;
        let record = raw.seal.handshake(message);
        raw.until_cut(&record).await;
        assert_eq!(door.ended(at + 1).await[at], word(false), "{what}");
    }
    door.neighbour().await;
    door.empty().await;
}

#[tokio::test]
async fn a_record_that_is_none_cuts_the_connection() {
    let door = Door::open().await;
    let makers: [fn(&mut Seal) -> Vec<u8>; 7] = [
        tampered,
        |seal| seal.data(b"").repeat(2),
        // One byte longer than a record may be, and one in the clear.
        |_| [&[23, 3, 3, 0x41, 1][..], &[0; 0x4101]].concat(),
        |_| vec![22, 3, 3, 0, 4, 0, 0, 0, 0],
        // Of no kind, and of no kind but padding (RFC 8446 §5.4).
        |seal| seal.record(99, b"more"),
        |seal| seal.record(0, &[0; 64]),
        |seal| seal.alert(FATAL, INTERNAL_ERROR),
    ];
    for (at, make) in makers.into_iter().enumerate() {
        let mut raw = Raw::connect(&door).await;
        raw.word().await;
        let record = make(&mut raw.seal);
        raw.until_cut(&record).await;
        assert_eq!(door.ended(at + 1).await[at], word(false), "{at}");
    }
    door.neighbour().await;
    door.empty().await;
}

#[tokio::test]
async fn a_flood_of_key_updates_alone_is_cut_or_costs_nothing() {
    const UPDATES: usize = 20_000;
    let door = Door::open().await;
    for (at, answer) in [Answer::Requested, Answer::NotRequested].into_iter().enumerate() {
        let raw = Raw::connect(&door).await;
        door.unharmed_by(flood(raw, UPDATES, |seal| seal.key_update(answer))).await;
        assert_eq!(door.ended(at + 1).await[at], word(false), "{answer:?}");
    }
    door.empty().await;
}

/// Data between them makes them look like work, and the client reads none of the answers: they must not pile up.
#[tokio::test]
async fn key_updates_whose_answers_nobody_reads_pile_nothing_up() {
    const UPDATES: usize = 20_000;
    let door = Door::open().await;
    let raw = Raw::connect(&door).await;
    door.unharmed_by(flood(raw, UPDATES, |seal| {
        [seal.data(b"x"), seal.key_update(Answer::Requested)].concat()
    }))
    .await;
    let ending = &door.ended(1).await[0];
    assert!(!ending.clean, "left without a word after {} bytes: a reset", ending.bytes.len());
    door.empty().await;
}

#[tokio::test]
async fn empty_records_and_warnings_without_end_cost_nothing() {
    const RECORDS: usize = 50_000;
    let door = Door::open().await;
    let raw = Raw::connect(&door).await;
    door.unharmed_by(flood(raw, RECORDS, |seal| seal.data(b""))).await;
    let raw = Raw::connect(&door).await;
    door.unharmed_by(flood(raw, RECORDS, |seal| seal.alert(WARNING, USER_CANCELED))).await;
    assert_eq!(door.ended(2).await, [word(false), word(false)]);
    door.empty().await;
}

#[tokio::test]
async fn a_word_after_close_notify_is_not_heard_and_an_end_without_it_is_a_reset() {
    let door = Door::open().await;
    let mut raw = Raw::connect(&door).await;
    raw.word().await;
    let records = [raw.seal.alert(WARNING, CLOSE_NOTIFY), raw.seal.data(b"more")].concat();
    raw.until_cut(&records).await;
    assert_eq!(door.ended(1).await[0], word(true), "a clean end, and nothing behind it");

    let mut raw = Raw::connect(&door).await;
    raw.word().await;
    raw.stream.shutdown().await.unwrap();
    raw.until_cut(b"").await;
    assert_eq!(door.ended(2).await[1], word(false), "FIN without close_notify");

    let mut raw = Raw::connect(&door).await;
    raw.word().await;
    let record = raw.seal.data(b"more");
    raw.stream.write_all(&record[..record.len() - 1]).await.unwrap();
    raw.stream.shutdown().await.unwrap();
    raw.until_cut(b"").await;
    assert_eq!(door.ended(3).await[2], word(false), "FIN in the middle of a record");
    door.empty().await;
}

fn tampered(seal: &mut Seal) -> Vec<u8> {
    let mut record = seal.data(b"more");
    *record.last_mut().unwrap() ^= 1;
    record
}

/// Sends so many pieces, or as many as the sidecar takes; the answers stay unread.
async fn flood(mut raw: Raw, pieces: usize, make: impl Fn(&mut Seal) -> Vec<u8>) -> Sent<()> {
    /// So many at once, that the neighbour gets its turn between them.
    const AT_ONCE: usize = 100;
    raw.word().await;
    let mut bytes = 0;
    for _ in 0..pieces / AT_ONCE {
        let piece: Vec<u8> = (0..AT_ONCE).flat_map(|_| make(&mut raw.seal)).collect();
        match tokio::time::timeout(PATIENCE / 10, raw.stream.write_all(&piece)).await {
            Ok(Ok(())) => bytes += piece.len() as u64,
            // Cut, or not read any more: it has had enough.
            Ok(Err(_)) | Err(_) => break,
        }
    }
    Sent { bytes, kept: () }
}
