//! Policy, revocations and certificates change while new connections come over pooled tunnels, 32 at a time: none is
//! served after a change that forbids it was acknowledged, none that is allowed is refused, and no byte is wrong.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use postern_integration::apps::App;
use postern_integration::shop::{POLICY, POLICY_NOBODY};
use postern_integration::{Ca, CaOptions, Mesh, Sidecar, SidecarSpec, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const CONNECTIONS_AT_A_TIME: usize = 32;
const ROUNDS: usize = 4;
/// How long the load runs on in each state, so that tunnels are pooled and used again.
const IN_EACH_STATE: Duration = Duration::from_millis(1500);

/// `orders` and `payments`, whose policy comes from the CA, and certificates of ten seconds.
struct Pair {
    payments: Sidecar,
    orders: Sidecar,
    ca: Ca,
    mesh: Mesh,
    _app: App,
}

impl Pair {
    async fn start() -> Self {
        let (mesh, app) = (Mesh::default(), App::echo().await);
        let ca = mesh.ca(CaOptions { svid_ttl: "10s", ..CaOptions::default() }).await;
        let payments = mesh.sidecar(&ca, &SidecarSpec::new("payments").inbound("api", app.address));
        let orders =
            mesh.sidecar(&ca, &SidecarSpec::new("orders").outbound("payments", payments.inbounds[0]));
        let pair = Self { payments, orders, ca, mesh, _app: app };
        pair.ca.run(&["policy", "apply", pair.policy(POLICY).as_str(), "--author", "ann"]);
        for sidecar in [&pair.payments, &pair.orders] {
            sidecar.ready().await;
        }
        eventually("served", async || {
            matches!(once(pair.orders.outbounds[0], 0).await, Ok(Answer::Right)).then_some(())
        })
        .await;
        pair
    }

    fn policy(&self, text: &str) -> String {
        self.mesh.write("policy.toml", text).to_str().unwrap().to_owned()
    }

    /// Applies it, and returns when both sidecars have acknowledged it.
    fn apply(&self, text: &str) {
        let said = self.ca.run(&["policy", "apply", &self.policy(text), "--author", "ann"]);
        assert!(said.contains("2 of 2 sidecars run it"), "{said}");
    }

    fn revoke(&self) {
        self.ca.run(&["identity", "revoke", "orders", "--reason", "a drill", "--author", "ann"]);
    }

    fn restore(&self) {
        self.ca.run(&["identity", "restore", "orders", "--author", "ann"]);
    }
}

/// Waits until each knows of so many revoked identities.
async fn revoked(sidecars: &[&Sidecar], count: u64) {
    for sidecar in sidecars {
        eventually(&format!("{} knows of {count} revocations", sidecar.name), async || {
            (sidecar.status().await["revoked"] == count).then_some(())
        })
        .await;
    }
}

/// What came of one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Right,
    Wrong(String),
}

/// One connection with a request of its own, whose answer must be that.
async fn once(address: SocketAddr, number: u64) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("request {number} ").repeat(1 + (number % 97) as usize);
    stream.write_all(request.as_bytes()).await?;
    stream.shutdown().await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let is_right = answer == request.as_bytes();
    Ok(if is_right { Answer::Right } else { Answer::Wrong(String::from_utf8_lossy(&answer).into_owned()) })
}

/// One connection, from its beginning to its end.
#[derive(Debug)]
struct Tried {
    began: Instant,
    ended: Instant,
    answer: Result<Answer, String>,
}

/// New connections, so many at a time, until it is stopped.
struct Storm {
    stop: Arc<AtomicBool>,
    clients: JoinSet<Vec<Tried>>,
}

impl Storm {
    fn start(address: SocketAddr) -> Self {
        let (stop, number) = (Arc::<AtomicBool>::default(), Arc::new(AtomicU64::new(1)));
        let mut clients = JoinSet::new();
        for _ in 0..CONNECTIONS_AT_A_TIME {
            let (stop, number) = (stop.clone(), number.clone());
            clients.spawn(async move {
                let mut all = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let answer = once(address, number.fetch_add(1, Ordering::Relaxed)).await;
                    let answer = answer.map_err(|error| error.to_string());
                    all.push(Tried { began, ended: Instant::now(), answer });
                    // A breath leaves the machine to the programs under test.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                all
            });
        }
        Self { stop, clients }
    }

    async fn stop(self) -> Vec<Tried> {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.join_all().await.into_iter().flatten().collect()
    }
}

/// From when on, and until when, the connections of `orders` were surely allowed, or surely not.
#[derive(Debug)]
struct Period {
    acknowledged: Instant,
    changed: Instant,
    allowed: bool,
}

impl Period {
    /// Whether a connection lies within it as a whole.
    fn holds(&self, tried: &Tried) -> bool {
        tried.began >= self.acknowledged && tried.ended <= self.changed
    }
}

async fn stay(allowed: bool, periods: &mut Vec<Period>) {
    let acknowledged = Instant::now();
    // Time itself is what is tested: so long the state must hold.
    tokio::time::sleep(IN_EACH_STATE).await;
    periods.push(Period { acknowledged, changed: Instant::now(), allowed });
}

/// Says how many connections were judged.
fn judge(periods: &[Period], all: &[Tried]) -> [usize; 2] {
    let mut judged = [0, 0];
    for tried in all {
        assert!(!matches!(tried.answer, Ok(Answer::Wrong(_))), "wrong bytes: {tried:?}");
        let Some(period) = periods.iter().find(|period| period.holds(tried)) else { continue };
        judged[usize::from(period.allowed)] += 1;
        let served = tried.answer.is_ok();
        assert_eq!(served, period.allowed, "{tried:?} in {period:?}");
    }
    judged
}

async fn enough(pair: &Pair, periods: &[Period], all: &[Tried]) {
    let [refused, served] = judge(periods, all);
    let rotations = pair.orders.status().await["identity"]["rotations"].clone();
    println!(
        "{} connections, {served} had to be served, {refused} to be refused; {rotations} rotations",
        all.len()
    );
    assert!(served > 100 && refused > 100, "{served} served and {refused} refused: the load was real");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_flips_is_obeyed_by_every_connection_from_its_acknowledgement_on() {
    let pair = Pair::start().await;
    let storm = Storm::start(pair.orders.outbounds[0]);
    let mut periods = Vec::new();
    for _ in 0..ROUNDS {
        stay(true, &mut periods).await;
        tokio::task::block_in_place(|| pair.apply(POLICY_NOBODY));
        stay(false, &mut periods).await;
        tokio::task::block_in_place(|| pair.apply(POLICY));
    }
    enough(&pair, &periods, &storm.stop().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identity_that_is_revoked_and_restored_is_served_exactly_then() {
    let pair = Pair::start().await;
    let storm = Storm::start(pair.orders.outbounds[0]);
    let mut periods = Vec::new();
    for _ in 0..ROUNDS {
        stay(true, &mut periods).await;
        tokio::task::block_in_place(|| pair.revoke());
        revoked(&[&pair.payments], 1).await;
        stay(false, &mut periods).await;
        tokio::task::block_in_place(|| pair.restore());
        // Its own sidecar may have heard of it, too, before it lost its stream.
        revoked(&[&pair.payments, &pair.orders], 0).await;
    }
    enough(&pair, &periods, &storm.stop().await).await;
}
