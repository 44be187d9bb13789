//! Requests reach their service as long as one of its addresses works.

use std::net::SocketAddr;

use postern_sidecar::observability::Direction;
use postern_sidecar::proxy::upstream::load_balancer::EJECT_AFTER;

use postern_proto::policy::Protocol;

use crate::authority::Authority;
use crate::name_server::{NameServer, Says};
use crate::shop::{App, POLICY, Shop, ask};
use crate::sidecar::{Sidecar, Spec, eventually, host_port};

fn dead() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn with_dead_addresses_beside_a_live_one_every_request_is_answered() {
    let shop = Shop::with_orders(|orders| orders.to.extend([(); 2].map(|()| host_port(dead())))).await;
    for _ in 0..20 {
        assert_eq!(ask(&shop.orders, "GET /charges/7 HTTP/1.1").await.status(), 200);
    }
    let shown = shop.orders.proxy.upstreams.shown(Direction::Outbound, 0);
    assert_eq!(shown["addresses"].as_array().unwrap().len(), 3);
    let newest = shop.orders.proxy.refusals.newest();
    assert_eq!(newest.as_array().unwrap().len(), 0, "nobody was refused: {newest}");
    let live = shop.payments.inbound.unwrap().to_string();
    let in_flight = || {
        let shown = shop.orders.proxy.upstreams.shown(Direction::Outbound, 0);
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

fn http(mut spec: Spec) -> Spec {
    (spec.policy, spec.protocol) = (Some(POLICY), Protocol::Http);
    spec
}

/// What all requests so far have brought an inbound.
fn bytes(sidecar: &Sidecar) -> u64 {
    let shown = sidecar.proxy.register.shown();
    let all = shown["connections"].as_array().unwrap().iter();
    all.map(|one| one["bytes_to_app"].as_u64().unwrap()).sum()
}

#[tokio::test]
async fn requests_one_after_the_other_are_shared_by_all_addresses() {
    let (authority, app) = (Authority::new(), App::telling().await);
    let payments =
        [(); 2].map(|()| http(Spec::new(&authority, "payments").app(app.address)).start(&authority));
    let to = payments.each_ref().map(|sidecar| sidecar.inbound.unwrap());
    let orders = http(Spec::new(&authority, "orders").to(&to)).start(&authority);
    for _ in 0..60 {
        assert_eq!(ask(&orders, "GET /charges/7 HTTP/1.1").await.status(), 200);
    }
    assert_eq!(payments.each_ref().map(Sidecar::live), [1, 1], "one kept connection to each");
    let [one, other] = payments.each_ref().map(bytes);
    assert!(one.abs_diff(other) * 10 < one, "{one} and {other}");
}

#[tokio::test]
async fn a_kept_connection_to_an_address_that_is_none_any_more_is_used_no_more() {
    let (authority, app) = (Authority::new(), App::telling().await);
    let start = |at: SocketAddr| {
        let mut spec = http(Spec::new(&authority, "payments").app(app.address));
        spec.listen = at;
        spec.start(&authority)
    };
    let old = start("127.0.0.2:0".parse().unwrap());
    let at = old.inbound.unwrap();
    let new = start(SocketAddr::from(([127, 0, 0, 3], at.port())));
    let server = NameServer::new(Says::Addresses(vec![at.ip()], 1)).await;
    let spec = http(Spec::new(&authority, "orders"));
    let orders = spec.calling("payments.example", at.port(), server.asked()).start(&authority);
    assert_eq!(ask(&orders, "GET /charges/7 HTTP/1.1").await.status(), 200);
    assert_eq!((old.live(), new.live()), (1, 0));

    let new_at = new.inbound.unwrap();
    server.say(Says::Addresses(vec![new_at.ip()], 1));
    let shown = || orders.proxy.upstreams.shown(Direction::Outbound, 0)["addresses"][0]["address"].clone();
    eventually("it has moved", || (shown() == *new_at.to_string()).then_some(())).await;
    for _ in 0..5 {
        assert_eq!(ask(&orders, "GET /charges/7 HTTP/1.1").await.status(), 200);
    }
    assert_eq!(new.live(), 1);
    eventually("the old one is closed", || (old.live() == 0).then_some(())).await;
}
