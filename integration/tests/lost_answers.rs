//! Answers of the CA that are lost on their way, after it has recorded the issuance: asked again, it answers again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use postern_integration::{Ca, CaOptions, Mesh, Sidecar, SidecarSpec, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A TLS record's first octet when it carries what is encrypted (RFC 8446 §5.1).
const APPLICATION_DATA: u8 = 23;

/// Stands before the CA. While it loses answers, nothing that the CA says after the handshake reaches the client, and
/// the connection is cut once the CA has recorded one more certificate.
struct Proxy {
    address: SocketAddr,
    loses: Arc<AtomicBool>,
    lost: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    async fn start(ca: &Ca) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (loses, lost) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let (to, store) = (ca.address, ca.data_dir.clone());
        let (loses_now, counts) = (loses.clone(), lost.clone());
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let Ok(server) = TcpStream::connect(to).await else { continue };
                let (loses, counts, store) = (loses_now.clone(), counts.clone(), store.clone());
                tokio::spawn(async move { carry(client, server, &loses, &counts, &store).await });
            }
        });
        Self { address, loses, lost, task }
    }

    async fn until_lost(&self, answers: usize) {
        let what = format!("{answers} answers lost");
        eventually(&what, async || (self.lost.load(Ordering::Relaxed) >= answers).then_some(())).await;
    }

    fn lose(&self, loses: bool) {
        self.loses.store(loses, Ordering::Relaxed);
    }
}

/// Carries one connection until either side ends, or the answer is lost.
async fn carry(
    mut client: TcpStream,
    mut server: TcpStream,
    loses: &AtomicBool,
    lost: &AtomicUsize,
    data_dir: &std::path::Path,
) {
    if !loses.load(Ordering::Relaxed) {
        let _ended = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        return;
    }
    let before = issued(data_dir).await;
    let (mut up, mut down) = (Records::default(), vec![0; 16 * 1024]);
    let (mut bytes, mut asked) = (vec![0; 16 * 1024], false);
    loop {
        tokio::select! {
            read = client.read(&mut bytes) => {
                let Ok(read @ 1..) = read else { return };
                // The client's first encrypted record ends the handshake; what the CA says then is its answer.
                asked |= up.pass(&bytes[..read]);
                if server.write_all(&bytes[..read]).await.is_err() {
                    return;
                }
            }
            read = server.read(&mut down), if !asked => {
                let Ok(read @ 1..) = read else { return };
                if client.write_all(&down[..read]).await.is_err() {
                    return;
                }
            }
            () = tokio::time::sleep(Duration::from_millis(50)), if asked => {
                if issued(data_dir).await > before {
                    lost.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            }
        }
    }
}

/// How many certificates are on record.
async fn issued(data_dir: &std::path::Path) -> usize {
    let mut command = tokio::process::Command::new(postern_integration::ca_binary());
    command.args(["cert", "list", "--format", "json", "--data-dir"]).arg(data_dir);
    let list: serde_json::Value =
        serde_json::from_slice(&command.output().await.unwrap().stdout).unwrap_or_default();
    list["certificates"].as_array().map_or(0, Vec::len)
}

/// Where in a stream of TLS records we are.
#[derive(Default)]
struct Records {
    head: Vec<u8>,
    left: usize,
}

impl Records {
    /// Whether a record of application data begins in these bytes.
    fn pass(&mut self, mut bytes: &[u8]) -> bool {
        let mut seen = false;
        while !bytes.is_empty() {
            if self.left > 0 {
                let skipped = self.left.min(bytes.len());
                (self.left, bytes) = (self.left - skipped, &bytes[skipped..]);
                continue;
            }
            self.head.push(bytes[0]);
            bytes = &bytes[1..];
            if let [kind, _, _, high, low] = self.head[..] {
                seen |= kind == APPLICATION_DATA;
                self.left = usize::from(u16::from_be_bytes([high, low]));
                self.head.clear();
            }
        }
        seen
    }
}

/// A sidecar that reaches the CA through the proxy, with a token of one use.
fn sidecar(mesh: &Mesh, ca: &Ca, proxy: &Proxy) -> Sidecar {
    let token = mesh.write("orders.token", &ca.token("orders"));
    let state = mesh.path().join("orders.state");
    let identity = format!(
        "ca = \"https://{}\"\njoin_token_file = \"{}\"\nstate_dir = \"{}\"\n",
        proxy.address,
        token.display(),
        state.display(),
    );
    mesh.sidecar_with(&identity, &SidecarSpec::new("orders"))
}

async fn until_rotated(sidecar: &Sidecar, such: impl Fn(&serde_json::Value) -> bool) {
    eventually("an identity in place", async || {
        let (_, body) = sidecar.get("/status").await.ok()?;
        let status: serde_json::Value = serde_json::from_str(&body).ok()?;
        such(&status["identity"]).then_some(())
    })
    .await;
}

async fn ended(sidecar: &mut Sidecar) {
    sidecar.program.signal("TERM");
    assert!(sidecar.program.exit().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_one_use_enrols_though_answers_are_lost_and_both_programs_start_again() {
    let mesh = Mesh::default();
    let mut ca = mesh.ca(CaOptions::default()).await;
    let proxy = Proxy::start(&ca).await;
    let mut sidecar = sidecar(&mesh, &ca, &proxy);
    proxy.until_lost(2).await;
    ended(&mut sidecar).await;
    sidecar.restart();
    proxy.until_lost(3).await;
    ca.stop().await;
    ca.restart().await;
    proxy.until_lost(4).await;
    proxy.lose(false);
    until_rotated(&sidecar, |identity| identity["id"] == "spiffe://shop.example/orders").await;
    ended(&mut sidecar).await;
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_comes_though_answers_are_lost_until_after_the_certificate_has_expired() {
    let mesh = Mesh::default();
    let mut ca = mesh.ca(CaOptions { svid_ttl: "10s", ..CaOptions::default() }).await;
    let proxy = Proxy::start(&ca).await;
    proxy.lose(false);
    let mut sidecar = sidecar(&mesh, &ca, &proxy);
    until_rotated(&sidecar, |identity| !identity["id"].is_null()).await;
    proxy.lose(true);
    proxy.until_lost(1).await;
    sidecar.program.line_with(&["identity lost"]).await;
    let lost = proxy.lost.load(Ordering::Relaxed);
    proxy.until_lost(lost + 1).await;
    ended(&mut sidecar).await;
    sidecar.restart();
    proxy.until_lost(lost + 2).await;
    proxy.lose(false);
    until_rotated(&sidecar, |identity| identity["rotations"].as_u64() >= Some(1)).await;
    ended(&mut sidecar).await;
    ca.stop().await;
}
