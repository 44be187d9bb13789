//! Older versions of TLS, protocols inside it that nobody offers, and other protocols instead of it or within it.

use std::process::{Command, Stdio};
use std::sync::Arc;

use postern_integration::tools::has;
use postern_integration::{eventually, tls};
use postern_proto::mtls::server_name;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::door::{Door, PATIENCE, Sent};
use crate::hello::{ALPN, HANDSHAKE, Hello, SUPPORTED_VERSIONS, config, protocols};

/// A record with the fatal alert `protocol_version` (RFC 8446 §6).
const PROTOCOL_VERSION: [u8; 7] = [21, 3, 3, 0, 2, 2, 70];

#[tokio::test]
async fn a_client_of_older_versions_alone_is_refused_for_its_version() {
    let door = Door::open().await;
    let offers: [&[u8]; 5] = [
        &[3, 3],
        &[3, 2],
        &[3, 2, 3, 1],
        // A draft's, and one that is kept free (RFC 8701).
        &[0x7f, 0x1c, 3, 3],
        &[0x0a, 0x0a],
    ];
    for offer in offers {
        let versions = [&[offer.len() as u8][..], offer].concat();
        let answer = door.knock(&Hello::of(&door).with(SUPPORTED_VERSIONS, versions).bytes()).await;
        assert_eq!(answer, PROTOCOL_VERSION, "{offer:?}");
    }
    let mut none = Hello::of(&door);
    none.extensions.retain(|(kind, _)| *kind != SUPPORTED_VERSIONS);
    assert_eq!(door.knock(&none.bytes()).await, PROTOCOL_VERSION);
    door.refused("tls_version", 6.0).await;
    door.neighbour().await;
}

#[tokio::test]
async fn openssl_with_older_versions_alone_is_refused_for_its_version() {
    if !has("openssl") {
        return;
    }
    let door = Door::open().await;
    let address = door.address().to_string();
    for version in ["-tls1_1", "-tls1_2"] {
        let mut command = Command::new("openssl");
        command.args(["s_client", version, "-cipher", "DEFAULT:@SECLEVEL=0", "-connect", &address]);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // Of TLS 1.1 it offers not even a signature that we know.
        let alerts = ["protocol version", "handshake failure"];
        assert!(alerts.iter().any(|alert| said.contains(alert)), "{version}: {said}");
    }
    door.refused("tls_version", 2.0).await;
}

/// Where bytes are carried, whatever runs in them is between the peers: ALPN selects nothing, as RFC 7301 §3.2 leaves
/// to the server.
#[tokio::test]
async fn a_protocol_that_nobody_offers_is_never_selected() {
    let door = Door::open().await;
    let offers: [&[&[u8]]; 4] =
        [&[b"acme-tls/1"], &[b"acme-tls/1", b"h2", b"http/1.1"], &[b"nonsense"], &[&[0xff; 255]]];
    for offer in offers {
        let (attacker, bundles) = (Some(&door.attacker), door.bundles.clone());
        let mut stream = tls::connect_speaking(door.address(), attacker, bundles, offer).await.unwrap();
        tls::echo_once(&mut stream).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), None, "{offer:?}");
    }
}

#[tokio::test]
async fn protocol_names_that_are_none_are_refused() {
    let door = Door::open().await;
    // An empty list, an empty name, a name longer than the list, a list longer than the extension (RFC 7301 §3.1).
    let bad: [&[u8]; 4] = [&[0, 0], &[0, 1, 0], &[0, 3, 9, b'h', b'2'], &[0, 9, 2, b'h', b'2']];
    for data in bad {
        let answer = door.knock(&Hello::of(&door).with(ALPN, data.to_vec()).bytes()).await;
        assert_ne!(answer.first(), Some(&HANDSHAKE), "{data:?}: {answer:?}");
    }
    door.refused("not_tls", bad.len() as f64).await;
    // Ten thousand names are as good as one.
    let names: Vec<_> = (0..10_000u32).map(|number| number.to_be_bytes()).collect();
    let names: Vec<_> = names.iter().map(|name| &name[..]).collect();
    let hello = Hello::of(&door).with(ALPN, protocols(&names)).bytes();
    door.unharmed_by(async {
        let mut kept = Vec::new();
        for _ in 0..10 {
            let mut stream = TcpStream::connect(door.address()).await.unwrap();
            stream.write_all(&hello).await.unwrap();
            kept.push(stream);
        }
        Sent { bytes: 10 * hello.len() as u64, kept }
    })
    .await;
    assert!(door.endings().is_empty(), "the app has seen none of it");
}

#[tokio::test]
async fn what_is_no_tls_is_refused_by_name() {
    let door = Door::open().await;
    let http = b"GET /charge HTTP/1.1\r\nhost: payments\r\n\r\n";
    assert!(door.knock(http).await.starts_with(b"HTTP/1.1 400 "));
    door.payments.program.line_with(&["refused", "not_tls", "plaintext HTTP"]).await;
    door.knock(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    door.payments.program.line_with(&["refused", "not_tls", "plaintext HTTP/2"]).await;
    door.knock(b"SSH-2.0-OpenSSH_9.2\r\n").await;
    door.payments.program.line_with(&["refused", "not_tls", "SSH"]).await;
    door.refused("not_tls", 3.0).await;

    // Records of a kind that has no place before a hello: alert, application data, an unknown one.
    for kind in [20, 21, 23, 24, 0xff] {
        let answer = door.knock(&[kind, 3, 3, 0, 2, 1, 0]).await;
        assert_ne!(answer.first(), Some(&HANDSHAKE), "{kind}: {answer:?}");
    }
    door.refused("not_tls", 8.0).await;
    door.neighbour().await;
    door.empty().await;
    assert!(door.endings().is_empty(), "the app has seen none of it");
}

/// Whether it is seen at once or by the deadline.
#[tokio::test]
async fn what_comes_instead_of_the_second_flight_is_refused() {
    let door = Door::open_with("[limits]\nhandshake_timeout = \"1s\"\n").await;
    let hello = Hello::of(&door).bytes();
    // HTTP where records must be, and a hello where there was one.
    for second in [&b"GET /charge HTTP/1.1\r\nhost: payments\r\n\r\n"[..], &hello] {
        let before = door.payments.metric("postern_refusals_total", &["inbound"]).await;
        let answer = door.knock(&[&hello[..], second].concat()).await;
        assert!(!answer.windows(4).any(|four| four == b"HTTP"), "TLS is answered in TLS: {answer:?}");
        eventually("it is refused", async || {
            let told = door.payments.metric("postern_refusals_total", &["inbound"]).await;
            (told > before).then_some(())
        })
        .await;
    }
    door.neighbour().await;
    assert!(door.endings().is_empty(), "the app has seen none of it");
}

#[tokio::test]
async fn tls_inside_tls_is_bytes_for_the_app_and_opens_nothing() {
    let door = Door::open().await;
    let connect = TlsConnector::from(Arc::new(config(&door, &[])));
    let tcp = TcpStream::connect(door.address()).await.unwrap();
    let outer = connect.connect(server_name(), tcp).await.unwrap();
    // The app sends the hello back as it came: no server answers it, least of all the sidecar.
    let inner = tokio::time::timeout(PATIENCE, connect.connect(server_name(), outer)).await.unwrap();
    inner.unwrap_err();
    let seen = door.ended(1).await;
    assert_eq!(seen[0].bytes[0], HANDSHAKE, "{seen:?}");
    door.neighbour().await;
}
