//! The CA's policy and revocations act at all sidecars at once, and outlive the CA's absence.

use std::time::{Duration, Instant};

use postern_integration::apps::App;
use postern_integration::shop::{POLICY, POLICY_NOBODY};
use postern_integration::{Ca, CaOptions, Mesh, Sidecar, SidecarSpec, eventually};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// After a change, connections that are no longer allowed live at most so long.
const AT_ONCE: Duration = Duration::from_secs(1);

/// `orders` and `payments` without policy files.
struct Pair {
    payments: Sidecar,
    orders: Sidecar,
    ca: Ca,
    mesh: Mesh,
    _app: App,
}

impl Pair {
    async fn start(options: CaOptions) -> Self {
        let (mesh, app) = (Mesh::default(), App::echo().await);
        let ca = mesh.ca(options).await;
        let payments = mesh.sidecar(&ca, &SidecarSpec::new("payments").inbound("api", app.address));
        let orders =
            mesh.sidecar(&ca, &SidecarSpec::new("orders").outbound("payments", payments.inbounds[0]));
        let pair = Self { payments, orders, ca, mesh, _app: app };
        let applied = pair.apply(POLICY);
        assert!(applied.contains("version 1 is in force"), "{applied}");
        for sidecar in [&pair.payments, &pair.orders] {
            sidecar.ready().await;
        }
        pair.all_run(1).await;
        pair
    }

    fn apply(&self, policy: &str) -> String {
        let file = self.mesh.write("policy.toml", policy);
        self.ca.run(&["policy", "apply", file.to_str().unwrap(), "--author", "ann"])
    }

    async fn all_run(&self, version: u64) {
        eventually("all sidecars run the version", async || {
            let status = self.ca.ask(&["policy", "status", "--format", "json"]);
            let status: Value = serde_json::from_slice(&status.stdout).unwrap();
            (status["policy"]["version"] == version && status["running"] == 2).then_some(())
        })
        .await;
    }

    async fn live(&self) -> TcpStream {
        eventually("a connection that is served", async || {
            let mut stream = TcpStream::connect(self.orders.outbounds[0]).await.ok()?;
            echo(&mut stream).await.ok().map(|()| stream)
        })
        .await
    }

    async fn assert_refused(&self) {
        let asked = async {
            let mut stream = TcpStream::connect(self.orders.outbounds[0]).await?;
            echo(&mut stream).await
        };
        assert!(asked.await.is_err(), "nobody may call now");
    }
}

async fn echo(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"x").await?;
    stream.read_exact(&mut [0; 1]).await.map(|_| ())
}

/// Waits until the connection is cut, which it must be soon after `since`.
async fn cut(mut stream: TcpStream, since: Instant) {
    let end =
        tokio::time::timeout(Duration::from_secs(20), stream.read(&mut [0; 1])).await.expect("it is cut");
    assert!(end.is_err(), "cut means reset, not a clean end: {end:?}");
    assert!(since.elapsed() < AT_ONCE, "{:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_applied_is_acknowledged_by_all_and_cuts_what_it_no_longer_allows() {
    let pair = Pair::start(CaOptions::default()).await;
    let stream = pair.live().await;
    let file = pair.mesh.write("policy.toml", POLICY_NOBODY);
    let applying = Instant::now();
    let said = pair.ca.run(&["policy", "apply", file.to_str().unwrap(), "--author", "ann"]);
    assert!(said.contains("2 of 2 sidecars run it"), "{said}");
    cut(stream, applying).await;
    pair.assert_refused().await;
    pair.ca.run(&["policy", "rollback", "1", "--author", "ann"]);
    pair.live().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_good_policy_outlives_the_ca_and_a_restart_of_the_sidecar() {
    let mut pair = Pair::start(CaOptions::default()).await;
    let mut stream = pair.live().await;
    pair.ca.stop().await;
    echo(&mut stream).await.unwrap();
    // Nobody waits for it to drain.
    drop(stream);
    pair.payments.program.signal("TERM");
    assert!(pair.payments.program.exit().await.success());
    pair.payments.restart();
    pair.payments.ready().await;
    pair.live().await;
    pair.ca.restart().await;
    pair.all_run(1).await;
    let said = pair.apply(POLICY_NOBODY);
    assert!(said.contains("2 of 2 sidecars run it"), "{said}");
    pair.assert_refused().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_identity_is_cut_at_its_peers_and_renews_nothing_until_it_is_restored() {
    let pair = Pair::start(CaOptions { svid_ttl: "20s", ..CaOptions::default() }).await;
    let stream = pair.live().await;
    let revoking = Instant::now();
    pair.ca.run(&["identity", "revoke", "orders", "--reason", "laptop stolen", "--author", "ann"]);
    cut(stream, revoking).await;
    pair.assert_refused().await;
    pair.orders.program.line_with(&["not subscribed", "laptop stolen"]).await;
    eventually("a renewal that is refused", async || {
        let identity = pair.orders.status().await["identity"].clone();
        let reason = identity["last_error"]["reason"].as_str()?.to_owned();
        reason.contains("laptop stolen").then_some(())
    })
    .await;
    pair.ca.run(&["identity", "restore", "orders", "--author", "ann"]);
    pair.live().await;
    pair.all_run(1).await;
}
