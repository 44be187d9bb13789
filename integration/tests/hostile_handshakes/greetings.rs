//! ClientHellos in pieces, in excess, and with names that mean nothing here.

use postern_integration::eventually;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::door::{Door, PATIENCE, Sent};
use crate::hello::{ALERT, HANDSHAKE, Hello, SERVER_NAME, client, host_name, records};

/// Not assigned to anything.
const UNKNOWN_EXTENSION: u16 = 0xfafa;

/// Sends the hello and returns the first record of the answer: its type and its content.
async fn first_answer(door: &Door, bytes: &[u8]) -> (u8, Vec<u8>) {
    let mut stream = TcpStream::connect(door.address()).await.unwrap();
    let answered = async {
        // It may have heard enough before the end.
        let _refused = stream.write_all(bytes).await;
        let mut header = [0; 5];
        stream.read_exact(&mut header).await.unwrap();
        let mut content = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
        stream.read_exact(&mut content).await.unwrap();
        (header[0], content)
    };
    tokio::time::timeout(PATIENCE, answered).await.expect("an answer")
}

/// Connects the client, whose first flight goes out as `cut` cuts it, and expects an echo.
async fn served(door: &Door, mut tls: rustls::ClientConnection, cut: impl Fn(&[u8]) -> Vec<Vec<u8>>) {
    use std::io::{Read as _, Write as _};
    let mut stream = TcpStream::connect(door.address()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    tls.writer().write_all(b"word").unwrap();
    let (mut first, mut buffer, mut plain) = (true, [0; 8192], Vec::new());
    while plain != b"word" {
        let mut out = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut out).unwrap();
        }
        let pieces = if std::mem::take(&mut first) { cut(&out) } else { vec![out] };
        for piece in pieces {
            stream.write_all(&piece).await.unwrap();
        }
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await.unwrap().unwrap();
        assert!(read > 0, "cut");
        tls.read_tls(&mut &buffer[..read]).unwrap();
        tls.process_new_packets().unwrap();
        // Nothing to read yet is an error here.
        let _none_yet = tls.reader().read_to_end(&mut plain);
    }
}

#[tokio::test]
async fn a_client_hello_in_one_byte_segments_or_one_byte_records_is_served() {
    let door = Door::open().await;
    served(&door, client(&door, &[]), |hello| hello.iter().map(|byte| vec![*byte]).collect()).await;
    served(&door, client(&door, &[]), |hello| vec![records(&hello[5..], 1)]).await;
    served(&door, client(&door, &[]), |hello| {
        records(&hello[5..], 1).iter().map(|byte| vec![*byte]).collect()
    })
    .await;
    assert_eq!(door.ended(3).await.len(), 3);
}

#[tokio::test]
async fn one_byte_records_without_an_end_are_held_for_what_they_are() {
    let door = Door::open().await;
    let all_but_one = |hello: Hello| {
        let message = hello.message();
        records(&message[..message.len() - 1], 1)
    };
    let bytes = all_but_one(Hello::of(&door).with(UNKNOWN_EXTENSION, vec![7; 20_000]));
    door.unharmed_by(async {
        let mut kept = Vec::new();
        for _ in 0..10 {
            let mut stream = TcpStream::connect(door.address()).await.unwrap();
            // It may have heard enough before the end.
            let _refused = stream.write_all(&bytes).await;
            kept.push(stream);
        }
        Sent { bytes: 10 * bytes.len() as u64, kept }
    })
    .await;
}

#[tokio::test]
async fn an_empty_record_is_no_hello_however_often_it_comes() {
    let door = Door::open().await;
    let empty = [HANDSHAKE, 3, 1, 0, 0].repeat(10_000);
    door.unharmed_by(async {
        let answer = door.knock(&empty).await;
        assert_ne!(answer.first(), Some(&HANDSHAKE), "no ServerHello: {answer:?}");
        Sent { bytes: empty.len() as u64, kept: () }
    })
    .await;
    door.refused("not_tls", 1.0).await;
}

#[tokio::test]
async fn extensions_of_64_kb_are_refused_or_ignored_and_held_for_no_more() {
    let door = Door::open().await;
    let one = |bytes| Hello::of(&door).with(UNKNOWN_EXTENSION, vec![7; bytes]).bytes();
    let mut many = Hello::of(&door);
    // 15,000 empty ones, none of them known, each once.
    many.extensions.extend((0x1000..0x1000 + 15_000).map(|kind| (kind, Vec::new())));
    let mut twice = many.clone();
    twice.extensions.push((0x1000, Vec::new()));
    let known = Hello::of(&door).message().len();

    door.unharmed_by(async {
        let mut sent = 0;
        // With one that fills the message to the length that we read, it is a hello like any other.
        for hello in [one(60_000), many.bytes()] {
            let (kind, content) = first_answer(&door, &hello).await;
            assert_eq!((kind, content[0]), (HANDSHAKE, 2), "a ServerHello");
            sent += hello.len();
        }
        // A longer message is none, nor is one with the same extension twice (RFC 8446 §4.2).
        let before = door.payments.metric("postern_refusals_total", &["inbound"]).await;
        for hello in [one(0xffff - 4 - (known - 50)), twice.bytes()] {
            let answer = door.knock(&hello).await;
            assert_ne!(answer.first(), Some(&HANDSHAKE), "no ServerHello: {answer:?}");
            sent += hello.len();
        }
        eventually("both refused", async || {
            let told = door.payments.metric("postern_refusals_total", &["inbound"]).await;
            (told >= before + 2.0).then_some(())
        })
        .await;
        Sent { bytes: sent as u64, kept: () }
    })
    .await;
    assert!(door.endings().is_empty(), "the app has seen none of it");
}

#[tokio::test]
async fn a_server_name_means_nothing_here_and_none_is_needed() {
    let door = Door::open().await;
    for name in ["payments", "wrong.example"] {
        let mut config = crate::hello::config(&door, &[]);
        config.enable_sni = true;
        let tls = rustls::ClientConnection::new(config.into(), name.try_into().unwrap()).unwrap();
        served(&door, tls, |hello| vec![hello.to_vec()]).await;
    }
    served(&door, client(&door, &[]), |hello| vec![hello.to_vec()]).await;
    assert_eq!(door.ended(3).await.len(), 3);
}

#[tokio::test]
async fn a_server_name_that_is_none_is_refused_or_ignored_and_never_acted_upon() {
    let door = Door::open().await;
    let long_name = vec![b'a'; 10 * 1024];
    let names: [&[u8]; 7] =
        [b"10.0.0.1", b"::1", b"\xff\xfe\x80", b"", b"a\0b", b"x\n\x1b[31mrefused", &long_name];
    for name in names {
        let hello = Hello::of(&door).with(SERVER_NAME, host_name(name)).bytes();
        let (kind, content) = first_answer(&door, &hello).await;
        let shown = String::from_utf8_lossy(&name[..name.len().min(20)]).into_owned();
        match kind {
            HANDSHAKE => assert_eq!(content[0], 2, "{shown:?}: a ServerHello"),
            _ => assert_eq!((kind, content[0]), (ALERT, 2), "{shown:?}: a fatal alert"),
        }
    }
    door.neighbour().await;
    door.empty().await;
    assert!(door.endings().is_empty(), "the app has seen none of it");
    let log = door.payments.program.output();
    assert!(!log.contains('\x1b') && !log.contains("[31mrefused"), "{log}");
}
