//! Lease after lease through a pair of sidecars, and what that leaves behind in them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::Sidecar;
use crate::shop::Shop;

/// What a sidecar holds between two rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    pub resident_kib: u64,
    pub descriptors: usize,
}

impl Held {
    fn of(sidecar: &Sidecar) -> Self {
        let listed = std::fs::read_dir(format!("/proc/{}/fd", sidecar.program.pid())).unwrap();
        Self { resident_kib: sidecar.program.resident_kib(), descriptors: listed.count() }
    }
}

/// One round of it.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    pub leases: u64,
    pub took: Duration,
    pub orders: Held,
    pub payments: Held,
}

/// Runs `clients` at a time for as long as a round lasts, then looks at both sidecars. A connection that fails, or
/// hears anything but what it said, ends it all.
pub async fn round(shop: &Shop, clients: u64, lasts: Duration) -> Round {
    let (leases, started) = (Arc::<AtomicU64>::default(), Instant::now());
    let mut running = JoinSet::new();
    for client in 0..clients {
        let (to, leases) = (shop.orders_to_payments(), leases.clone());
        running.spawn(async move {
            while started.elapsed() < lasts {
                let number = leases.fetch_add(1, Ordering::Relaxed);
                connection(to, &word(client, number)).await.unwrap();
            }
        });
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
    let (orders, payments) = (Held::of(&shop.orders), Held::of(&shop.payments));
    Round { leases: leases.load(Ordering::Relaxed), took: started.elapsed(), orders, payments }
}

/// No two connections say the same.
fn word(client: u64, number: u64) -> Vec<u8> {
    format!("{client}/{number};").repeat(1 + number as usize % 40).into_bytes()
}

async fn connection(to: SocketAddr, word: &[u8]) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    stream.write_all(word).await?;
    stream.shutdown().await?;
    let mut heard = Vec::with_capacity(word.len());
    stream.read_to_end(&mut heard).await?;
    assert_eq!(heard, word, "somebody else's bytes");
    Ok(())
}

/// What the last rounds hold more than the first, once `warm` rounds are over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Growth {
    pub resident_kib: u64,
    pub descriptors: usize,
}

/// Of one of the sidecars. A dip in the middle is no growth, and a peak at the end is.
pub fn growth(rounds: &[Round], warm: usize, of: impl Fn(&Round) -> Held) -> Growth {
    let held: Vec<Held> = rounds.iter().skip(warm.saturating_sub(1)).map(of).collect();
    let (Some(first), Some(last)) = (held.first(), held.last()) else {
        return Growth { resident_kib: 0, descriptors: 0 };
    };
    Growth {
        resident_kib: last.resident_kib.saturating_sub(first.resident_kib),
        descriptors: last.descriptors.saturating_sub(first.descriptors),
    }
}
