//! A burst of the own app's does not run into the bounds that the other side has against floods.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use postern_sidecar::config::Limits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::apps::{App, echoed};
use crate::authority::Authority;
use crate::sidecar::{Spec, eventually};

/// As many handshakes as are made with one address at a time.
const PENDING: usize = 64;

/// Counts the connections that say something, and says nothing.
async fn counting() -> (App, Arc<AtomicUsize>) {
    let heard = Arc::new(AtomicUsize::new(0));
    let counter = heard.clone();
    let app = App::serve(move |mut stream: TcpStream| {
        let counter = counter.clone();
        async move {
            let mut said = Vec::new();
            stream.read_to_end(&mut said).await?;
            assert_eq!(said, b"metric 1\n");
            counter.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    })
    .await;
    (app, heard)
}

#[tokio::test]
async fn none_of_many_connections_at_once_is_lost_though_their_clients_close_at_once() {
    const CONNECTIONS: usize = 400;
    let (authority, (app, heard)) = (Authority::new(), counting().await);
    let mut spec = Spec::new(&authority, "payments").app(app.address);
    spec.limits = Limits { handshakes_pending_max: PENDING, ..Limits::default() };
    let payments = spec.start(&authority);
    let orders = Spec::new(&authority, "orders").to(&[payments.inbound.unwrap()]).start(&authority);
    let at = orders.outbound.unwrap();
    let mut clients = JoinSet::new();
    for _ in 0..CONNECTIONS {
        clients.spawn(async move {
            let mut stream = TcpStream::connect(at).await.unwrap();
            stream.write_all(b"metric 1\n").await.unwrap();
        });
    }
    while let Some(closed) = clients.join_next().await {
        closed.unwrap();
    }
    eventually("all are heard", || (heard.load(Ordering::Relaxed) == CONNECTIONS).then_some(())).await;
    for sidecar in [&orders, &payments] {
        assert_eq!(sidecar.proxy.refusals.newest().as_array().unwrap().len(), 0);
    }
}

#[tokio::test]
async fn a_handshake_that_the_other_side_gave_up_is_tried_again() {
    let (authority, app) = (Authority::new(), App::echo().await);
    let payments = Spec::new(&authority, "payments").app(app.address).start(&authority);
    let (behind, left) = (payments.inbound.unwrap(), Arc::new(AtomicUsize::new(3)));
    // It drops some in their handshakes, as a sidecar does that has reached a limit.
    let full = App::serve(move |mut stream: TcpStream| {
        let left = left.clone();
        async move {
            stream.readable().await?;
            if left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                return Ok(());
            }
            let mut behind = TcpStream::connect(behind).await?;
            tokio::io::copy_bidirectional(&mut stream, &mut behind).await.map(|_| ())
        }
    })
    .await;
    let orders = Spec::new(&authority, "orders").to(&[full.address]).start(&authority);
    let mut stream = TcpStream::connect(orders.outbound.unwrap()).await.unwrap();
    echoed(&mut stream).await.unwrap();
    assert_eq!(orders.proxy.refusals.newest().as_array().unwrap().len(), 0);
}
