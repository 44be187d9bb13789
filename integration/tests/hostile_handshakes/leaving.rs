//! Clients that leave at every step of a handshake, by FIN, by reset or with an alert: nothing is left of them.

use std::time::Duration;

use rustls::ClientConnection;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::door::{Door, PATIENCE, Sent};
use crate::hello::client;

/// A record with the alert `close_notify`, as it is sent before there are keys.
const CLOSE_NOTIFY: [u8; 7] = [21, 3, 3, 0, 2, 1, 0];
/// Each way at each step so often.
const TIMES: usize = 20;

#[derive(Debug, Clone, Copy)]
enum Way {
    Fin,
    Reset,
    CloseNotify,
}

/// How far a client comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Connected,
    HalfHello,
    Hello,
    /// The server's flight has been read.
    ServerHello,
    /// All but the last byte of the own second flight has been sent.
    AlmostFinished,
    Finished,
}

const STEPS: [Step; 6] =
    [Step::Connected, Step::HalfHello, Step::Hello, Step::ServerHello, Step::AlmostFinished, Step::Finished];

impl Step {
    /// Comes so far, and says how many bytes that took.
    async fn reach(self, door: &Door) -> (TcpStream, u64) {
        let (mut tls, mut sent) = (client(door, &[]), 0);
        let mut stream = TcpStream::connect(door.address()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let hello = pending(&mut tls);
        let said = match self {
            Self::Connected => 0,
            Self::HalfHello => hello.len() / 2,
            _ => hello.len(),
        };
        stream.write_all(&hello[..said]).await.unwrap();
        sent += said;
        if matches!(self, Self::ServerHello | Self::AlmostFinished | Self::Finished) {
            let second = answered(&mut tls, &mut stream).await;
            let said = match self {
                Self::AlmostFinished => second.len() - 1,
                Self::Finished => second.len(),
                _ => 0,
            };
            stream.write_all(&second[..said]).await.unwrap();
            sent += said;
        }
        (stream, sent as u64)
    }
}

impl Way {
    async fn leave(self, mut stream: TcpStream) {
        match self {
            Self::Fin => stream.shutdown().await.unwrap(),
            Self::Reset => return SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap(),
            // It may be gone already.
            Self::CloseNotify => drop(stream.write_all(&CLOSE_NOTIFY).await),
        }
        // However it ends.
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await;
        let _how = ended.expect("the sidecar ends it");
    }
}

#[tokio::test]
async fn whoever_leaves_at_any_step_leaves_nothing_behind() {
    let door = Door::open_with("[limits]\nhandshake_timeout = \"2s\"\n").await;
    for step in STEPS {
        for way in [Way::Fin, Way::Reset, Way::CloseNotify] {
            door.unharmed_by(async {
                let (mut bytes, mut leaving) = (0, Vec::new());
                for _ in 0..TIMES {
                    let (stream, sent) = step.reach(&door).await;
                    bytes += sent;
                    leaving.push(way.leave(stream));
                }
                futures_util::future::join_all(leaving).await;
                Sent { bytes, kept: () }
            })
            .await;
            door.empty().await;
        }
    }
    let endings = door.endings();
    assert!(endings.len() <= 3 * TIMES, "the app has seen those alone who finished: {}", endings.len());
    assert!(endings.iter().all(|ending| ending.bytes.is_empty() && !ending.clean), "and these as resets");
    door.refused("handshake_aborted", 1.0).await;
}

/// What a client has to send now.
fn pending(tls: &mut ClientConnection) -> Vec<u8> {
    let mut out = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut out).unwrap();
    }
    out
}

/// Reads the server's flight, and returns the client's second one.
async fn answered(tls: &mut ClientConnection, stream: &mut TcpStream) -> Vec<u8> {
    let mut buffer = [0; 8192];
    // The client's change_cipher_spec comes first (RFC 8446 §D.4), its Finished last.
    let mut out = Vec::new();
    while tls.is_handshaking() {
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await.unwrap().unwrap();
        assert!(read > 0, "cut");
        tls.read_tls(&mut &buffer[..read]).unwrap();
        tls.process_new_packets().unwrap();
        out.extend(pending(tls));
    }
    out
}
