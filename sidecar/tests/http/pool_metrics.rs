//! What metrics say of the connections that are kept for requests, and of dials that bring none.

use std::net::SocketAddr;

use postern_proto::policy::Protocol;
use postern_sidecar::config::AppHttp;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::authority::Authority;
use crate::shop::{self, Shop, ask};
use crate::sidecar::{INBOUND, NO_ROUTE, OUTBOUND, Sidecar, Spec, eventually, nobody};

const REQUESTS: u64 = 3;

async fn connections(sidecar: &Sidecar, listener: &str, wanted: (u64, u64)) {
    let what = format!("active and idle of {listener}: {wanted:?}");
    eventually(&what, || (sidecar.pool_connections(listener) == wanted).then_some(())).await;
}

#[tokio::test]
async fn connections_are_active_while_they_carry_requests_idle_after_and_gone_at_the_end() {
    let shop = Shop::with(|spec| spec.app_http = AppHttp::Http1).await;
    assert_eq!(shop.orders.pool_connections(OUTBOUND), (0, 0));
    assert_eq!(shop.payments.pool_connections(INBOUND), (0, 0));
    assert_eq!(shop.orders.pool_dials(OUTBOUND), [0, 0, 0, 0]);

    let mut under_way = Vec::new();
    for _ in 0..REQUESTS {
        let mut stream = TcpStream::connect(shop.orders.outbound.unwrap()).await.unwrap();
        let request =
            b"POST /charge HTTP/1.1\r\nhost: payments\r\nconnection: close\r\ncontent-length: 8\r\n\r\nhalf";
        stream.write_all(request).await.unwrap();
        under_way.push(stream);
    }
    connections(&shop.orders, OUTBOUND, (1, 0)).await;
    connections(&shop.payments, INBOUND, (REQUESTS, 0)).await;

    for mut stream in under_way {
        stream.write_all(b"half").await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    }
    connections(&shop.orders, OUTBOUND, (0, 1)).await;
    connections(&shop.payments, INBOUND, (0, REQUESTS)).await;
    assert_eq!(ask(&shop.orders, "GET /charges/7 HTTP/1.1").await.status(), 200);
    assert_eq!(shop.orders.pool_dials(OUTBOUND), [1, 0, 0, 0]);
    assert_eq!(shop.payments.pool_dials(INBOUND), [REQUESTS, 0, 0, 0]);

    shop.orders.stop.cancel();
    shop.payments.stop.cancel();
    connections(&shop.orders, OUTBOUND, (0, 0)).await;
    connections(&shop.payments, INBOUND, (0, 0)).await;
}

/// How dials to this address end, after a request that is answered 503.
async fn dials(authority: &Authority, caller: &str, to: SocketAddr) -> [bool; 4] {
    let mut spec = Spec::new(authority, caller).to(&[to]);
    (spec.policy, spec.protocol) = (Some(shop::POLICY), Protocol::Http);
    let sidecar = spec.start(authority);
    let refused = ask(&sidecar, "GET /charges/7 HTTP/1.1").await;
    assert!([403, 503].contains(&refused.status()), "{refused:?}");
    assert_eq!(sidecar.pool_connections(OUTBOUND), (0, 0));
    sidecar.pool_dials(OUTBOUND).map(|count| count > 0)
}

#[tokio::test]
async fn dials_that_bring_no_connection_are_counted_by_what_was_in_the_way() {
    let (authority, app) = (Authority::new(), shop::App::telling().await);
    let inbound = |name| {
        let mut spec = Spec::new(&authority, name).app(app.address);
        (spec.policy, spec.protocol) = (Some(shop::POLICY), Protocol::Http);
        spec.start(&authority)
    };
    let (payments, reports) = (inbound("payments"), inbound("reports"));
    let (failed, refused) = ([false, true, false, false], [false, false, true, false]);
    assert_eq!(dials(&authority, "orders", nobody()).await, failed, "nobody is there");
    assert_eq!(
        dials(&authority, "orders", reports.inbound.unwrap()).await,
        refused,
        "another than was called"
    );
    assert_eq!(
        dials(&authority, "visitor", payments.inbound.unwrap()).await,
        refused,
        "called by a stranger"
    );
    assert_eq!(dials(&authority, "orders", NO_ROUTE).await, [false, false, false, true], "no route");
}

#[tokio::test]
async fn a_dial_of_an_app_that_is_not_there_has_failed() {
    let shop = Shop::with(|spec| spec.app = Some(crate::sidecar::host_port(nobody()))).await;
    assert_eq!(ask(&shop.orders, "GET /charges/7 HTTP/1.1").await.status(), 503);
    let [ok, failed, refused, local_fault] = shop.payments.pool_dials(INBOUND);
    assert!(ok + refused + local_fault == 0 && failed > 0, "{failed} failed");
    assert_eq!(shop.payments.pool_connections(INBOUND), (0, 0));
}
