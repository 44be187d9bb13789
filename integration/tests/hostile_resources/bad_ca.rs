//! A CA behind a network that garbles, breaks off or swallows what is said: traffic goes on while the certificate
//! lives, and everything recovers without a restart.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postern_integration::apps::App;
use postern_integration::load::{Load, Style};
use postern_integration::{Ca, CaOptions, Mesh, Sidecar, SidecarSpec, eventually};
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const POLICY: &str = r#"trust_domain = "shop.example"
[service.payments]
ports = { api = "tcp" }
[[service.payments.allow]]
from = ["orders"]
[service.orders]
"#;

/// What lies between the sidecars and their CA.
#[derive(Debug, Clone, Copy)]
enum Network {
    Good,
    /// Answers in the CA's place, with something.
    Garbles,
    /// Breaks off at once.
    Resets,
    /// Breaks off after so many bytes of the CA's answer: in its hello, or in its certificate.
    BreaksOffAfter(usize),
    /// Takes everything and never answers.
    Swallows,
}

struct Between {
    address: SocketAddr,
    network: Arc<Mutex<Network>>,
    _app: App,
}

impl Between {
    async fn before(ca: SocketAddr) -> Self {
        let network = Arc::new(Mutex::new(Network::Good));
        let now = network.clone();
        let app = App::serve(move |stream| {
            let network = *now.lock().unwrap();
            pass(stream, ca, network)
        })
        .await;
        Self { address: app.address, network, _app: app }
    }

    fn becomes(&self, network: Network) {
        *self.network.lock().unwrap() = network;
    }
}

async fn pass(mut near: TcpStream, ca: SocketAddr, network: Network) -> std::io::Result<()> {
    if !matches!(network, Network::Good) {
        SockRef::from(&near).set_linger(Some(Duration::ZERO))?;
    }
    match network {
        Network::Good => {
            let mut far = TcpStream::connect(ca).await?;
            tokio::io::copy_bidirectional(&mut near, &mut far).await.map(|_| ())
        }
        Network::Garbles => {
            near.read_u8().await?;
            near.write_all(&[0x5a; 10_000]).await
        }
        Network::Resets => Ok(()),
        Network::BreaksOffAfter(bytes) => {
            let mut far = TcpStream::connect(ca).await?;
            let (mut near_read, mut near_write) = near.split();
            let (far_read, mut far_write) = far.split();
            let mut some = far_read.take(bytes as u64);
            tokio::select! {
                ended = tokio::io::copy(&mut near_read, &mut far_write) => ended.map(|_| ()),
                ended = tokio::io::copy(&mut some, &mut near_write) => ended.map(|_| ()),
            }
        }
        Network::Swallows => tokio::io::copy(&mut near, &mut tokio::io::sink()).await.map(|_| ()),
    }
}

struct Cut {
    payments: Sidecar,
    orders: Sidecar,
    between: Between,
    _ca: Ca,
    _mesh: Mesh,
    _app: App,
}

impl Cut {
    async fn start(svid_ttl: &'static str) -> Self {
        let (mesh, app) = (Mesh::default(), App::echo().await);
        let mut ca = mesh.ca(CaOptions { svid_ttl, ..CaOptions::default() }).await;
        let between = Between::before(ca.address).await;
        ca.address = between.address;
        let policy = mesh.write("policy.toml", POLICY);
        let spec = |name| SidecarSpec::new(name).policy(&policy);
        let payments = mesh.sidecar(&ca, &spec("payments").inbound("api", app.address));
        let orders = mesh.sidecar(&ca, &spec("orders").outbound("payments", payments.inbounds[0]));
        payments.ready().await;
        orders.ready().await;
        Self { payments, orders, between, _ca: ca, _mesh: mesh, _app: app }
    }

    /// Waits until both have tried so often more in vain; the code of the last error of `orders`.
    async fn failed(&self, times: u64) -> String {
        let mut code = String::new();
        for sidecar in [&self.payments, &self.orders] {
            let failures = async || sidecar.status().await["identity"]["failures"].as_u64().unwrap();
            let before = failures().await;
            eventually("a renewal in vain", async || (failures().await >= before + times).then_some(()))
                .await;
            let error = sidecar.status().await["identity"]["last_error"]["code"].clone();
            code = error.as_str().unwrap().to_owned();
        }
        code
    }

    async fn rotated(&self) {
        for sidecar in [&self.payments, &self.orders] {
            eventually("a rotation without a restart", async || {
                let identity = sidecar.status().await["identity"].clone();
                (identity["rotations"] != 0 && identity["last_error"].is_null()).then_some(())
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ca_that_is_garbled_or_broken_off_fails_no_request() {
    let cut = Cut::start("20s").await;
    let load = Load::start(cut.orders.outbounds[0], Style::FreshConnections, 2);
    for network in
        [Network::Garbles, Network::Resets, Network::BreaksOffAfter(100), Network::BreaksOffAfter(2_000)]
    {
        cut.between.becomes(network);
        assert_eq!(cut.failed(1).await, "ca_unreachable", "{network:?}");
    }
    cut.between.becomes(Network::Good);
    cut.rotated().await;
    let outcome = load.stop().await;
    assert_eq!(outcome.failures, Vec::<String>::new(), "of {} requests", outcome.served);
    assert!(outcome.served > 100, "the load was real: {}", outcome.served);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ca_that_never_answers_is_waited_for_within_bounds_and_believed_again_when_it_does() {
    let cut = Cut::start("10s").await;
    cut.between.becomes(Network::Swallows);
    let reason = eventually("not ready for expiry", async || {
        let (status, body) = cut.orders.get("/ready").await.unwrap();
        (status == 503).then_some(body)
    })
    .await;
    assert!(reason.contains("expired"), "{reason}");
    assert_eq!(cut.failed(1).await, "ca_timeout");
    cut.between.becomes(Network::Good);
    cut.rotated().await;
    cut.payments.ready().await;
    cut.orders.ready().await;
    let mut stream = TcpStream::connect(cut.orders.outbounds[0]).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    stream.read_exact(&mut [0; 1]).await.unwrap();
}
