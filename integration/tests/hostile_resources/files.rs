//! Identities from files that are rotated under load, also wrongly: what is no identity is not taken, and no request
//! fails.

use std::path::PathBuf;

use postern_integration::apps::App;
use postern_integration::certs::{TestCa, chain_pem, key_pem, pem};
use postern_integration::load::{Load, Style};
use postern_integration::{Mesh, Sidecar, SidecarSpec, eventually, refused};
use serde_json::Value;

const POLICY: &str = r#"trust_domain = "shop.example"
[service.payments]
ports = { api = "tcp" }
[[service.payments.allow]]
from = ["orders"]
[service.orders]
"#;

/// The three files of one sidecar.
struct Files {
    name: &'static str,
    dir: PathBuf,
}

impl Files {
    fn new(mesh: &Mesh, name: &'static str, ca: &TestCa) -> Self {
        let files = Self { name, dir: mesh.path().join(name) };
        std::fs::create_dir(&files.dir).unwrap();
        files.certify(ca);
        files.trust(&[ca]);
        files
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.dir.join(file), text).unwrap();
    }

    /// A new certificate and key.
    fn certify(&self, ca: &TestCa) {
        let svid = ca.svid(&format!("spiffe://shop.example/{}", self.name));
        self.write("svid.pem", &chain_pem(&svid));
        self.write("key.pem", &key_pem(&svid));
    }

    fn trust(&self, cas: &[&TestCa]) {
        let roots: String = cas.iter().map(|ca| pem("CERTIFICATE", ca.root())).collect();
        self.write("bundle.pem", &roots);
    }

    fn start(&self, mesh: &Mesh, spec: SidecarSpec) -> Sidecar {
        let file = |name: &str| self.dir.join(name).display().to_string();
        let identity = format!(
            "svid_file = {:?}\nkey_file = {:?}\nbundle_file = {:?}\n",
            file("svid.pem"),
            file("key.pem"),
            file("bundle.pem")
        );
        mesh.sidecar_with(&identity, &spec)
    }
}

async fn identity(sidecar: &Sidecar) -> Value {
    sidecar.status().await["identity"].clone()
}

async fn rotations(sidecar: &Sidecar) -> u64 {
    identity(sidecar).await["rotations"].as_u64().unwrap()
}

/// Changes the files, and waits until the change is taken.
async fn taken(sidecar: &Sidecar, change: impl FnOnce()) {
    let before = rotations(sidecar).await;
    change();
    eventually("the change is taken", async || (rotations(sidecar).await > before).then_some(())).await;
}

/// Changes the files, and waits until the change is refused.
async fn not_taken(sidecar: &Sidecar, code: &str, change: impl FnOnce()) {
    let before = rotations(sidecar).await;
    change();
    eventually(&format!("refused for {code}"), async || {
        (identity(sidecar).await["last_error"]["code"] == code).then_some(())
    })
    .await;
    assert_eq!(rotations(sidecar).await, before, "{code}");
    let (status, why) = sidecar.get("/ready").await.unwrap();
    assert_eq!(status, 200, "{code}: the last good one serves on: {why}");
}

struct Pair {
    payments: (Files, Sidecar),
    orders: (Files, Sidecar),
    ca: TestCa,
    _mesh: Mesh,
    _app: App,
}

impl Pair {
    async fn start() -> Self {
        let (mesh, app, ca) = (Mesh::default(), App::echo().await, TestCa::new("shop.example"));
        let policy = mesh.write("policy.toml", POLICY);
        let spec = |name| SidecarSpec::new(name).policy(&policy);
        let files = Files::new(&mesh, "payments", &ca);
        let payments = files.start(&mesh, spec("payments").inbound("api", app.address));
        let payments = (files, payments);
        let files = Files::new(&mesh, "orders", &ca);
        let orders = files.start(&mesh, spec("orders").outbound("payments", payments.1.inbounds[0]));
        let orders = (files, orders);
        payments.1.ready().await;
        orders.1.ready().await;
        Self { payments, orders, ca, _mesh: mesh, _app: app }
    }

    fn both(&self) -> [(&Files, &Sidecar); 2] {
        [&self.payments, &self.orders].map(|(files, sidecar)| (files, sidecar))
    }

    fn load(&self, style: Style) -> Load {
        Load::start(self.orders.1.outbounds[0], style, 3)
    }
}

async fn unnoticed(load: Load) {
    let outcome = load.stop().await;
    assert_eq!(outcome.failures, Vec::<String>::new(), "of {} requests", outcome.served);
    assert!(outcome.served > 100, "the load was real: {}", outcome.served);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_identity_is_not_taken_and_no_request_fails() {
    let pair = Pair::start().await;
    let loads = [pair.load(Style::FreshConnections), pair.load(Style::KeptConnections)];
    let other = TestCa::new("shop.example");
    for (files, sidecar) in pair.both() {
        let good = ["svid.pem", "key.pem", "bundle.pem"]
            .map(|name| (name, std::fs::read_to_string(files.dir.join(name)).unwrap()));
        let again = || good.iter().for_each(|(name, text)| files.write(name, text));
        let key = key_pem(&pair.ca.svid("spiffe://shop.example/orders"));
        not_taken(sidecar, "key_mismatch", || files.write("key.pem", &key)).await;
        again();
        // Half of a rotation by a writer who stops in between.
        let half = || files.write("svid.pem", &chain_pem(&pair.ca.svid("spiffe://shop.example/payments")));
        not_taken(sidecar, "key_mismatch", half).await;
        again();
        not_taken(sidecar, "file_malformed", || files.write("key.pem", "-----BEGIN PRIVATE KEY-----\n"))
            .await;
        again();
        let unreadable = || {
            std::fs::remove_file(files.dir.join("key.pem")).unwrap();
            std::fs::create_dir(files.dir.join("key.pem")).unwrap();
        };
        not_taken(sidecar, "file_unreadable", unreadable).await;
        std::fs::remove_dir(files.dir.join("key.pem")).unwrap();
        again();
        not_taken(sidecar, "bundle_refused", || files.write("bundle.pem", "")).await;
        again();
        // The root gone that vouches for the own certificate; the other one has its name, too.
        not_taken(sidecar, "bad_signature", || files.trust(&[&other])).await;
        again();
        taken(sidecar, || files.certify(&pair.ca)).await;
        assert_eq!(identity(sidecar).await["last_error"], Value::Null);
    }
    for load in loads {
        unnoticed(load).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_root_is_added_and_the_old_one_removed_whoever_is_first_and_no_request_fails() {
    let pair = Pair::start().await;
    let load = pair.load(Style::FreshConnections);
    let new = TestCa::new("shop.example");
    let [payments, orders] = pair.both();
    let (old, new) = (&pair.ca, &new);
    for (old, new, added, removed) in [
        (old, new, [payments, orders], [orders, payments]),
        (new, old, [orders, payments], [orders, payments]),
    ] {
        for (files, sidecar) in added {
            taken(sidecar, || files.trust(&[old, new])).await;
        }
        for (files, sidecar) in added {
            taken(sidecar, || files.certify(new)).await;
        }
        for (files, sidecar) in removed {
            taken(sidecar, || files.trust(&[new])).await;
        }
    }
    unnoticed(load).await;
}

/// A connection whose peer was believed for a root that is gone does not outlive it.
#[tokio::test]
async fn who_comes_with_the_old_root_after_its_end_is_refused_by_name_and_cut() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let pair = Pair::start().await;
    let new = TestCa::new("shop.example");
    let mut open = tokio::net::TcpStream::connect(pair.orders.1.outbounds[0]).await.unwrap();
    open.write_all(b"x").await.unwrap();
    open.read_exact(&mut [0; 1]).await.unwrap();
    // Only payments goes all the way; orders believes it, but keeps its own certificate.
    let (orders_files, orders) = &pair.orders;
    taken(orders, || orders_files.trust(&[&pair.ca, &new])).await;
    let (files, sidecar) = &pair.payments;
    taken(sidecar, || files.trust(&[&pair.ca, &new])).await;
    taken(sidecar, || files.certify(&new)).await;
    open.write_all(b"x").await.unwrap();
    open.read_exact(&mut [0; 1]).await.unwrap();
    taken(sidecar, || files.trust(&[&new])).await;
    open.read(&mut [0; 1]).await.expect_err("cut, and never cleanly");
    refused::is_reset(orders.outbounds[0], b"x").await;
    sidecar.program.line_with(&["refused", "bad_signature"]).await;
    // With a new one of its own, everything goes on.
    taken(orders, || orders_files.certify(&new)).await;
    let mut served = tokio::net::TcpStream::connect(orders.outbounds[0]).await.unwrap();
    served.write_all(b"x").await.unwrap();
    served.read_exact(&mut [0; 1]).await.unwrap();
}
