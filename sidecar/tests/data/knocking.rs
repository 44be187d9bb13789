//! Who knocks at the mTLS port without being a TLS 1.3 client, or stalls, is refused by name, and keeps nobody out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use postern_proto::mtls::{AuthorizeAny, PeerVerifier, TlsIdentity, client_config, server_name};
use postern_sidecar::config::Limits;
use rustls::ClientConnection;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::apps::{App, echoed};
use crate::authority::{Authority, Validity, id};
use crate::sidecar::{Sidecar, Spec, eventually};

struct Door {
    payments: Sidecar,
    authority: Authority,
    _app: App,
}

impl Door {
    async fn new(limits: Limits) -> Self {
        let (authority, app) = (Authority::new(), App::echo().await);
        let mut spec = Spec::new(&authority, "payments").app(app.address);
        spec.limits = limits;
        Self { payments: spec.start(&authority), authority, _app: app }
    }

    fn address(&self) -> SocketAddr {
        self.payments.inbound.unwrap()
    }

    /// Says this, and returns the answer until the sidecar ends the connection.
    async fn knock(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        // Reset or end: either way it is over.
        let _ended = stream.read_to_end(&mut answer).await;
        answer
    }

    async fn serves_others(&self) {
        let orders = Spec::new(&self.authority, "orders").to(&[self.address()]).start(&self.authority);
        let mut stream = TcpStream::connect(orders.outbound.unwrap()).await.unwrap();
        echoed(&mut stream).await.unwrap();
    }

    fn orders(&self) -> TlsIdentity {
        let validity = Validity::of(time::Duration::hours(1), time::OffsetDateTime::now_utc());
        TlsIdentity::new(&self.authority.svid(&id("orders"), validity)).unwrap()
    }

    /// A TLS client of `orders`, without a connection.
    fn client(&self) -> ClientConnection {
        let judge = Arc::new(PeerVerifier::new(Arc::new(self.authority.bundles()), Arc::new(AuthorizeAny)));
        ClientConnection::new(client_config(Some(&self.orders()), judge, &[]).unwrap(), server_name())
            .unwrap()
    }
}

#[tokio::test]
async fn other_protocols_are_refused_by_name_and_http_is_answered_in_http() {
    let door = Door::new(Limits::default()).await;
    let answer = door.knock(b"GET /charge HTTP/1.1\r\nhost: payments\r\n\r\n").await;
    assert!(answer.starts_with(b"HTTP/1.1 400 "), "{answer:?}");
    for (bytes, name) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "plaintext HTTP"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "plaintext HTTP/2"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH"),
        (b"\0\x01\x02\x03", "no protocol we know"),
    ] {
        door.knock(bytes).await;
        let told = door.payments.refusal("not_tls").await;
        assert!(told["detail"].as_str().unwrap().ends_with(name), "{name}: {told}");
    }
    assert_eq!(door.payments.refusal("not_tls").await["count"], 5);
    door.serves_others().await;
}

#[tokio::test]
async fn a_tls_record_with_garbage_in_it_is_refused() {
    let door = Door::new(Limits::default()).await;
    door.knock(&[&[0x16, 3, 1, 0, 64][..], &[0xff; 64]].concat()).await;
    door.payments.refusal("not_tls").await;
    door.serves_others().await;
}

#[tokio::test]
async fn a_client_of_tls_1_2_alone_is_refused_for_its_version() {
    let door = Door::new(Limits::default()).await;
    // version 1.2, random, no session, one suite of TLS 1.2, no compression, signature_algorithms
    let extensions = [0, 8, 0, 13, 0, 4, 0, 2, 4, 3];
    let body = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0xc0, 0x2f, 1, 0], &extensions].concat();
    let hello = [&[1, 0, 0, body.len() as u8][..], &body].concat();
    let answer = door.knock(&[&[22, 3, 1, 0, hello.len() as u8][..], &hello].concat()).await;
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, 70], "the alert protocol_version");
    door.payments.refusal("tls_version").await;
}

#[tokio::test]
async fn a_client_hello_byte_by_byte_is_a_client_hello() {
    let door = Door::new(Limits::default()).await;
    let mut tls = door.client();
    let mut stream = TcpStream::connect(door.address()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).unwrap();
    for byte in hello {
        stream.write_u8(byte).await.unwrap();
    }
    let mut buffer = [0; 4096];
    while tls.is_handshaking() {
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0, "the handshake was cut");
        tls.read_tls(&mut &buffer[..read]).unwrap();
        tls.process_new_packets().unwrap();
    }
}

#[tokio::test]
async fn data_that_comes_with_the_last_handshake_message_is_not_lost() {
    let door = Door::new(Limits::default()).await;
    let mut tls = door.client();
    let mut stream = TcpStream::connect(door.address()).await.unwrap();
    let (mut out, mut buffer) = (Vec::new(), [0; 4096]);
    tls.write_tls(&mut out).unwrap();
    stream.write_all(&out).await.unwrap();
    while tls.is_handshaking() {
        let read = stream.read(&mut buffer).await.unwrap();
        tls.read_tls(&mut &buffer[..read]).unwrap();
        tls.process_new_packets().unwrap();
    }
    // Certificate, Finished and the app's first bytes in one segment.
    use std::io::{Read as _, Write as _};
    tls.writer().write_all(b"early").unwrap();
    let mut last = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut last).unwrap();
    }
    stream.write_all(&last).await.unwrap();
    let mut answer = Vec::new();
    while answer.len() < 5 {
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0, "cut after {answer:?}");
        tls.read_tls(&mut &buffer[..read]).unwrap();
        tls.process_new_packets().unwrap();
        let mut plain = [0; 16];
        if let Ok(read) = tls.reader().read(&mut plain) {
            answer.extend_from_slice(&plain[..read]);
        }
    }
    assert_eq!(answer, b"early");
}

#[tokio::test]
async fn stalled_handshakes_are_bounded_and_the_oldest_gives_way() {
    const MAX: usize = 8;
    let door = Door::new(Limits { handshakes_pending_max: MAX, ..Limits::default() }).await;
    let mut stalled = Vec::new();
    for _ in 0..MAX * 4 {
        let mut stream = TcpStream::connect(door.address()).await.unwrap();
        stream.write_all(&[0x16, 3, 1, 2, 0]).await.unwrap();
        stalled.push(stream);
    }
    let first = &mut stalled[0];
    let end = first.read(&mut [0; 1]).await;
    assert!(!matches!(end, Ok(1..)), "the oldest is ended: {end:?}");
    eventually("all others were evicted", || {
        let told = door.payments.proxy.refusals.newest();
        (told[0]["reason"] == "handshakes_pending" && told[0]["count"] == MAX * 3).then_some(())
    })
    .await;
    eventually("only the newest are left", || (door.payments.live() == MAX as u64).then_some(())).await;
    door.serves_others().await;
}

#[tokio::test]
async fn a_handshake_that_goes_on_outlasts_a_flood_of_stalled_ones() {
    const MAX: usize = 8;
    let door = Door::new(Limits { handshakes_pending_max: MAX, ..Limits::default() }).await;
    let (mut tls, mut hello, mut buffer) = (door.client(), Vec::new(), [0; 8192]);
    let mut honest = TcpStream::connect(door.address()).await.unwrap();
    tls.write_tls(&mut hello).unwrap();
    honest.write_all(&hello).await.unwrap();
    let mut server_hello = honest.read(&mut buffer).await.unwrap();
    let mut stalled = Vec::new();
    for _ in 0..MAX * 8 {
        let mut stream = TcpStream::connect(door.address()).await.unwrap();
        stream.write_all(&[0x16, 3, 1, 2, 0]).await.unwrap();
        stalled.push(stream);
    }
    eventually("the flood was evicted", || {
        let told = door.payments.proxy.refusals.newest();
        (told[0]["reason"] == "handshakes_pending" && told[0]["count"] == MAX * 7 + 1).then_some(())
    })
    .await;
    while tls.is_handshaking() {
        assert!(server_hello > 0, "the honest one was cut");
        tls.read_tls(&mut &buffer[..server_hello]).unwrap();
        tls.process_new_packets().unwrap();
        if tls.is_handshaking() {
            server_hello = honest.read(&mut buffer).await.unwrap();
        }
    }
}

#[tokio::test]
async fn strangers_that_are_bidden_farewell_have_the_places_of_handshakes_and_keep_nobody_out() {
    const MAX: usize = 8;
    let limits = Limits { handshakes_pending_max: MAX, connections_max: MAX * 8, ..Limits::default() };
    let door = Door::new(limits).await;
    let mut strangers = Vec::new();
    for _ in 0..MAX * 20 {
        let mut stream = TcpStream::connect(door.address()).await.unwrap();
        stream.write_all(b"GET /charge HTTP/1.1\r\nhost: payments\r\n\r\n").await.unwrap();
        strangers.push(stream);
        if strangers.len() % MAX == 0 {
            door.serves_others().await;
        }
    }
    door.payments.refusal("not_tls").await;
    assert!(!door.payments.proxy.control.metrics.text().unwrap().contains("reason=\"connections_max\""));
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_is_ended() {
    let limit = Duration::from_millis(50);
    let door = Door::new(Limits { handshake_timeout: limit, ..Limits::default() }).await;
    assert_eq!(door.knock(&[0x16]).await, b"");
    door.payments.refusal("handshake_timeout").await;
}

#[tokio::test]
async fn a_knock_without_a_word_is_no_refusal() {
    let door = Door::new(Limits::default()).await;
    drop(TcpStream::connect(door.address()).await.unwrap());
    door.serves_others().await;
    eventually("it has gone", || (door.payments.live() == 0).then_some(())).await;
    assert_eq!(door.payments.proxy.refusals.newest().as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn one_connection_too_many_is_reset_and_told() {
    let door = Door::new(Limits { connections_max: 1, ..Limits::default() }).await;
    let _first = TcpStream::connect(door.address()).await.unwrap();
    eventually("the first is in", || (door.payments.live() == 1).then_some(())).await;
    assert_eq!(door.knock(b"").await, b"");
    door.payments.refusal("connections_max").await;
}

#[tokio::test]
async fn a_session_is_never_resumed_though_the_client_would_like_to() {
    let door = Door::new(Limits::default()).await;
    let judge = Arc::new(PeerVerifier::new(Arc::new(door.authority.bundles()), Arc::new(AuthorizeAny)));
    let mut config = Arc::unwrap_or_clone(client_config(Some(&door.orders()), judge, &[]).unwrap());
    config.resumption = rustls::client::Resumption::in_memory_sessions(8);
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    for _ in 0..2 {
        let tcp = TcpStream::connect(door.address()).await.unwrap();
        let mut tls = connector.connect(server_name(), tcp).await.unwrap();
        tls.write_all(b"x").await.unwrap();
        tls.read_exact(&mut [0; 1]).await.unwrap();
        assert_eq!(tls.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}
