//! How a CA ends: in order when asked, and by its deadline whatever clients do.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;

use crate::fixture::Home;

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_and_sigint_end_it_with_exit_code_0_and_the_socket_is_gone() {
    for signal in ["-TERM", "-INT"] {
        let home = Home::new();
        let mut ca = home.start("");
        let client = ca.client();
        let _idle = client.connect(None).await.unwrap();
        ca.signal(signal);
        assert_eq!(ca.wait().code(), Some(0), "{}", home.log());
        assert!(!ca.data_dir.join("admin.sock").exists());
    }
}

#[tokio::test]
async fn a_client_that_never_finishes_its_request_does_not_hold_up_the_end() {
    let home = Home::new();
    let mut ca = home.start("drain_deadline = \"200ms\"\n");
    let mut stalled = ca.client().tls(None).await.unwrap();
    // Preface, settings, and the headers of a request whose body never comes (RFC 9113 §3.4, §6.2).
    stalled.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    stalled.write_all(&headers_of_a_request_without_end()).await.unwrap();
    stalled.flush().await.unwrap();
    // The CA's settings show that it has read what came before.
    let mut settings = [0; 9];
    tokio::io::AsyncReadExt::read_exact(&mut stalled, &mut settings).await.unwrap();
    let told = Instant::now();
    ca.signal("-TERM");
    let exit = tokio::task::spawn_blocking(move || (ca.wait(), told.elapsed()));
    let (exit, took) = tokio::time::timeout(Duration::from_secs(20), exit).await.expect("it ends").unwrap();
    assert_eq!(exit.code(), Some(0), "{}", home.log());
    assert!(took >= Duration::from_millis(200), "the request was waited for");
}

/// A HEADERS frame of stream 1 with END_HEADERS and without END_STREAM, its block in literals (RFC 7541 §6.2.2).
fn headers_of_a_request_without_end() -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    for (name, value) in [
        (&b":path"[..], &b"/postern.v1.CertificateAuthority/Issue"[..]),
        (b":authority", b"ca"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    ] {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text);
        }
    }
    let mut frame = vec![0, 0, u8::try_from(block.len()).unwrap(), 1, 4, 0, 0, 0, 1];
    frame.extend(block);
    frame
}
