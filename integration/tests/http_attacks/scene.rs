//! The place of an attack: a shop, an attacker with an SVID of `orders`, and `reports`, whose requests go on meanwhile.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use postern_integration::frames::{self, Ears, Mouth};
use postern_integration::shop::Shop;
use postern_integration::{CaOptions, eventually, tls, web};
use postern_proto::identity::{Svid, TrustBundles};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// What the sidecar may hold for each byte that an attacker sends.
const GROWTH_PER_BYTE_MAX: u64 = 100;
/// What pages, arenas and threads of the allocator cost whoever comes first; measured with honest requests alone.
const NOISE_KIB: u64 = 4 * 1024;
/// Requests before anything is measured.
const WARM_UP: usize = 200;
/// The neighbour's requests that an attack is held against, at the least.
const MEANWHILE: usize = 50;

pub struct Scene {
    pub shop: Shop,
    attacker: Svid,
    bundles: Arc<TrustBundles>,
    sent: Arc<AtomicU64>,
    before_kib: u64,
    neighbour: JoinHandle<Vec<Duration>>,
    served: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Scene {
    pub async fn new() -> Self {
        Self::with("").await
    }

    /// With more lines in every `sidecar.toml`.
    pub async fn with(extra: &str) -> Self {
        let shop = Shop::start_http(CaOptions::default(), web::app().await, extra).await;
        let attacker = tls::enrol(&shop.ca, "orders").await;
        let (served, over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let neighbour = tokio::spawn(ask_until(shop.reports_to_payments(), served.clone(), over.clone()));
        let scene = Self {
            bundles: shop.ca.bundles(),
            attacker,
            sent: Arc::default(),
            before_kib: 0,
            neighbour,
            served,
            over,
            shop,
        };
        scene.served_more(WARM_UP).await;
        Self { before_kib: scene.shop.payments.program.resident_kib(), ..scene }
    }

    /// Another connection of the attacker.
    pub async fn attack(&self, settings: &[(u16, u32)]) -> (Mouth, Ears) {
        let to = self.shop.payments_inbound();
        frames::connect(to, &self.attacker, self.bundles.clone(), &self.sent, settings).await.unwrap()
    }

    /// Waits until the neighbour was served so many times more.
    pub async fn served_more(&self, count: usize) {
        let until = self.served.load(Ordering::Relaxed) + count as u64;
        eventually("the neighbour is served", async || {
            assert!(!self.neighbour.is_finished(), "the neighbour was not served");
            (self.served.load(Ordering::Relaxed) >= until).then_some(())
        })
        .await;
    }

    /// Says what the attack came to, and that it was bounded and hurt nobody else.
    pub async fn judge(self, attack: &str) {
        self.served_more(MEANWHILE).await;
        self.over.store(true, Ordering::Relaxed);
        let mut times = self.neighbour.await.expect("every request of the neighbour is served");
        times.sort_unstable();
        let p99 = times[times.len() * 99 / 100];
        let (sent, program) = (self.sent.load(Ordering::Relaxed), &self.shop.payments.program);
        let grown = program.resident_most_kib().saturating_sub(self.before_kib);
        let ratio = grown as f64 * 1024.0 / sent as f64;
        println!(
            "{attack}: {sent} bytes sent, {grown} KiB grown ({ratio:.1} for each byte), neighbour {} served, p99 {p99:?}",
            times.len()
        );
        let allowed = NOISE_KIB + sent * GROWTH_PER_BYTE_MAX / 1024;
        assert!(grown <= allowed, "{attack}: {grown} KiB for {sent} bytes, more than {allowed}");
    }
}

/// Asks again and again on one connection, and returns how long each request took; anything but a 200 is a panic.
async fn ask_until(to: SocketAddr, served: Arc<AtomicU64>, over: Arc<AtomicBool>) -> Vec<Duration> {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut times = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let began = Instant::now();
        stream.write_all(b"GET /charges/7 HTTP/1.1\r\nhost: payments\r\n\r\n").await.unwrap();
        let answer = one_answer(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        times.push(began.elapsed());
        served.fetch_add(1, Ordering::Relaxed);
        // A breath between requests leaves the machine to the programs under test.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    times
}

async fn one_answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    loop {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "closed after {answer:?}");
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() >= length.unwrap().parse().unwrap() {
            return text.into_owned();
        }
    }
}
