//! What is cut ends at once and as an error, whatever the other side does, and nothing of it is left behind.

use std::net::SocketAddr;
use std::sync::Arc;

use postern_proto::identity::TrustBundles;
use postern_proto::policy::Protocol;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};

use crate::apps::{App, expect_reset};
use crate::authority::{Authority, id};
use crate::live::{ALL, Http2, Switch, asked, echo, policy, switched};
use crate::peers::acceptor;
use crate::sidecar::{Sidecar, Spec, eventually};

/// `payments` without a sidecar, which hears of no policy, revocation or root, and echoes.
async fn foreign_payments(authority: &Authority) -> App {
    let acceptor = acceptor(authority, &[b"h2", b"http/1.1"]);
    App::serve(move |stream: TcpStream| {
        let acceptor = acceptor.clone();
        async move { echo(acceptor.accept(stream).await?).await }
    })
    .await
}

fn http(mut spec: Spec) -> Spec {
    spec.protocol = Protocol::Http;
    spec
}

/// Sockets held for connections that were accepted at or made to these ports.
fn sockets(accepted_at: &[SocketAddr], made_to: &[SocketAddr]) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let is_one_of = |field: &str, ports: &[SocketAddr]| {
        ports.iter().any(|address| field.ends_with(&format!(":{:04X}", address.port())))
    };
    let held = |line: &&str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (local, remote, state, inode) = (fields[1], fields[2], fields[3], fields[9]);
        // Not a listener, and not what the kernel alone still remembers.
        state != "0A" && inode != "0" && (is_one_of(local, accepted_at) || is_one_of(remote, made_to))
    };
    table.lines().skip(1).filter(held).count()
}

#[tokio::test]
async fn streams_of_a_peer_that_ignores_the_cut_end_at_once_as_errors() {
    type Cut = fn(&Sidecar);
    let causes: [(&str, Cut); 3] = [
        ("another identity", |orders| {
            let section = "[service.payments]\n";
            orders.apply(
                &policy(Some(ALL), None).replace(section, &format!("{section}identity = \"/other\"\n")),
            );
        }),
        ("revoked", |orders| assert!(orders.proxy.control.revoked.replace([id("payments")].into()))),
        ("root removed", |orders| {
            let own = orders.proxy.control.credentials.current().unwrap();
            orders
                .proxy
                .control
                .credentials
                .replace(own.svid.clone(), Arc::new(TrustBundles::default()))
                .unwrap();
        }),
    ];
    for (cause, cut) in causes {
        let authority = Authority::new();
        let peer = foreign_payments(&authority).await;
        let orders = http(Spec::new(&authority, "orders").to(&[peer.address])).start(&authority);
        orders.apply(&policy(Some(ALL), None));
        let client = Http2::through(&orders).await;
        let mut stream = client.open("/charge").await;
        let mut upgraded = switched(orders.outbound.unwrap(), Switch::Upgrade).await;
        let mut websocket = switched(orders.outbound.unwrap(), Switch::WebSocket).await;
        assert!(orders.live() >= 2, "{cause}");
        cut(&orders);
        stream.expect_reset().await;
        expect_reset(&mut upgraded).await;
        expect_reset(&mut websocket).await;
        let gone = || orders.live() == 0 && sockets(&[], &[peer.address]) == 0;
        eventually(cause, || gone().then_some(())).await;
    }
}

/// Two sidecars whose tasks are on a runtime of their own, where they can be counted.
struct Counted {
    runtime: Option<Runtime>,
    payments: Sidecar,
    orders: Sidecar,
    app: App,
}

impl Counted {
    async fn new() -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (authority, app) = (Authority::new(), App::serve(echo::<TcpStream>).await);
        let guard = runtime.enter();
        let payments = http(Spec::new(&authority, "payments").app(app.address)).start(&authority);
        let to = [payments.inbound.unwrap()];
        let orders = http(Spec::new(&authority, "orders").to(&to)).start(&authority);
        drop(guard);
        for sidecar in [&payments, &orders] {
            sidecar.apply(&policy(Some(ALL), None));
        }
        Self { runtime: Some(runtime), payments, orders, app }
    }

    fn tasks(&self) -> usize {
        self.runtime.as_ref().unwrap().metrics().num_alive_tasks()
    }

    fn sockets(&self) -> usize {
        let (inbound, outbound) = (self.payments.inbound.unwrap(), self.orders.outbound.unwrap());
        sockets(&[inbound, outbound], &[inbound, self.app.address])
    }

    async fn only_left(&self, tasks: usize) {
        eventually("all has ended", || (self.tasks() == tasks && self.sockets() == 0).then_some(())).await;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[tokio::test]
async fn an_abort_leaves_no_task_and_no_socket() {
    let counted = Counted::new().await;
    let client = Http2::through(&counted.orders).await;
    let (_plain, _grpc) = (client.open("/charge").await, client.open("/shop.Charges/Chat").await);
    let _upgraded = switched(counted.orders.outbound.unwrap(), Switch::Upgrade).await;
    let _websocket = switched(counted.orders.outbound.unwrap(), Switch::WebSocket).await;
    let mut kept = TcpStream::connect(counted.orders.outbound.unwrap()).await.unwrap();
    assert_eq!(asked(&mut kept, "POST /charge").await.unwrap(), 200);
    for sidecar in [&counted.payments, &counted.orders] {
        sidecar.stop.cancel();
        sidecar.abort.cancel();
    }
    counted.only_left(0).await;
}

#[tokio::test]
async fn a_drain_leaves_no_task_and_no_socket() {
    let counted = Counted::new().await;
    let client = Http2::through(&counted.orders).await;
    let (plain, grpc) = (client.open("/charge").await, client.open("/shop.Charges/Chat").await);
    counted.orders.stop.cancel();
    counted.payments.stop.cancel();
    plain.end().await;
    grpc.end().await;
    // What decides about live connections goes on until the end.
    counted.only_left(2).await;
}
