//! An app of `tcp` that wants to know who calls is told by the PROXY protocol, before the first byte of each connection.

use std::net::SocketAddr;

use postern_sidecar::config::ProxyProtocol;
use time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::apps::App;
use crate::authority::Authority;
use crate::sidecar::{Sidecar, Spec, eventually};
use crate::stranger;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// What an app was told: the peer's address and the rest of the header.
type Told = (SocketAddr, Vec<u8>);

/// An app that reads the header, speaks first, and then sends back what it gets.
async fn app() -> (App, mpsc::UnboundedReceiver<Told>) {
    let (tell, told) = mpsc::unbounded_channel();
    let app = App::serve(move |mut stream: TcpStream| {
        let tell = tell.clone();
        async move {
            let mut fixed = [0; 16];
            stream.read_exact(&mut fixed).await?;
            assert_eq!((&fixed[..12], fixed[12], fixed[13]), (SIGNATURE, 0x21, 0x11));
            let mut rest = vec![0; u16::from_be_bytes([fixed[14], fixed[15]]).into()];
            stream.read_exact(&mut rest).await?;
            let host = <[u8; 4]>::try_from(&rest[..4]).unwrap();
            let port = u16::from_be_bytes([rest[8], rest[9]]);
            tell.send(((host, port).into(), rest)).unwrap();
            stream.write_all(b"220 ").await?;
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await?;
            write.shutdown().await
        }
    });
    (app.await, told)
}

fn payments(authority: &Authority, app: &App) -> Sidecar {
    let mut spec = Spec::new(authority, "payments").app(app.address);
    spec.proxy_protocol = Some(ProxyProtocol::V2);
    spec.start(authority)
}

fn names(rest: &[u8], id: &str) -> bool {
    let tlv = [&[0xe0, 0, id.len() as u8], id.as_bytes()].concat();
    rest.ends_with(&tlv)
}

#[tokio::test]
async fn each_connection_in_a_tunnel_has_a_header_of_its_own_also_where_the_app_speaks_first() {
    let (authority, (app, mut told)) = (Authority::new(), app().await);
    let payments = payments(&authority, &app);
    let orders = Spec::new(&authority, "orders").to(&[payments.inbound.unwrap()]).start(&authority);
    let mut tunnel = None;
    for _ in 0..3 {
        let mut stream = TcpStream::connect(orders.outbound.unwrap()).await.unwrap();
        let mut greeting = [0; 4];
        stream.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"220 ");
        let (from, rest) = told.recv().await.unwrap();
        assert!(names(&rest, "spiffe://shop.example/orders"), "{rest:?}");
        assert_eq!(*tunnel.get_or_insert(from), from, "the address of the tunnel");
        stream.write_all(b"word").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).await.unwrap();
        assert_eq!(back, b"word");
        let idle = || (orders.proxy.connections()["pools"][0]["idle"] == 1).then_some(());
        eventually("the tunnel waits", idle).await;
    }
}

#[tokio::test]
async fn a_peer_that_speaks_plain_mtls_is_told_with_its_own_address() {
    let (authority, (app, mut told)) = (Authority::new(), app().await);
    let payments = payments(&authority, &app);
    let mut tls =
        stranger::connect(&authority, "orders", Duration::hours(1), payments.inbound.unwrap()).await;
    tls.write_all(b"word").await.unwrap();
    let mut back = [0; 8];
    tls.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"220 word");
    let (from, rest) = told.recv().await.unwrap();
    assert!(names(&rest, "spiffe://shop.example/orders"), "{rest:?}");
    assert_eq!(from, tls.get_ref().0.local_addr().unwrap());
}
