//! A connection of the app that is tried again may get another kind of path: nothing of it is lost, and what was true of
//! the first path is not true of the second.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use postern_sidecar::config::{Limits, MaxAge};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::apps::{App, echoed, expect_reset};
use crate::authority::Authority;
use crate::sidecar::{Sidecar, Spec};
use crate::stranger::{answer, answer_direct};

/// OPEN without fields, and the header of the first DATA.
const HEADERS_BYTES: usize = 4 + 4;
const MINUTE: Duration = Duration::from_secs(60);

/// The first connection speaks `postern/1` and retires when it has read OPEN and `first` bytes; all others are echoed in
/// plain mTLS.
async fn retiring_then_direct(authority: Arc<Authority>, first: usize) -> App {
    let connections = Arc::new(AtomicUsize::new(0));
    App::serve(move |tcp| {
        let (authority, number) = (authority.clone(), connections.fetch_add(1, Ordering::Relaxed));
        async move {
            if number == 0 {
                let mut tunnel = answer(&authority, "payments", tcp).await?;
                tunnel.read_exact(&mut vec![0; HEADERS_BYTES + first]).await?;
                tunnel.shutdown().await?;
                return tunnel.read_to_end(&mut Vec::new()).await.map(|_| ());
            }
            let tls = answer_direct(&authority, "payments", tcp).await?;
            let (mut read, mut write) = tokio::io::split(tls);
            tokio::io::copy(&mut read, &mut write).await?;
            write.shutdown().await
        }
    })
    .await
}

async fn orders(first: usize) -> (Sidecar, App) {
    let authority = Arc::new(Authority::new());
    let called = retiring_then_direct(authority.clone(), first).await;
    let mut spec = Spec::new(&authority, "orders").to(&[called.address]);
    spec.limits = Limits { max_connection_age: MaxAge::After(MINUTE), ..Limits::default() };
    (spec.start(&authority), called)
}

#[tokio::test]
async fn the_first_bytes_are_said_again_on_a_path_of_another_kind() {
    for first in [1, 1_000, 40_000] {
        let (orders, _called) = orders(first).await;
        let mut stream = TcpStream::connect(orders.outbound.unwrap()).await.unwrap();
        let said: Vec<u8> = (0..first + 100).map(|at| at as u8).collect();
        stream.write_all(&said[..first]).await.unwrap();
        let mut heard = vec![0; first];
        stream.read_exact(&mut heard).await.unwrap();
        stream.write_all(&said[first..]).await.unwrap();
        stream.shutdown().await.unwrap();
        stream.read_to_end(&mut heard).await.unwrap();
        assert!(heard == said, "{first} bytes were said first, {} heard in all", heard.len());
    }
}

#[tokio::test]
async fn what_bounds_a_tunnel_does_not_bound_the_direct_connection_that_came_after_it() {
    let (orders, _called) = orders(4).await;
    let mut stream = TcpStream::connect(orders.outbound.unwrap()).await.unwrap();
    echoed(&mut stream).await.unwrap();
    assert_eq!(orders.proxy.register.shown()["connections"][0]["tunnel"], false);
    let (limits, wall, now) =
        (&orders.proxy.control.config.limits, OffsetDateTime::now_utc(), Instant::now());
    let unaged = Limits { max_connection_age: MaxAge::Off, ..*limits };
    orders.proxy.register.end_outlived(&unaged, wall, now).await;
    orders.proxy.register.end_outlived(&unaged, wall, now + 2 * MINUTE).await;
    echoed(&mut stream).await.unwrap();
    orders.proxy.register.end_outlived(limits, wall, now + 2 * MINUTE).await;
    expect_reset(&mut stream).await;
}
