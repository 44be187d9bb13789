//! A called sidecar that dies or drains leaves stale tunnels in its caller's pool, and no connection of the app notices.

use std::net::SocketAddr;
use std::sync::Arc;

use postern_integration::apps::App;
use postern_integration::load::{Load, Style};
use postern_integration::shop::{POLICY, Shop};
use postern_integration::{CaOptions, Mesh, SidecarSpec, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

/// At a time, so that as many tunnels are kept afterwards.
const CONNECTIONS: usize = 32;

/// Opens all before one ends; says what went wrong.
async fn all_at_once(shop: &Shop) -> Vec<String> {
    let mut tasks = JoinSet::new();
    let all_open = Arc::new(Barrier::new(CONNECTIONS));
    for number in 0..CONNECTIONS {
        let (address, all_open) = (shop.orders_to_payments(), all_open.clone());
        tasks.spawn(async move {
            let asked = echo(address, format!("connection {number}"), all_open);
            asked.await.err().map(|error| format!("{number}: {error}"))
        });
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

async fn echo(address: SocketAddr, word: String, all_open: Arc<Barrier>) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(word.as_bytes()).await?;
    let mut heard = vec![0; word.len()];
    let first = stream.read_exact(&mut heard).await.map(|_| ());
    all_open.wait().await;
    first?;
    stream.shutdown().await?;
    stream.read_to_end(&mut heard).await?;
    assert_eq!(heard, word.as_bytes());
    Ok(())
}

/// Waits until the last connection is over at the caller, so that its tunnel is kept.
async fn all_over(shop: &Shop) {
    eventually("all connections are over", async || {
        (shop.orders.status().await["connections"]["live"] == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_called_side_that_was_killed_leaves_a_pool_that_fails_nobody() {
    let mut shop = Shop::start(CaOptions::default()).await;
    for round in 0..3 {
        assert_eq!(all_at_once(&shop).await, Vec::<String>::new(), "round {round}, before");
        all_over(&shop).await;
        shop.payments.program.kill().await;
        shop.payments.restart();
        shop.payments.ready().await;
        assert_eq!(all_at_once(&shop).await, Vec::<String>::new(), "round {round}, after");
        all_over(&shop).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_called_side_that_drains_sends_new_connections_elsewhere() {
    let (mesh, app) = (Mesh::default(), App::echo().await);
    let ca = mesh.ca(CaOptions::default()).await;
    let policy = mesh.write("policy.toml", POLICY);
    let spec = |name| SidecarSpec::new(name).policy(&policy);
    let mut leaving = mesh.sidecar(&ca, &spec("payments").inbound("api", app.address));
    let staying = mesh.sidecar(&ca, &spec("payments").second().inbound("api", app.address));
    let both = [leaving.inbounds[0], staying.inbounds[0]];
    let orders = mesh.sidecar(&ca, &spec("orders").outbound_to_all("payments", &both));
    for sidecar in [&leaving, &staying, &orders] {
        sidecar.ready().await;
    }
    let load = Load::start(orders.outbounds[0], Style::FreshConnections, 16);
    let served = async |count: u64| {
        eventually("more requests served", async || (load.served() >= count).then_some(())).await;
    };
    served(500).await;
    let inbound = ["direction=\"inbound\""];
    assert!(leaving.metric("postern_connections_total", &inbound).await > 0.0, "it had its share");
    leaving.program.signal("TERM");
    assert!(leaving.program.exit().await.success(), "{}", leaving.program.output());
    served(load.served() + 500).await;
    let outcome = load.stop().await;
    assert_eq!(outcome.failures, Vec::<String>::new(), "of {} requests", outcome.served);
}
