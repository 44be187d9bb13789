//! Every address of a service has its share of the requests, and no request that is taken back holds up another.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::apps::App;
use crate::authority::Authority;
use crate::name_server::{NameServer, Says};
use crate::peers::{Count, acceptor, counting, orders};
use crate::shop::ask;
use crate::sidecar::{Sidecar, eventually};

const HTTP2: &[&[u8]] = &[b"h2"];
const HTTP1: &[&[u8]] = &[b"http/1.1"];
const MANY: u32 = 100;

/// So many requests, from eight callers at a time.
async fn requests(orders: &Sidecar, count: usize) {
    let at = orders.outbound.unwrap();
    let lane = async || {
        let mut stream = TcpStream::connect(at).await.unwrap();
        for _ in 0..count / 8 {
            stream.write_all(b"GET /charges/7 HTTP/1.1\r\nhost: payments\r\n\r\n").await.unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n\r\nok") {
                assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
            }
            assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
        }
    };
    futures_util::future::join_all((0..8).map(|_| lane())).await;
}

/// Whether each has at least half of the mean of what all have.
fn is_fair(counts: &[Arc<Count>]) -> bool {
    let all: Vec<_> = counts.iter().map(|count| count.requests()).collect();
    let sum: usize = all.iter().sum();
    all.iter().all(|one| one * all.len() * 2 >= sum)
}

#[tokio::test]
async fn each_address_has_a_connection_and_its_share_whichever_http_it_speaks() {
    let authority = Authority::new();
    let mut peers = Vec::new();
    for alpn in [HTTP2, HTTP2, HTTP1, HTTP2, HTTP1] {
        peers.push(counting(&authority, alpn, MANY).await);
    }
    let to: Vec<SocketAddr> = peers.iter().map(|(app, _)| app.address).collect();
    let counts: Vec<_> = peers.iter().map(|(_, count)| count.clone()).collect();
    let orders = orders(&authority, |spec| spec.to(&to));
    requests(&orders, 800).await;
    assert!(is_fair(&counts), "{counts:?}");
    for (at, count) in counts.iter().enumerate() {
        let is_http1 = at == 2 || at == 4;
        let of_the_other = if is_http1 { &count.http2 } else { &count.http1 };
        assert_eq!(of_the_other.load(std::sync::atomic::Ordering::Relaxed), 0, "{at}: {count:?}");
        if !is_http1 {
            assert_eq!(count.connections(), 1, "{at}");
        }
    }
}

#[tokio::test]
async fn an_address_that_comes_has_its_share_and_one_that_goes_has_none() {
    let authority = Authority::new();
    let mut peers = vec![counting_at(&authority, "127.0.0.2:0").await];
    let port = peers[0].0.address.port();
    for host in ["127.0.0.3", "127.0.0.4"] {
        peers.push(counting_at(&authority, &format!("{host}:{port}")).await);
    }
    let [first, second, third] = [0, 1, 2].map(|at: usize| peers[at].0.address.ip());
    let server = NameServer::new(Says::Addresses(vec![first], 1)).await;
    let orders = orders(&authority, |spec| spec.calling("payments.example", port, server.asked()));
    assert_eq!(ask(&orders, "GET /charges/7 HTTP/1.1").await.status(), 200);

    server.say(Says::Addresses(vec![first, second, third], 1));
    let known = |count| {
        let shown = orders.proxy.upstreams.shown(postern_sidecar::observability::Direction::Outbound, 0);
        (shown["addresses"].as_array().unwrap().len() == count).then_some(())
    };
    eventually("all are known", || known(3)).await;
    requests(&orders, 240).await;
    let counts: Vec<_> = peers.iter().map(|(_, count)| count.clone()).collect();
    assert!(is_fair(&counts), "{counts:?}");

    server.say(Says::Addresses(vec![second, third], 1));
    eventually("one has gone", || known(2)).await;
    let before = counts[0].requests();
    requests(&orders, 80).await;
    assert_eq!(counts[0].requests(), before);
}

async fn counting_at(authority: &Authority, at: &str) -> (App, Arc<Count>) {
    crate::peers::counting_at(authority, at, HTTP2, MANY).await
}

/// A pool of one connection has to be dialed anew, and its dial is slow: whoever asked first has gone long ago.
#[tokio::test]
async fn a_request_that_is_taken_back_while_a_connection_is_dialed_holds_up_no_other() {
    let authority = Authority::new();
    let (may_shake_hands, acceptor) = (Arc::new(Semaphore::new(0)), acceptor(&authority, HTTP1));
    let waits = may_shake_hands.clone();
    let peer = App::serve(move |stream: TcpStream| {
        let (waits, acceptor) = (waits.clone(), acceptor.clone());
        async move {
            waits.acquire().await.unwrap().forget();
            let mut stream = acceptor.accept(stream).await?;
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await?);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok").await?;
            stream.shutdown().await
        }
    })
    .await;
    let orders = orders(&authority, |spec| spec.to(&[peer.address]));
    let mut first = TcpStream::connect(orders.outbound.unwrap()).await.unwrap();
    first.write_all(b"GET /charges/7 HTTP/1.1\r\nhost: payments\r\n\r\n").await.unwrap();
    eventually("it dials", || (orders.live() == 1).then_some(())).await;
    drop(first);
    for _ in 0..3 {
        may_shake_hands.add_permits(2);
        assert_eq!(ask(&orders, "GET /charges/7 HTTP/1.1").await.status(), 200);
    }
}
