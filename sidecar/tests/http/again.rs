//! A request that the other side has not looked at is sent again; one that it may have acted on is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::Reason;
use postern_proto::mtls::{AuthorizeAny, PeerVerifier, TlsIdentity, server_config};
use postern_proto::policy::Protocol;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use crate::apps::App;
use crate::authority::{Authority, Validity, id};
use crate::live::{Live, asked, policy};
use crate::sidecar::{Sidecar, Spec};

/// `orders`, and a peer that refuses the first stream of all, and tells the bodies it has seen.
async fn with_a_refusing_peer() -> (Sidecar, App, mpsc::Receiver<Vec<u8>>) {
    let authority = Authority::new();
    let validity = Validity::of(time::Duration::hours(1), OffsetDateTime::now_utc());
    let identity = TlsIdentity::new(&authority.svid(&id("payments"), validity)).unwrap();
    let judge = Arc::new(PeerVerifier::new(Arc::new(authority.bundles()), Arc::new(AuthorizeAny)));
    let acceptor = TlsAcceptor::from(server_config(&identity, judge, &[b"h2"]).unwrap());
    let (tell, bodies) = mpsc::channel(10);
    let requests = Arc::new(AtomicUsize::new(0));
    let peer = App::serve(move |stream: TcpStream| {
        let (acceptor, tell, requests) = (acceptor.clone(), tell.clone(), requests.clone());
        async move {
            let mut connection = h2::server::handshake(acceptor.accept(stream).await?).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let first = requests.fetch_add(1, Ordering::Relaxed) == 0;
                let tell = tell.clone();
                tokio::spawn(async move {
                    let (mut body, mut seen) = (request.into_body(), Vec::new());
                    while let Some(Ok(data)) = body.data().await {
                        body.flow_control().release_capacity(data.len()).unwrap();
                        seen.extend(data);
                    }
                    tell.send(seen).await.unwrap();
                    if first {
                        return respond.send_reset(Reason::REFUSED_STREAM);
                    }
                    let response = http::Response::builder().header("content-length", 2).body(()).unwrap();
                    let mut stream = respond.send_response(response, false).unwrap();
                    stream.send_data(Bytes::from_static(b"ok"), true).unwrap();
                });
            }
            Ok(())
        }
    })
    .await;
    let mut orders = Spec::new(&authority, "orders").to(&[peer.address]);
    orders.protocol = Protocol::Http;
    let orders = orders.start(&authority);
    orders.apply(&policy(None, None));
    (orders, peer, bodies)
}

#[tokio::test]
async fn a_request_whose_stream_was_refused_comes_again_with_its_body() {
    let (orders, _peer, mut bodies) = with_a_refusing_peer().await;
    let mut app = TcpStream::connect(orders.outbound.unwrap()).await.unwrap();
    assert_eq!(asked(&mut app, "POST /charge").await.unwrap(), 200);
    assert_eq!(bodies.recv().await.unwrap(), b"word");
    assert_eq!(bodies.recv().await.unwrap(), b"word", "whole, the second time too");
}

#[tokio::test]
async fn a_body_too_long_to_keep_is_not_sent_again() {
    let (orders, _peer, mut bodies) = with_a_refusing_peer().await;
    let mut app = TcpStream::connect(orders.outbound.unwrap()).await.unwrap();
    let long = vec![7; 200_000];
    app.write_all(b"POST /charge HTTP/1.1\r\nhost: payments\r\ncontent-length: 200000\r\n\r\n")
        .await
        .unwrap();
    app.write_all(&long).await.unwrap();
    let mut answer = [0; 12];
    app.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 502");
    assert_eq!(bodies.recv().await.unwrap(), long);
}

/// An app that answers one request on each connection, and closes it when the next one comes.
async fn closing_app(fields: &'static str) -> App {
    App::serve(move |mut stream: TcpStream| async move {
        let mut request = Vec::new();
        while !request.ends_with(b"word") {
            stream.read_buf(&mut request).await?;
        }
        let answer = format!("HTTP/1.1 200 OK\r\n{fields}content-length: 2\r\n\r\nok");
        stream.write_all(answer.as_bytes()).await?;
        stream.read_u8().await.map(|_| ())
    })
    .await
}

#[tokio::test]
async fn only_an_idempotent_request_is_repeated_when_the_app_closes_a_kept_connection() {
    let live = Live::with(closing_app("").await).await;
    live.payments.apply(&policy(Some("\"PUT /charge\", \"POST /charge\""), None));
    let mut orders = live.direct("orders", b"http/1.1").await;
    for (request, status) in [("PUT", 200), ("PUT", 200), ("POST", 502), ("POST", 200), ("POST", 502)] {
        assert_eq!(asked(&mut orders, &format!("{request} /charge")).await.unwrap(), status, "{request}");
    }
}

/// The app closes such a connection when the next request is just there, so that each would be lost.
#[tokio::test]
async fn no_request_goes_on_a_connection_that_the_app_no_longer_keeps() {
    let live = Live::with(closing_app("Keep-Alive: timeout=0\r\n").await).await;
    let mut orders = live.direct("orders", b"http/1.1").await;
    for _ in 0..5 {
        assert_eq!(asked(&mut orders, "POST /charge").await.unwrap(), 200);
    }
}
