//! What carries nothing has few places, so that what carries something has room.

use std::io;

use postern_sidecar::config::Limits;
use postern_sidecar::proxy::tunnel::Frame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::apps::{App, echoed, expect_refused};
use crate::authority::Authority;
use crate::sidecar::{Sidecar, Spec, eventually};
use crate::stranger::{Caller, encoded, open};

const PENDING: usize = 8;

struct Shop {
    authority: Authority,
    payments: Sidecar,
    _app: App,
}

impl Shop {
    async fn new(limits: Limits) -> Self {
        let (authority, app) = (Authority::new(), App::echo().await);
        let mut spec = Spec::new(&authority, "payments").app(app.address);
        spec.limits = limits;
        Self { payments: spec.start(&authority), authority, _app: app }
    }

    fn orders(&self) -> Sidecar {
        Spec::new(&self.authority, "orders").to(&[self.payments.inbound.unwrap()]).start(&self.authority)
    }

    async fn caller(&self, name: &str) -> Caller {
        Caller::connect(&self.authority, name, self.payments.inbound.unwrap()).await
    }
}

/// A connection of the app by this sidecar.
async fn carried(orders: &Sidecar) -> TcpStream {
    let mut stream = TcpStream::connect(orders.outbound.unwrap()).await.unwrap();
    echoed(&mut stream).await.unwrap();
    stream
}

async fn end(mut stream: TcpStream) {
    stream.shutdown().await.unwrap();
    stream.read_to_end(&mut Vec::new()).await.unwrap();
}

#[tokio::test]
async fn tunnels_that_open_nothing_have_the_places_of_handshakes_and_keep_nobody_out() {
    let limits =
        Limits { handshakes_pending_max: PENDING, connections_max: PENDING * 8, ..Limits::default() };
    let shop = Shop::new(limits).await;
    let mut silent = Vec::new();
    for round in 0..PENDING * 3 {
        for name in ["reports", "stock", "orders"] {
            silent.push(shop.caller(name).await);
        }
        if round % PENDING == 0 {
            carried(&shop.orders()).await;
        }
    }
    eventually("all others were ended", || (shop.payments.live() <= PENDING as u64).then_some(())).await;
    assert_eq!(shop.payments.refusal("handshakes_pending").await["direction"], "inbound");
    silent.first_mut().unwrap().tls.read_to_end(&mut Vec::new()).await.unwrap();
    carried(&shop.orders()).await;
}

#[tokio::test]
async fn a_tunnel_that_opens_nothing_lasts_no_longer_than_a_handshake_may() {
    let handshake_timeout = std::time::Duration::from_secs(2);
    let shop = Shop::new(Limits { handshake_timeout, ..Limits::default() }).await;
    let mut silent = shop.caller("orders").await;
    silent.tls.read_to_end(&mut Vec::new()).await.unwrap();
    let told = shop.payments.refusal("handshake_timeout").await;
    assert_eq!(told["from"], "spiffe://shop.example/orders");
}

#[tokio::test]
async fn who_may_not_connect_has_a_place_of_a_handshake_only() {
    let limits =
        Limits { handshakes_pending_max: PENDING, connections_max: PENDING * 8, ..Limits::default() };
    let shop = Shop::new(limits).await;
    let mut refused = Vec::new();
    for _ in 0..PENDING * 4 {
        let mut caller = shop.caller("reports").await;
        caller.send(&open()).await.unwrap();
        assert!(matches!(caller.frame().await, Ok(Frame::Refuse(_)) | Err(_)));
        // It does not say FIN, as if it had not heard.
        refused.push(caller);
    }
    eventually("all others were ended", || (shop.payments.live() <= PENDING as u64).then_some(())).await;
    carried(&shop.orders()).await;
}

#[tokio::test]
async fn tunnels_that_wait_for_a_connection_do_not_count_as_connections_of_their_identity() {
    const MAX: usize = 2;
    let shop = Shop::new(Limits { connections_per_peer_max: MAX, ..Limits::default() }).await;
    let (first, second) = (shop.orders(), shop.orders());
    let open = [carried(&first).await, carried(&first).await];
    expect_refused(second.outbound.unwrap()).await;
    let told = second.refusal("connections_per_peer_max").await;
    assert!(
        told["detail"].as_str().unwrap().contains("as many as connections_per_peer_max allows"),
        "{told}"
    );
    let [one, two] = open;
    end(one).await;
    end(two).await;
    eventually("both tunnels wait", || (first.proxy.pools.idle() == MAX).then_some(())).await;
    let _again = [carried(&second).await, carried(&second).await];
    assert!(shop.payments.live() >= 2 * MAX as u64, "the idle ones are still there");
}

#[tokio::test]
async fn the_tunnel_that_has_waited_longest_gives_way_when_too_many_wait() {
    const IDLE: usize = 4;
    let shop = Shop::new(Limits { connections_max: IDLE * 4, ..Limits::default() }).await;
    let mut callers = Vec::new();
    for _ in 0..IDLE + 2 {
        let mut caller = shop.caller("orders").await;
        caller.lease().await;
        caller.send(&encoded(&Frame::Fin)).await.unwrap();
        assert_eq!(caller.frame().await.unwrap(), Frame::Fin);
        callers.push(caller);
    }
    for caller in &mut callers[..2] {
        // Retired by close_notify, so that a connection that comes at the same time is tried again.
        caller.tls.read_to_end(&mut Vec::new()).await.unwrap();
    }
    for caller in &mut callers[2..] {
        caller.lease().await;
    }
}

#[tokio::test]
async fn an_app_whose_side_dies_while_the_other_takes_nothing_is_noticed_at_both_sidecars() {
    let authority = Authority::new();
    let hanging = App::serve(async |_stream: TcpStream| std::future::pending::<io::Result<()>>().await).await;
    let payments = Spec::new(&authority, "payments").app(hanging.address).start(&authority);
    let orders = Spec::new(&authority, "orders").to(&[payments.inbound.unwrap()]).start(&authority);
    let stream = TcpStream::connect(orders.outbound.unwrap()).await.unwrap();
    let stalls = |sidecar: &Sidecar| {
        let shown = sidecar.proxy.register.shown();
        shown["connections"][0]["stalled"].as_str().map(str::to_owned)
    };
    eventually("both sidecars wait for the app", || {
        // As much as is taken.
        let _written = stream.try_write(&[7; 64 * 1024]);
        let (at_orders, at_payments) = (stalls(&orders)?, stalls(&payments)?);
        (at_orders == "the peer takes nothing" && at_payments == "the app takes nothing").then_some(())
    })
    .await;
    crate::apps::reset(stream);
    eventually("its end reaches both", || (orders.live() == 0 && payments.live() == 0).then_some(())).await;
}
