//! Clients that stop somewhere and hold: they have places, the oldest give way, and a deadline ends them all.

use std::time::{Duration, Instant};

use postern_integration::eventually;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::door::{Door, PATIENCE, Sent};
use crate::hello::Hello;

/// So many in CI; the bounds do not depend on it.
const STALLED: usize = 1_000;
const PLACES: usize = 200;
/// No flood is faster than this between two of the neighbour's: on a machine that does other things, too, it could
/// always be too fast.
const AT_ONCE: usize = 50;
/// What one connection under way may hold, whatever it has sent: a handshake's state in an unoptimised build.
const PLACE_KIB: u64 = 64;

/// Where a client stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    After(usize),
    /// Short of the hello's last byte.
    BeforeTheEndOfHello,
    /// With the server's whole flight read, and nothing answered.
    AfterServerHello,
}

impl Stop {
    async fn here(self, door: &Door, hello: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(door.address()).await.unwrap();
        let said = &hello[..self.bytes(hello)];
        // It may have lost its place already.
        let sent = stream.write_all(said).await;
        if self == Self::AfterServerHello && sent.is_ok() {
            let _lost = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 8192])).await.expect("an answer");
        }
        stream
    }

    fn bytes(self, hello: &[u8]) -> usize {
        match self {
            Self::After(bytes) => bytes,
            Self::BeforeTheEndOfHello => hello.len() - 1,
            Self::AfterServerHello => hello.len(),
        }
    }
}

#[tokio::test]
async fn wherever_a_thousand_stop_the_last_keep_their_places_and_others_are_served() {
    let limits = format!("[limits]\nhandshakes_pending_max = {PLACES}\nhandshake_timeout = \"5m\"\n");
    let door = Door::open_with(&limits).await;
    let hello = Hello::of(&door).bytes();
    let stops =
        [Stop::After(0), Stop::After(1), Stop::After(5), Stop::BeforeTheEndOfHello, Stop::AfterServerHello];
    for stop in stops {
        let stalled = door
            .unharmed_within(PLACES as u64 * PLACE_KIB, async {
                let mut kept = Vec::new();
                for number in 1..=STALLED {
                    kept.push(stop.here(&door, &hello).await);
                    if number % AT_ONCE == 0 {
                        door.neighbour().await;
                    }
                }
                Sent { bytes: (STALLED * stop.bytes(&hello)) as u64, kept }
            })
            .await;
        // Those of the neighbour go by themselves; those that stall do not.
        eventually(&format!("{stop:?}: no more are live than have places"), async || {
            let live = door.payments.status().await["connections"]["live"].as_u64().unwrap();
            (live <= PLACES as u64).then_some(())
        })
        .await;
        drop(stalled);
        door.empty().await;
    }
    let gave_way = (stops.len() * (STALLED - PLACES)) as f64;
    door.refused("handshakes_pending", gave_way).await;
    assert!(door.endings().is_empty(), "the app has seen none of it");
}

#[tokio::test]
async fn whoever_stops_or_drips_is_ended_by_the_deadline() {
    const LIMIT: Duration = Duration::from_secs(1);
    let door = Door::open_with("[limits]\nhandshake_timeout = \"1s\"\n").await;
    let hello = Hello::of(&door).bytes();
    let started = Instant::now();
    let mut stopped = Vec::new();
    for stop in [Stop::After(0), Stop::After(1), Stop::After(5), Stop::AfterServerHello] {
        stopped.push(stop.here(&door, &hello).await);
    }
    let mut drips = TcpStream::connect(door.address()).await.unwrap();
    let dripping = async {
        for byte in &hello {
            if drips.write_u8(*byte).await.is_err() {
                return;
            }
            // Faster than any time limit on a single read.
            tokio::time::sleep(LIMIT / 20).await;
        }
    };
    tokio::time::timeout(PATIENCE, dripping).await.expect("it is not listened to for ever");
    for mut stream in stopped {
        // However it ends.
        let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await;
        let _how = end.expect("an end");
    }
    assert!(started.elapsed() >= LIMIT, "as long as it was promised");
    door.refused("handshake_timeout", 5.0).await;
    door.neighbour().await;
    door.empty().await;
    assert!(door.endings().is_empty(), "the app has seen none of it");
}
