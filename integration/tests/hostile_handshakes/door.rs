//! The sidecar under attack, an app behind it that remembers what reached it, and a neighbour who wants to be served
//! meanwhile.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postern_integration::apps::App;
use postern_integration::{Ca, CaOptions, Mesh, Sidecar, SidecarSpec, eventually, tls};
use postern_proto::identity::{Svid, TrustBundles};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Both may connect: what is refused here is refused for what it is.
const POLICY: &str = r#"trust_domain = "shop.example"
[service.payments]
ports = { api = "tcp", other = "tcp" }
[[service.payments.allow]]
from = ["orders", "reports"]
[service.orders]
[service.reports]
"#;

/// The same without the attacker.
pub const POLICY_WITHOUT_REPORTS: &str = r#"trust_domain = "shop.example"
[service.payments]
ports = { api = "tcp", other = "tcp" }
[[service.payments.allow]]
from = ["orders"]
[service.orders]
[service.reports]
"#;

/// The measure: a sidecar may hold so many times the bytes that it took.
const HELD_TIMES_MAX: u64 = 100;
/// What the allocator and a new thread's first use may add, whatever is sent.
const NOISE_KIB: u64 = 3 * 1024;
/// Whoever is attacked answers, or ends it, within this.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Requests of the neighbour after an attack, for what it left to have its effect.
const CALM: usize = 20;
const NEIGHBOUR: &[u8] = b"neighbour";

pub struct Door {
    pub payments: Sidecar,
    /// `reports`, an identity with a right to connect.
    pub attacker: Svid,
    pub bundles: Arc<TrustBundles>,
    pub ca: Ca,
    pub mesh: Mesh,
    endings: Arc<Mutex<Vec<Ending>>>,
    orders: Sidecar,
    _app: App,
}

/// How an attacker's connection ended at the app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// All that came.
    pub bytes: Vec<u8>,
    /// FIN; else it was a reset.
    pub clean: bool,
}

/// What was sent in an attack, and what is to be kept open until its effect is measured.
pub struct Sent<T> {
    pub bytes: u64,
    pub kept: T,
}

impl Door {
    pub async fn open() -> Self {
        Self::open_with("").await
    }

    /// With more lines in `payments`' configuration.
    pub async fn open_with(extra: &str) -> Self {
        Self::open_as(CaOptions::default(), extra).await
    }

    /// And with another CA.
    pub async fn open_as(options: CaOptions, extra: &str) -> Self {
        let endings = Arc::<Mutex<Vec<Ending>>>::default();
        let kept = endings.clone();
        let app = App::serve(move |stream| echo(stream, kept.clone())).await;
        let mesh = Mesh::default();
        let ca = mesh.ca(options).await;
        let policy = mesh.write("policy.toml", POLICY);
        let spec = |name| SidecarSpec::new(name).policy(&policy);
        let payments = spec("payments").inbound("api", app.address).inbound("other", app.address);
        let payments = mesh.sidecar(&ca, &payments.extra(extra));
        let orders = mesh.sidecar(&ca, &spec("orders").outbound("payments", payments.inbounds[0]));
        payments.ready().await;
        orders.ready().await;
        let attacker = tls::enrol(&ca, "reports").await;
        let door = Self { payments, attacker, bundles: ca.bundles(), ca, mesh, endings, orders, _app: app };
        // What a first connection makes the sidecar set up is no attack's doing.
        for _ in 0..CALM {
            door.neighbour().await;
        }
        door
    }

    pub fn address(&self) -> SocketAddr {
        self.payments.inbounds[0]
    }

    /// Attacks while the neighbour is served, and measures.
    pub async fn unharmed_by<T>(&self, attack: impl Future<Output = Sent<T>>) -> T {
        self.unharmed_within(0, attack).await
    }

    /// The same, where bounded places hold so many KiB whatever is sent.
    pub async fn unharmed_within<T>(&self, places_kib: u64, attack: impl Future<Output = Sent<T>>) -> T {
        let before = self.payments.program.resident_kib();
        let done = Cell::new(false);
        let attack = async {
            let sent = attack.await;
            done.set(true);
            sent
        };
        let neighbour = async {
            let (mut most, mut calm) = (before, 0);
            while calm < CALM {
                self.neighbour().await;
                most = most.max(self.payments.program.resident_kib());
                calm += usize::from(done.get());
            }
            most
        };
        // What is kept lives until both are over.
        let (Sent { bytes, kept }, most) = tokio::join!(attack, neighbour);
        let held = most - before;
        println!("{bytes} bytes sent, {held} KiB held");
        let allowed = NOISE_KIB + places_kib + bytes * HELD_TIMES_MAX / 1024;
        assert!(held <= allowed, "{held} KiB held for {bytes} bytes, {allowed} allowed");
        kept
    }

    /// One connection of the neighbour, through its own sidecar to the listener under attack, which must be served.
    pub async fn neighbour(&self) {
        let served = async {
            let mut stream = TcpStream::connect(self.orders.outbounds[0]).await.unwrap();
            stream.write_all(NEIGHBOUR).await.unwrap();
            let mut answer = [0; NEIGHBOUR.len()];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(answer, NEIGHBOUR);
        };
        tokio::time::timeout(PATIENCE, served).await.expect("the neighbour is served in time");
    }

    /// Says this without TLS, and returns the answer until the sidecar ends the connection.
    pub async fn knock(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address()).await.unwrap();
        // It may have heard enough before the end.
        let _refused = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        // Reset or end: either way it is over.
        let _how = ended.expect("the sidecar ends it");
        answer
    }

    /// How the attacker's connections have ended at the app so far.
    pub fn endings(&self) -> Vec<Ending> {
        self.endings.lock().unwrap().clone()
    }

    /// Waits until the app has seen so many of the attacker's connections end.
    pub async fn ended(&self, connections: usize) -> Vec<Ending> {
        eventually(&format!("{connections} ended at the app"), async || {
            let endings = self.endings();
            (endings.len() >= connections).then_some(endings)
        })
        .await
    }

    /// Waits until no connection is left.
    pub async fn empty(&self) {
        eventually("all connections are gone", async || {
            let live = self.payments.status().await["connections"]["live"].as_u64().unwrap();
            (live == 0).then_some(())
        })
        .await;
    }

    /// Waits until so many were refused for this reason, and told.
    pub async fn refused(&self, reason: &str, times: f64) {
        self.payments.program.line_with(&["refused", reason]).await;
        eventually(&format!("{times} refused for {reason}"), async || {
            let count = self.payments.metric("postern_refusals_total", &[reason]).await;
            (count >= times).then_some(())
        })
        .await;
    }
}

/// Sends back what comes. The neighbour's connections are not remembered.
async fn echo(mut stream: TcpStream, endings: Arc<Mutex<Vec<Ending>>>) -> std::io::Result<()> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 16 * 1024]);
    let clean = loop {
        match stream.read(&mut buffer).await {
            Ok(0) => break true,
            Ok(read) => {
                bytes.extend_from_slice(&buffer[..read]);
                if stream.write_all(&buffer[..read]).await.is_err() {
                    break false;
                }
            }
            Err(_) => break false,
        }
    };
    if !bytes.starts_with(NEIGHBOUR) {
        endings.lock().unwrap().push(Ending { bytes, clean });
    }
    Ok(())
}
