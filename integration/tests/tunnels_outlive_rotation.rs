//! One TCP connection stays open through many rotations of both sides' ten-second certificates, with bytes flowing both
//! ways, and at each moment each side has seen a certificate of the other that holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postern_integration::shop::Shop;
use postern_integration::{CaOptions, PATIENCE, Sidecar};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// Of each side; `POSTERN_ROTATIONS=100` makes it what is promised.
const ROTATIONS: u64 = 6;
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);
/// A prime, so that no buffer's size hides a mix-up.
const PATTERN_BYTES: u64 = 251;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_outlives_rotations_of_both_sides_and_is_vouched_for_all_the_time() {
    let wanted = std::env::var("POSTERN_ROTATIONS").map_or(ROTATIONS, |number| number.parse().unwrap());
    let shop = Shop::start(CaOptions { svid_ttl: "10s", ..CaOptions::default() }).await;
    let (read, write) = TcpStream::connect(shop.orders_to_payments()).await.unwrap().into_split();
    let enough = Arc::<AtomicBool>::default();
    let said = tokio::spawn(say(write, enough.clone()));
    let heard = tokio::spawn(hear(read));

    let mut samples = 0;
    let (mut last, mut progress) = (0, tokio::time::Instant::now());
    loop {
        let rotations = rotations(&shop.orders).await.min(rotations(&shop.payments).await);
        if rotations >= wanted {
            break;
        }
        if rotations > last {
            (last, progress) = (rotations, tokio::time::Instant::now());
        }
        assert!(progress.elapsed() < PATIENCE, "no rotation after {last}");
        assert!(!heard.is_finished(), "dropped after {last} rotations: {:?}", heard.await);
        for sidecar in [&shop.orders, &shop.payments] {
            samples += usize::from(is_vouched_for(sidecar).await);
        }
        // Time itself is what is tested.
        tokio::time::sleep(SAMPLE_INTERVAL).await;
    }
    enough.store(true, Ordering::Relaxed);
    let (said, heard) = (said.await.unwrap(), heard.await.unwrap());
    assert_eq!(said, heard, "everything that was said has come back");
    let again = "postern_tunnel_reauthentications_total";
    for sidecar in [&shop.orders, &shop.payments] {
        let proofs = sidecar.metric(again, &[]).await;
        assert!(proofs >= (wanted - 1) as f64, "{}: {proofs} proofs of {wanted} rotations", sidecar.name);
        assert_eq!(sidecar.program.lines_with(&["cut"]), 0, "{}", sidecar.program.output());
    }
    println!("{wanted} rotations of both sides, {heard} bytes each way, {samples} samples");
}

/// Whether the connection is in the register as a tunnel; if so, its peer's certificate must hold.
async fn is_vouched_for(sidecar: &Sidecar) -> bool {
    let (_, body) = sidecar.get("/connections").await.unwrap();
    let now = OffsetDateTime::now_utc();
    let live: Value = serde_json::from_str(&body).unwrap();
    let tunnels: Vec<_> =
        live["connections"].as_array().unwrap().iter().filter(|one| one["tunnel"] == true).collect();
    for tunnel in &tunnels {
        let until = OffsetDateTime::parse(tunnel["peer_not_after"].as_str().unwrap(), &Rfc3339).unwrap();
        assert!(until > now, "{} holds on to a peer whose certificate ended: {tunnel}", sidecar.name);
    }
    !tunnels.is_empty()
}

async fn rotations(sidecar: &Sidecar) -> u64 {
    sidecar.status().await["identity"]["rotations"].as_u64().unwrap()
}

/// Says the pattern, in pieces of all sizes, until it is enough; returns how many bytes.
async fn say(mut write: OwnedWriteHalf, enough: Arc<AtomicBool>) -> u64 {
    let mut said: u64 = 0;
    while !enough.load(Ordering::Relaxed) {
        let end = said + 1 + said % 4_999;
        let piece: Vec<u8> = (said..end).map(|at| (at % PATTERN_BYTES) as u8).collect();
        write.write_all(&piece).await.unwrap();
        said = end;
        // A breath leaves the machine to the programs under test.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    write.shutdown().await.unwrap();
    said
}

/// Hears the pattern until its clean end; returns how many bytes.
async fn hear(mut read: OwnedReadHalf) -> u64 {
    let (mut heard, mut buffer) = (0, vec![0; 16 * 1024]);
    loop {
        let count = read.read(&mut buffer).await.unwrap();
        if count == 0 {
            return heard;
        }
        for byte in &buffer[..count] {
            assert_eq!(u64::from(*byte), heard % PATTERN_BYTES, "at byte {heard}");
            heard += 1;
        }
    }
}
