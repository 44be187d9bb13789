//! Requests reach their service as long as one of its addresses works.

use std::net::SocketAddr;

use postern_sidecar::metrics::Direction;
use postern_sidecar::upstream::choice::EJECT_AFTER;

use crate::shop::{Shop, ask};
use crate::sidecar::{eventually, host_port};

fn dead() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn with_dead_addresses_beside_a_live_one_every_request_is_answered() {
    let shop = Shop::with_orders(|orders| orders.to.extend([(); 2].map(|()| host_port(dead())))).await;
    for _ in 0..20 {
        assert_eq!(ask(&shop.orders, "GET /charges/7 HTTP/1.1").await.status(), 200);
    }
    let shown = shop.orders.plane.upstreams.shown(Direction::Outbound, 0);
    assert_eq!(shown["addresses"].as_array().unwrap().len(), 3);
    let newest = shop.orders.plane.refusals.newest();
    assert_eq!(newest.as_array().unwrap().len(), 0, "nobody was refused: {newest}");
    let live = shop.payments.inbound.unwrap().to_string();
    let in_flight = || {
        let shown = shop.orders.plane.upstreams.shown(Direction::Outbound, 0);
        let one = shown["addresses"].as_array().unwrap().iter().find(|one| one["address"] == live).cloned();
        one.unwrap()["in_flight"].as_u64().unwrap()
    };
    assert!(in_flight() >= 1, "the kept connection counts");
    shop.orders.stop.cancel();
    eventually("it is over", || (in_flight() == 0).then_some(())).await;
}

#[tokio::test]
async fn when_all_addresses_are_dead_the_caller_is_told_each() {
    let shop = Shop::with_orders(|orders| orders.to = [(); 2].map(|()| host_port(dead())).to_vec()).await;
    for _ in 0..EJECT_AFTER {
        let seen = ask(&shop.orders, "GET /charges/7 HTTP/1.1").await;
        assert_eq!(seen.status(), 503);
        assert_eq!(seen.json()["detail"].as_str().unwrap().matches("cannot be reached").count(), 2);
    }
    let seen = ask(&shop.orders, "GET /charges/7 HTTP/1.1").await;
    let detail = seen.json()["detail"].to_string();
    assert!(detail.contains("every address had failed again and again before"), "{detail}");
}
