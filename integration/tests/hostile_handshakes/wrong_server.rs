//! Who answers an outbound instead of the service that was called: a valid certificate is not enough, and not one of
//! the app's bytes goes there.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use postern_integration::apps::App;
use postern_integration::certs::TestCa;
use postern_integration::{Ca, CaOptions, Mesh, Sidecar, SidecarSpec, eventually, refused, tls};
use postern_proto::identity::{Svid, TrustBundles};
use postern_proto::mtls::{AuthorizeAny, PeerVerifier, TlsIdentity, server_config};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

const POLICY: &str = r#"trust_domain = "shop.example"
[service.payments]
ports = { api = "tcp" }
[[service.payments.allow]]
from = ["orders"]
[service.orders]
[service.reports]
"#;
const SECRET: &[u8] = b"for payments alone";

struct Called {
    mesh: Mesh,
    ca: Ca,
}

impl Called {
    async fn new() -> Self {
        let mesh = Mesh::default();
        let ca = mesh.ca(CaOptions::default()).await;
        mesh.write("policy.toml", POLICY);
        Self { mesh, ca }
    }

    /// The sidecar of `orders`, which looks for `payments` at these places.
    async fn orders(&self, to: &[&str]) -> Sidecar {
        let policy = self.mesh.path().join("policy.toml");
        let to: Vec<_> = to.iter().map(|at| format!("{at:?}")).collect();
        let outbound = SocketAddr::from(([127, 0, 0, 1], postern_integration::free_port()));
        let extra = format!(
            "[[outbound]]\nlisten = \"{outbound}\"\nservice = \"payments\"\nto = [{}]\nprotocol = \"tcp\"\n\
             [limits]\nhandshake_timeout = \"500ms\"\n",
            to.join(", ")
        );
        let spec = SidecarSpec::new("orders").policy(&policy).extra(&extra);
        let mut sidecar = self.mesh.sidecar(&self.ca, &spec);
        sidecar.outbounds.push(outbound);
        sidecar.ready().await;
        sidecar
    }

    /// A TLS server that shows `svid`, asks everybody for a certificate and lets everybody in who has one of `clients`.
    async fn server(&self, svid: &Svid, clients: Arc<TrustBundles>) -> Impostor {
        let (heard, identity) = (Arc::<Mutex<Vec<u8>>>::default(), TlsIdentity::new(svid).unwrap());
        let kept = heard.clone();
        let app = App::serve(move |stream| {
            let (kept, judge) = (kept.clone(), PeerVerifier::new(clients.clone(), Arc::new(AuthorizeAny)));
            let config = server_config(&identity, Arc::new(judge), &[]).unwrap();
            async move {
                let mut tls = TlsAcceptor::from(config).accept(stream).await?;
                let mut bytes = Vec::new();
                // However it ends.
                let _ended = tls.read_to_end(&mut bytes).await;
                kept.lock().unwrap().extend(bytes);
                Ok(())
            }
        })
        .await;
        Impostor { app, heard }
    }
}

struct Impostor {
    app: App,
    heard: Arc<Mutex<Vec<u8>>>,
}

/// Sends the secret, and must not have it back.
async fn is_refused(orders: &Sidecar) {
    refused::is_reset(orders.outbounds[0], SECRET).await;
}

#[tokio::test]
async fn a_valid_certificate_of_another_service_is_refused_wherever_a_name_leads() {
    let called = Called::new().await;
    let reports = tls::enrol(&called.ca, "reports").await;
    let impostor = called.server(&reports, called.ca.bundles()).await;
    // By its address, and by a name that leads there.
    for host in ["127.0.0.1", "localhost"] {
        let orders = called.orders(&[&format!("{host}:{}", impostor.app.address.port())]).await;
        is_refused(&orders).await;
        let line = orders.program.line_with(&["refused", "wrong_identity"]).await;
        assert!(line.contains("spiffe://shop.example/reports"), "{line}");
    }
    assert!(impostor.heard.lock().unwrap().is_empty());
}

#[tokio::test]
async fn the_right_name_of_another_root_or_trust_domain_is_refused() {
    let called = Called::new().await;
    let clients = called.ca.bundles();
    let of = |domain: &str| TestCa::new(domain).svid(&format!("spiffe://{domain}/payments"));
    for (svid, reason) in
        [(of("shop.example"), "unknown_issuer"), (of("other.example"), "unknown_trust_domain")]
    {
        let impostor = called.server(&svid, clients.clone()).await;
        let orders = called.orders(&[&impostor.app.address.to_string()]).await;
        is_refused(&orders).await;
        orders.program.line_with(&["refused", reason]).await;
        assert!(impostor.heard.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn the_ca_itself_is_not_the_service_nor_is_a_server_without_tls_or_without_a_word() {
    let called = Called::new().await;
    let orders = called.orders(&[&called.ca.address.to_string()]).await;
    is_refused(&orders).await;
    let line = orders.program.line_with(&["refused", "wrong_identity"]).await;
    assert!(line.contains("spiffe://shop.example/postern/ca"), "{line}");

    let plain = App::serve(async |mut stream: TcpStream| {
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await?;
        stream.read_to_end(&mut Vec::new()).await.map(|_| ())
    })
    .await;
    let orders = called.orders(&[&plain.address.to_string()]).await;
    is_refused(&orders).await;
    orders.program.line_with(&["refused", "handshake_failed"]).await;

    let silent =
        App::serve(async |mut stream: TcpStream| stream.read_to_end(&mut Vec::new()).await.map(|_| ()));
    let silent = silent.await;
    let orders = called.orders(&[&silent.address.to_string()]).await;
    is_refused(&orders).await;
    orders.program.line_with(&["refused", "handshake_timeout"]).await;
}

#[tokio::test]
async fn behind_the_wrong_ones_the_right_one_is_found() {
    let called = Called::new().await;
    let reports = tls::enrol(&called.ca, "reports").await;
    let impostor = called.server(&reports, called.ca.bundles()).await;
    let app = App::echo().await;
    let policy = called.mesh.path().join("policy.toml");
    let spec = SidecarSpec::new("payments").policy(&policy).inbound("api", app.address);
    let payments = called.mesh.sidecar(&called.ca, &spec);
    payments.ready().await;
    let places = [impostor.app.address.to_string(), payments.inbounds[0].to_string()];
    let orders = called.orders(&[&places[0], &places[1]]).await;
    let served = eventually("an answer", async || {
        let mut stream = TcpStream::connect(orders.outbounds[0]).await.ok()?;
        stream.write_all(SECRET).await.ok()?;
        let mut answer = [0; SECRET.len()];
        stream.read_exact(&mut answer).await.ok()?;
        Some(answer)
    })
    .await;
    assert_eq!(served, SECRET);
    assert!(impostor.heard.lock().unwrap().is_empty());
}

/// The caller's first bytes stay here until somebody has proved to be the service.
#[tokio::test]
async fn a_server_that_leaves_in_the_middle_of_the_handshake_is_told_and_the_next_one_tried() {
    let called = Called::new().await;
    let app = App::echo().await;
    let policy = called.mesh.path().join("policy.toml");
    let spec = SidecarSpec::new("payments").policy(&policy).inbound("api", app.address);
    let payments = called.mesh.sidecar(&called.ca, &spec);
    payments.ready().await;
    let right = payments.inbounds[0];
    // At once, after the hello, and so far into the right one's answer: its ServerHello, its certificate, its last byte.
    for answered in [None, Some(0), Some(50), Some(200), Some(1_400)] {
        let leaving = App::serve(move |stream| leave(stream, right, answered)).await;
        let orders = called.orders(&[&leaving.address.to_string()]).await;
        is_refused(&orders).await;
        // Whether its address counts as out of reach or its handshake as broken.
        orders.program.line_with(&["refused", "outbound", &leaving.address.to_string()]).await;
        drop(orders);
        let orders = called.orders(&[&leaving.address.to_string(), &right.to_string()]).await;
        let mut stream = TcpStream::connect(orders.outbounds[0]).await.unwrap();
        stream.write_all(SECRET).await.unwrap();
        let mut answer = [0; SECRET.len()];
        stream.read_exact(&mut answer).await.unwrap_or_else(|error| panic!("{answered:?}: {error}"));
        assert_eq!(answer, SECRET, "{answered:?}");
    }
}

/// Passes on so many bytes of the right one's answer, and breaks off.
async fn leave(mut near: TcpStream, right: SocketAddr, answered: Option<u64>) -> std::io::Result<()> {
    socket2::SockRef::from(&near).set_linger(Some(std::time::Duration::ZERO))?;
    let Some(bytes) = answered else { return Ok(()) };
    let mut far = TcpStream::connect(right).await?;
    let (mut near_read, mut near_write) = near.split();
    let (far_read, mut far_write) = far.split();
    let mut hello = [0; 8192];
    let read = near_read.read(&mut hello).await?;
    far_write.write_all(&hello[..read]).await?;
    tokio::io::copy(&mut far_read.take(bytes), &mut near_write).await.map(|_| ())
}
