//! No file descriptors are left (case 57): who has some keeps them, what is too much is refused and told, admin and
//! rotation go on, nothing runs hot, and it is over when its cause is.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use postern_integration::apps::App;
use postern_integration::load::{Load, Style};
use postern_integration::shop::{POLICY, Shop};
use postern_integration::{CaOptions, Program, Sidecar, eventually, sidecar_binary, tls};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// As many as the sidecar under test may have.
const DESCRIPTORS: u64 = 256;
const FLOOD: usize = 600;

/// A shop whose certificates rotate every ten seconds, and are valid as long again. `reports` may call, too.
async fn shop() -> Shop {
    let all = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: all, maximum: all }).unwrap();
    let options = CaOptions { svid_ttl: "20s", ..CaOptions::default() };
    let policy = POLICY.replace("from = [\"orders\"]", "from = [\"orders\", \"reports\"]");
    Shop::start_as(options, App::echo().await, &policy, |spec| spec).await
}

/// Starts it again with few descriptors, soft and hard.
async fn starve(sidecar: &mut Sidecar) {
    sidecar.program.signal("TERM");
    sidecar.program.signal("TERM");
    sidecar.program.exit().await;
    let mut limited = tokio::process::Command::new("sh");
    limited.args(["-c", &format!("ulimit -n {DESCRIPTORS} && exec \"$0\" \"$@\"")]).arg(sidecar_binary());
    limited.args(["run".as_ref(), "--config".as_ref(), sidecar.config.as_os_str()]);
    sidecar.program = Program::start_command(&sidecar.name, limited);
    sidecar.ready().await;
}

fn rotations(status: &serde_json::Value) -> u64 {
    status["identity"]["rotations"].as_u64().unwrap()
}

/// Whether it rotates, answers and is ready meanwhile.
async fn lives_on(sidecar: &Sidecar) {
    let before = rotations(&sidecar.status().await);
    eventually("two more rotations", async || {
        let status = sidecar.status().await;
        let (code, body) = sidecar.get("/ready").await.unwrap();
        assert_eq!(code, 200, "{body}");
        (rotations(&status) >= before + 2).then_some(())
    })
    .await;
}

/// Whether each descriptor that a connection of an app may have is taken.
fn only_reserve_is_left(program: &Program) -> Option<()> {
    let is_open = |number| Path::new(&format!("/proc/{}/fd/{number}", program.pid())).is_symlink();
    (0..DESCRIPTORS / 2).all(is_open).then_some(())
}

/// Processor time so far.
fn cpu(program: &Program) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", program.pid())).unwrap();
    // proc(5): utime and stime are the fields 14 and 15, in ticks of 10 ms; the name in field 2 may hold anything.
    let fields = stat.rsplit(')').next().unwrap().split_whitespace().skip(11).take(2);
    Duration::from_millis(10 * fields.map(|ticks| ticks.parse::<u64>().unwrap()).sum::<u64>())
}

/// For two seconds it does next to nothing.
async fn rests(program: &Program) {
    let before = cpu(program);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let spent = cpu(program) - before;
    assert!(spent < Duration::from_millis(500), "{spent:?} in two seconds");
}

async fn serves(address: SocketAddr) {
    let load = Load::start(address, Style::FreshConnections, 2);
    eventually("some are served", async || (load.served() >= 20).then_some(())).await;
    assert_eq!(load.stop().await.failures, Vec::<String>::new());
}

/// Connections that say nothing, and come again as soon as they are dropped.
fn strangers(to: SocketAddr) -> JoinSet<()> {
    let mut flood = JoinSet::new();
    for _ in 0..40 {
        flood.spawn(async move {
            loop {
                if let Ok(mut stream) = TcpStream::connect(to).await {
                    let _dropped = stream.read(&mut [0; 1]).await;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
    }
    flood
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_strangers_and_of_one_identity_leaves_descriptors_to_others() {
    let mut shop = shop().await;
    starve(&mut shop.payments).await;
    shop.payments.program.line_with(&["lowered, to leave others file descriptors"]).await;
    shop.payments.program.line_with(&["few file descriptors", "connections_max"]).await;
    let kept = Load::start(shop.orders_to_payments(), Style::KeptConnections, 4);
    let flood = strangers(shop.payments_inbound());
    let greedy = tls::enrol(&shop.ca, "reports").await;
    let (bundles, mut idle) = (shop.ca.bundles(), Vec::new());
    for _ in 0..100 {
        idle.push(tls::connect(shop.payments_inbound(), Some(&greedy), bundles.clone()).await);
    }
    let refused = async || {
        let labels = ["reason=\"connections_per_peer_max\"", "reports"];
        shop.payments.metric("postern_refusals_total", &labels).await
    };
    eventually("it may not have all", async || (refused().await > 10.0).then_some(())).await;
    lives_on(&shop.payments).await;
    let in_use = shop.payments.metric("process_open_fds", &[]).await;
    let limit = shop.payments.metric("process_max_fds", &[]).await;
    assert!(limit == DESCRIPTORS as f64 && in_use < limit / 2.0, "{in_use} of {limit}");
    let before = kept.served();
    eventually("orders is served", async || (kept.served() > before + 100).then_some(())).await;
    drop((flood, idle));
    let kept = kept.stop().await;
    assert_eq!(kept.failures, Vec::<String>::new(), "of {} requests", kept.served);
    serves(shop.orders_to_payments()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_takes_all_descriptors_leaves_the_reserve_and_comes_back() {
    let mut shop = shop().await;
    starve(&mut shop.orders).await;
    let kept = Load::start(shop.orders_to_payments(), Style::KeptConnections, 2);
    eventually("two are served", async || (kept.served() > 10).then_some(())).await;
    let mut flood = Vec::new();
    for _ in 0..FLOOD {
        match TcpStream::connect(shop.orders_to_payments()).await {
            Ok(stream) => flood.push(stream),
            // It may be refused before it is known to have begun.
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }
    let refused = async || shop.orders.metric("postern_refusals_total", &["reason=\"descriptors\""]).await;
    eventually("most are refused", async || (refused().await > FLOOD as f64 / 2.0).then_some(())).await;
    shop.orders.program.line_with(&["refused", "file descriptor is left", "descriptors"]).await;
    // A dial that fails leaves a descriptor that may be used. The admin endpoint's connections take it.
    let askers = strangers(shop.orders.admin);
    eventually("the reserve is all that is left", async || only_reserve_is_left(&shop.orders.program)).await;
    lives_on(&shop.orders).await;
    for event in ["no fresh identity", "not subscribed at the CA"] {
        let failed = shop.orders.program.lines_with(&[event, "file descriptor"]);
        assert_eq!(failed, 0, "{event}: {}", shop.orders.program.output());
    }
    rests(&shop.orders.program).await;
    let kept = kept.stop().await;
    assert_eq!(kept.failures, Vec::<String>::new(), "of {} requests", kept.served);
    drop((flood, askers));
    let start = Instant::now();
    eventually("its descriptors are back", async || {
        (shop.orders.metric("process_open_fds", &[]).await < DESCRIPTORS as f64 / 4.0).then_some(())
    })
    .await;
    serves(shop.orders_to_payments()).await;
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accept_that_fails_is_tried_again_without_haste_until_it_succeeds() {
    let shop = shop().await;
    let kept = Load::start(shop.orders_to_payments(), Style::KeptConnections, 2);
    eventually("two are served", async || (kept.served() > 10).then_some(())).await;
    let pid = Pid::from_raw(i32::try_from(shop.orders.program.pid()).unwrap());
    let few = Rlimit { current: Some(3), maximum: getrlimit(Resource::Nofile).maximum };
    let before = prlimit(pid, Resource::Nofile, few).unwrap();
    let waiting = TcpStream::connect(shop.orders_to_payments()).await.unwrap();
    shop.orders.program.line_with(&["cannot accept", "Too many open files"]).await;
    rests(&shop.orders.program).await;
    prlimit(pid, Resource::Nofile, before).unwrap();
    shop.orders.program.line_with(&["accepting again"]).await;
    drop(waiting);
    serves(shop.orders_to_payments()).await;
    let kept = kept.stop().await;
    assert_eq!(kept.failures, Vec::<String>::new(), "of {} requests", kept.served);
}
