//! What metrics say of the tunnels that are kept for connections of the app, and of dials that bring none.

use std::net::SocketAddr;

use tokio::net::TcpStream;

use crate::apps::{App, echoed, expect_refused};
use crate::authority::Authority;
use crate::sidecar::{INBOUND, NO_ROUTE, OUTBOUND, Sidecar, Spec, eventually, nobody};

async fn call(sidecar: &Sidecar) -> TcpStream {
    let mut stream = TcpStream::connect(sidecar.outbound.unwrap()).await.unwrap();
    echoed(&mut stream).await.unwrap();
    stream
}

async fn connections(sidecar: &Sidecar, wanted: (u64, u64)) {
    let what = format!("active and idle: {wanted:?}");
    eventually(&what, || (sidecar.pool_connections(OUTBOUND) == wanted).then_some(())).await;
}

#[tokio::test]
async fn tunnels_are_active_while_they_carry_connections_idle_after_and_gone_at_the_end() {
    let (authority, app) = (Authority::new(), App::echo().await);
    let payments = Spec::new(&authority, "payments").app(app.address).start(&authority);
    let orders = Spec::new(&authority, "orders").to(&[payments.inbound.unwrap()]).start(&authority);
    assert_eq!(orders.pool_connections(OUTBOUND), (0, 0));
    assert_eq!(orders.pool_dials(OUTBOUND), [0, 0, 0, 0]);
    let (first, second) = (call(&orders).await, call(&orders).await);
    connections(&orders, (2, 0)).await;
    drop(first);
    connections(&orders, (1, 1)).await;
    drop(second);
    connections(&orders, (0, 2)).await;
    let third = call(&orders).await;
    connections(&orders, (1, 1)).await;
    assert_eq!(orders.pool_dials(OUTBOUND), [2, 0, 0, 0], "the third rides a kept tunnel");
    drop(third);
    orders.stop.cancel();
    connections(&orders, (0, 0)).await;
    let text = payments.proxy.control.metrics.text().unwrap();
    assert!(
        !text.contains(&format!("postern_pool_connections{{{INBOUND}")),
        "none is kept to a tcp app: {text}"
    );
}

#[tokio::test]
async fn dials_that_bring_no_tunnel_are_counted_by_what_was_in_the_way() {
    let (authority, app) = (Authority::new(), App::echo().await);
    let reports = Spec::new(&authority, "reports").app(app.address).start(&authority);
    let dials = async |to: SocketAddr| {
        let orders = Spec::new(&authority, "orders").to(&[to]).start(&authority);
        expect_refused(orders.outbound.unwrap()).await;
        assert_eq!(orders.pool_connections(OUTBOUND), (0, 0));
        orders.pool_dials(OUTBOUND).map(|count| count > 0)
    };
    assert_eq!(dials(nobody()).await, [false, true, false, false], "nobody is there");
    assert_eq!(dials(reports.inbound.unwrap()).await, [false, false, true, false], "another than was called");
    assert_eq!(dials(NO_ROUTE).await, [false, false, false, true], "no route");
}
