//! An orderly end: no new connections, the open ones may finish, what does not is cut, and every task has ended.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::apps::{App, echoed, expect_reset};
use crate::authority::Authority;
use crate::sidecar::{Sidecar, Spec};

fn pair(authority: &Authority, app: &App) -> (Sidecar, Sidecar) {
    let payments = Spec::new(authority, "payments").app(app.address).start(authority);
    let orders = Spec::new(authority, "orders").to(&[payments.inbound.unwrap()]).start(authority);
    (payments, orders)
}

#[tokio::test]
async fn open_connections_finish_while_new_ones_find_nobody() {
    let (authority, app) = (Authority::new(), App::echo().await);
    let (payments, orders) = pair(&authority, &app);
    let mut stream = TcpStream::connect(orders.outbound.unwrap()).await.unwrap();
    echoed(&mut stream).await.unwrap();
    payments.stop.cancel();
    let address = payments.inbound.unwrap();
    let closed = async { while TcpStream::connect(address).await.is_ok() {} };
    tokio::time::timeout(crate::sidecar::PATIENCE, closed).await.unwrap();
    echoed(&mut stream).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0, "a clean end");
    payments.all_ended().await;
}

#[tokio::test]
async fn what_does_not_finish_is_reset() {
    let (authority, app) = (Authority::new(), App::echo().await);
    let (payments, orders) = pair(&authority, &app);
    let mut stream = TcpStream::connect(orders.outbound.unwrap()).await.unwrap();
    echoed(&mut stream).await.unwrap();
    orders.abort.cancel();
    expect_reset(&mut stream).await;
    orders.all_ended().await;
    payments.abort.cancel();
    payments.all_ended().await;
}

#[tokio::test]
async fn an_end_does_not_wait_for_stalled_handshakes_nor_for_an_app_that_does_not_answer() {
    let authority = Authority::new();
    // A listener whose queue is full answers nobody.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let deaf: TcpListener = socket.listen(1).unwrap();
    let address = deaf.local_addr().unwrap();
    let mut queue = Vec::new();
    for _ in 0..2 {
        queue.push(TcpStream::connect(address).await.unwrap());
    }
    let payments = Spec::new(&authority, "payments").app(address).start(&authority);
    let orders = Spec::new(&authority, "orders").to(&[payments.inbound.unwrap(), address]).start(&authority);
    let _stalled = TcpStream::connect(payments.inbound.unwrap()).await.unwrap();
    let mut waiting = TcpStream::connect(orders.outbound.unwrap()).await.unwrap();
    waiting.write_all(b"x").await.unwrap();
    crate::sidecar::eventually("both are in", || (payments.live() == 2).then_some(())).await;
    let started = std::time::Instant::now();
    for sidecar in [payments, orders] {
        sidecar.abort.cancel();
        sidecar.all_ended().await;
    }
    assert!(started.elapsed() < std::time::Duration::from_secs(2), "{:?}", started.elapsed());
}
