//! The sidecar under attack, its app, and a neighbour who wants to be served meanwhile.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use postern_integration::{Ca, CaOptions, Mesh, Sidecar, SidecarSpec, apps, tls};
use postern_proto::identity::{Svid, TrustBundles};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Both may do anything: what is refused here is refused for what it is.
const POLICY: &str = r#"trust_domain = "shop.example"
[service.payments]
ports = { api = "http" }
[[service.payments.allow]]
from = ["orders", "reports"]
[service.orders]
[service.reports]
"#;

/// The measure: a sidecar may hold so many times the bytes that it took.
const HELD_TIMES_MAX: u64 = 100;
/// A request that the app answers has a connection to it, whose buffers do not depend on how few bytes asked for it; so
/// many KiB at most, in an unoptimised build. `streams_max` bounds how many there are.
const HELD_STREAM_KIB: u64 = 96;
/// What the allocator and a new thread's first use may add, whatever is sent.
const NOISE_KIB: u64 = 2 * 1024;
/// An attack is left after this, whatever it has achieved.
const PATIENCE: Duration = Duration::from_secs(10);
/// Requests of the neighbour during which nothing more is held: what was sent has had its effect.
const CALM: usize = 50;
/// What a client's handshake sends, certificates included; at least.
const HANDSHAKE_BYTES: u64 = 2_500;

/// What is sent, on how many connections.
pub struct Attack {
    pub name: &'static str,
    pub first: Vec<u8>,
    pub again: &'static (dyn Fn(u32) -> Vec<u8> + Sync),
    pub turns: u32,
    pub connections: usize,
    pub hold: Hold,
    /// Requests that are answered and cannot be sent back, on all connections.
    pub streams: u64,
}

/// What the attacker does with answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Reads them all.
    Read,
    /// Reads none, and keeps the connection.
    Open,
}

/// What an attack cost.
pub struct Cost {
    name: &'static str,
    streams: u64,
    sent: u64,
    held_kib: u64,
    /// Sorted.
    neighbour: Vec<Duration>,
}

impl Cost {
    pub fn is_too_much(&self) -> bool {
        self.held_kib > NOISE_KIB + self.sent * HELD_TIMES_MAX / 1024 + self.streams * HELD_STREAM_KIB
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, sent, held_kib, neighbour, .. } = self;
        let times = *held_kib as f64 * 1024.0 / *sent as f64;
        let p99 = neighbour[neighbour.len() * 99 / 100];
        let served = neighbour.len();
        write!(
            f,
            "{name}: {sent} bytes sent, {held_kib} KiB held ({times:.1} times); neighbour: {served} served, p99 {p99:?}"
        )
    }
}

pub struct Door {
    pub app: App,
    payments: Sidecar,
    reports: Sidecar,
    orders: Svid,
    bundles: Arc<TrustBundles>,
    _ca: Ca,
    _mesh: Mesh,
}

impl Door {
    pub async fn open() -> Self {
        let app = App::start().await;
        let address = app.address;
        Self::before(app, address, "").await
    }

    /// With other bounds.
    pub async fn open_with(extra: &str) -> Self {
        let app = App::start().await;
        let address = app.address;
        Self::before(app, address, extra).await
    }

    /// Before another app than its own, which is not asked.
    pub async fn before_another(app: &apps::App) -> Self {
        Self::before(App::start().await, app.address, "").await
    }

    async fn before(app: App, address: SocketAddr, extra: &str) -> Self {
        let mesh = Mesh::default();
        let ca = mesh.ca(CaOptions::default()).await;
        let policy = mesh.write("policy.toml", POLICY);
        let spec = |name| SidecarSpec::new(name).policy(&policy).http();
        let payments = mesh.sidecar(&ca, &spec("payments").inbound("api", address).extra(extra));
        let reports = mesh.sidecar(&ca, &spec("reports").outbound("payments", payments.inbounds[0]));
        payments.ready().await;
        reports.ready().await;
        let orders = tls::enrol(&ca, "orders").await;
        let door = Self { app, payments, reports, orders, bundles: ca.bundles(), _ca: ca, _mesh: mesh };
        // What a first request makes the sidecar set up is no attack's doing.
        for _ in 0..200 {
            door.neighbour().await;
        }
        door
    }

    /// Says these bytes over HTTP/2, and reads until the sidecar has answered or closed.
    pub async fn say(&self, bytes: &[u8]) {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        stream.flush().await.unwrap();
        // A ping's answer comes after whatever the request led to was decided.
        let _closed = stream.write_all(&super::frames::frame(super::frames::PING, 0, 0, &[7; 8])).await;
        let mut answer = Vec::new();
        let answered = async {
            while !answer.windows(8).any(|eight| eight == [7; 8]) {
                if stream.read_buf(&mut answer).await.unwrap_or(0) == 0 {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, answered).await.expect("an answer or an end");
        // The app sees a request some time after it was let through: the neighbour's comes after it.
        self.neighbour().await;
    }

    async fn connect(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
        let (address, bundles) = (self.payments.inbounds[0], self.bundles.clone());
        tls::connect_speaking(address, Some(&self.orders), bundles, &[b"h2"]).await.unwrap()
    }

    /// A number of `payments` own metrics.
    pub async fn metric(&self, name: &str, needles: &[&str]) -> f64 {
        self.payments.metric(name, needles).await
    }

    /// Attacks, while the neighbour is served.
    pub async fn attack(&self, attack: &Attack) -> Cost {
        let before = self.payments.program.resident_kib();
        let attackers = async {
            let mut streams = Vec::new();
            for _ in 0..attack.connections {
                streams.push(self.connect().await);
            }
            let mut tasks = JoinSet::new();
            for stream in streams {
                tasks.spawn(send(stream, attack.first.clone(), attack.again, attack.turns, attack.hold));
            }
            tasks.join_all().await
        };
        let (sent, most, neighbour) = self.served_during(attackers).await;
        // As long as `sent` lives, so do the connections.
        let held_kib = most.saturating_sub(before);
        let bytes = sent.iter().map(|(bytes, _)| bytes + HANDSHAKE_BYTES).sum();
        Cost { name: attack.name, streams: attack.streams, sent: bytes, held_kib, neighbour }
    }

    /// The work's result, the most that was held then and until it held no more for a while, in KiB, and how long each
    /// of the neighbour's requests took meanwhile.
    async fn served_during<T>(&self, work: impl Future<Output = T>) -> (T, u64, Vec<Duration>) {
        let mut work = std::pin::pin!(work);
        let (mut times, mut done, mut most, mut calm) = (Vec::new(), None, 0, 0);
        while done.is_none() || calm < CALM {
            tokio::select! {
                result = &mut work, if done.is_none() => done = Some(result),
                time = self.neighbour() => times.push(time),
            }
            let held = self.payments.program.resident_kib();
            calm = if held > most { 0 } else { calm + 1 };
            most = most.max(held);
        }
        times.sort();
        (done.unwrap(), most, times)
    }

    /// One request of the neighbour, which must be served.
    async fn neighbour(&self) -> Duration {
        let started = Instant::now();
        let mut stream = TcpStream::connect(self.reports.outbounds[0]).await.unwrap();
        stream.write_all(b"GET /neighbour HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer))
            .await
            .expect("served in time")
            .unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        started.elapsed()
    }
}

/// Sends until all is sent or the sidecar has had enough; returns how much, and the connection.
async fn send(
    stream: tokio_rustls::client::TlsStream<TcpStream>,
    first: Vec<u8>,
    again: &'static (dyn Fn(u32) -> Vec<u8> + Sync),
    turns: u32,
    hold: Hold,
) -> (u64, impl Sized) {
    let (mut read, mut write) = tokio::io::split(stream);
    let reader = (hold == Hold::Read).then(|| {
        tokio::spawn(async move {
            // The end, however it comes.
            let _ended = tokio::io::copy(&mut read, &mut tokio::io::sink()).await;
        })
    });
    let mut sent = 0;
    let sending = async {
        for bytes in std::iter::once(first).chain((0..turns).map(again)) {
            if write.write_all(&bytes).await.is_err() {
                return;
            }
            sent += bytes.len() as u64;
        }
        // The sidecar may have closed.
        let _closed = write.flush().await;
    };
    // A sidecar that does not read any more has had enough, too.
    let _stalled = tokio::time::timeout(PATIENCE, sending).await;
    (sent, (write, reader.map(aborted_at_end)))
}

/// Ends the reader with the connection.
fn aborted_at_end(reader: tokio::task::JoinHandle<()>) -> impl Sized {
    struct Ends(tokio::task::JoinHandle<()>);
    impl Drop for Ends {
        fn drop(&mut self) {
            self.0.abort();
        }
    }
    Ends(reader)
}

/// Answers `/big` with as much as is taken, reads nothing of `/stuck`, and keeps the heads of all it is asked.
pub struct App {
    pub address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl App {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, heads) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<String>>>::default());
        let mut tasks = JoinSet::new();
        let kept = heads.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let stream = listener.accept().await.unwrap().0;
                let kept = kept.clone();
                // What goes wrong with a connection is the sidecar's to see.
                connections.spawn(async move { drop(answer(stream, &kept).await) });
            }
        });
        Self { address, heads, _tasks: tasks }
    }

    /// The first lines of all requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

async fn answer(mut stream: TcpStream, heads: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        while !bytes.windows(4).any(|four| four == b"\r\n\r\n") {
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        }
        let head = String::from_utf8_lossy(&bytes).into_owned();
        heads.lock().unwrap().push(head.clone());
        bytes.clear();
        match head.split(' ').nth(1) {
            Some("/stuck") => std::future::pending().await,
            Some("/big") => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n").await?;
                loop {
                    stream.write_all(&[b'b'; 16 * 1024]).await?;
                }
            }
            _ => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?,
        }
    }
}
