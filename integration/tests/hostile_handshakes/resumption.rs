//! Sessions that a client would like to resume: no ticket is ever issued, an offer is not looked at, and no data is
//! taken before the handshake is over.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use postern_integration::apps::App;
use postern_integration::certs::TestCa;
use postern_integration::{CaOptions, eventually, tls};
use postern_proto::identity::{Svid, TrustBundles};
use postern_proto::mtls::{
    AuthorizeAny, PeerVerifier, TlsIdentity, client_config, server_config, server_name,
};
use rustls::client::Resumption;
use rustls::server::ServerSessionMemoryCache;
use rustls::{ClientConfig, ClientConnection, HandshakeKind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::door::{Door, PATIENCE, POLICY_WITHOUT_REPORTS};

/// As much as a server of another make lets clients send early.
const EARLY_BYTES_MAX: u32 = 16 * 1024;
/// One is used up by each offer.
const TICKETS: usize = 4;

/// A client that shows `svid` and holds tickets for the sidecar's name, good for early data, from another server, which
/// believes `believed`.
async fn with_tickets(door: &Door, svid: &Svid, believed: &Arc<TrustBundles>) -> Arc<ClientConfig> {
    let identity = TlsIdentity::new(svid).unwrap();
    let judge = Arc::new(PeerVerifier::new(door.bundles.clone(), Arc::new(AuthorizeAny)));
    let mut config = Arc::unwrap_or_clone(client_config(Some(&identity), judge, &[]).unwrap());
    config.resumption = Resumption::in_memory_sessions(TICKETS);
    config.enable_early_data = true;
    let config = Arc::new(config);

    let judge = PeerVerifier::new(believed.clone(), Arc::new(AuthorizeAny));
    let identity = TlsIdentity::new(&door.attacker).unwrap();
    let mut generous = Arc::unwrap_or_clone(server_config(&identity, Arc::new(judge), &[]).unwrap());
    generous.session_storage = ServerSessionMemoryCache::new(TICKETS);
    generous.send_tls13_tickets = TICKETS;
    generous.max_early_data_size = EARLY_BYTES_MAX;
    let acceptor = TlsAcceptor::from(Arc::new(generous));
    let server = App::serve(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let mut tls = acceptor.accept(stream).await?;
            tls.write_all(b"!").await?;
            tls.shutdown().await
        }
    })
    .await;
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let mut tls = TlsConnector::from(config.clone()).connect(server_name(), tcp).await.unwrap();
    tls.read_u8().await.unwrap();
    assert!(tls.get_ref().1.tls13_tickets_received() > 0, "or there is nothing to offer");
    config
}

/// Offers a session, says a word and hears its echo; the handshake must be a whole one.
async fn offered_in_vain(config: &Arc<ClientConfig>, address: SocketAddr) -> std::io::Result<()> {
    let tcp = TcpStream::connect(address).await?;
    let mut stream = TlsConnector::from(config.clone()).connect(server_name(), tcp).await?;
    tls::echo_once(&mut stream).await?;
    let connection = stream.get_ref().1;
    assert_eq!(connection.handshake_kind(), Some(HandshakeKind::Full));
    assert_eq!(connection.tls13_tickets_received(), 0, "no ticket is issued");
    stream.shutdown().await
}

#[tokio::test]
async fn an_offer_is_not_looked_at_here_or_at_another_listener_or_after_a_rotation() {
    let door = Door::open_as(CaOptions { svid_ttl: "10s", ..CaOptions::default() }, "").await;
    let config = with_tickets(&door, &door.attacker, &door.bundles).await;
    offered_in_vain(&config, door.address()).await.unwrap();
    offered_in_vain(&config, door.payments.inbounds[1]).await.unwrap();
    eventually("a rotation", async || {
        let rotations = door.payments.status().await["identity"]["rotations"].as_u64().unwrap();
        (rotations > 0).then_some(())
    })
    .await;
    let renewed = tls::enrol(&door.ca, "reports").await;
    let config = with_tickets(&door, &renewed, &door.bundles).await;
    offered_in_vain(&config, door.address()).await.unwrap();
}

#[tokio::test]
async fn an_offer_does_not_help_whom_the_policy_or_the_root_does_not_let_in() {
    let door = Door::open().await;
    let config = with_tickets(&door, &door.attacker, &door.bundles).await;
    offered_in_vain(&config, door.address()).await.unwrap();
    let other = TestCa::new("shop.example");
    let stranger = other.svid("spiffe://shop.example/orders");
    let strange = with_tickets(&door, &stranger, &other.bundles()).await;
    let error = offered_in_vain(&strange, door.address()).await.unwrap_err().to_string();
    assert!(error.contains("UnknownCA"), "{error}");

    let digest = async || door.payments.status().await["policy"]["digest"].clone();
    let before = digest().await;
    door.mesh.write("policy.toml", POLICY_WITHOUT_REPORTS);
    eventually("the new policy", async || (digest().await != before).then_some(())).await;
    let error = offered_in_vain(&config, door.address()).await.unwrap_err().to_string();
    assert!(error.contains("AccessDenied"), "{error}");
    door.refused("denied", 1.0).await;
    door.neighbour().await;
}

/// A client may send early what a ticket allows; here no ticket does, and the app never sees a word of it.
#[tokio::test]
async fn early_data_never_reaches_the_app() {
    let door = Door::open_with("[limits]\nhandshake_timeout = \"2s\"\n").await;
    for attempt in 1..=2 {
        let config = with_tickets(&door, &door.attacker, &door.bundles).await;
        let mut tls = ClientConnection::new(config, server_name()).unwrap();
        tls.early_data().expect("the ticket allows it").write_all(&vec![b'e'; 64 << (4 * attempt)]).unwrap();
        let mut stream = TcpStream::connect(door.address()).await.unwrap();
        let ended = tokio::time::timeout(PATIENCE, carry(&mut tls, &mut stream)).await;
        ended.expect("served or ended");
        assert!(!tls.is_early_data_accepted());
        assert_ne!(tls.handshake_kind(), Some(HandshakeKind::Resumed));
    }
    door.neighbour().await;
    door.empty().await;
    let endings = door.endings();
    assert!(endings.iter().all(|ending| !ending.bytes.contains(&b'e')), "{endings:?}");
}

/// Carries on until the sidecar has ended it, or has served it: then the handshake is over and all was said.
async fn carry(tls: &mut ClientConnection, stream: &mut TcpStream) {
    let mut buffer = [0; 8192];
    loop {
        if !tls.is_handshaking() {
            tls.send_close_notify();
        }
        let mut out = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut out).unwrap();
        }
        if stream.write_all(&out).await.is_err() {
            return;
        }
        match stream.read(&mut buffer).await {
            Ok(read @ 1..) => tls.read_tls(&mut &buffer[..read]).unwrap(),
            Ok(0) | Err(_) => return,
        };
        if tls.process_new_packets().is_err() {
            return;
        }
    }
}
