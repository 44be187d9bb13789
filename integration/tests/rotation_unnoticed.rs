//! Certificates of ten seconds, rotated twenty times under load: no failed request, no reset, a new key each time.

use std::collections::HashSet;

use postern_integration::load::{Load, Style};
use postern_integration::shop::Shop;
use postern_integration::{CaOptions, eventually, web};

const ROTATIONS: u64 = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_rotations_under_load_fail_no_request() {
    let shop = Shop::start(CaOptions { svid_ttl: "10s", ..CaOptions::default() }).await;
    let fresh = Load::start(shop.orders_to_payments(), Style::FreshConnections, 4);
    let kept = Load::start(shop.orders_to_payments(), Style::KeptConnections, 4);
    rotations(&shop).await;
    unnoticed([fresh, kept]).await;
    let list = shop.ca.run(&["cert", "list", "--format", "json"]);
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let records = list["certificates"].as_array().unwrap();
    let keys: HashSet<_> = records.iter().map(|record| record["key_sha256"].as_str().unwrap()).collect();
    assert!(records.len() as u64 >= 2 * ROTATIONS, "{} records", records.len());
    assert_eq!(keys.len(), records.len(), "every certificate has a key of its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_rotations_under_http_load_fail_no_request_and_leave_no_connection() {
    let options = CaOptions { svid_ttl: "10s", ..CaOptions::default() };
    let shop = Shop::start_http(options, web::app().await, "").await;
    let styles = [Style::FreshHttp1, Style::KeptHttp1, Style::KeptHttp2];
    let loads = styles.map(|style| Load::start(shop.orders_to_payments(), style, 3));
    rotations(&shop).await;
    unnoticed(loads).await;
    let live = shop.orders.status().await["connections"]["live"].as_u64().unwrap();
    assert!(live <= 2, "connections made with old certificates are gone: {live}");
}

async fn rotations(shop: &Shop) {
    for round in 1..=4 {
        eventually(&format!("{} rotations", round * ROTATIONS / 4), async || {
            let done = |status: serde_json::Value| status["identity"]["rotations"].as_u64().unwrap();
            let least = done(shop.orders.status().await).min(done(shop.payments.status().await));
            (least >= round * ROTATIONS / 4).then_some(())
        })
        .await;
    }
}

async fn unnoticed<const N: usize>(loads: [Load; N]) {
    for load in loads {
        let outcome = load.stop().await;
        assert_eq!(outcome.failures, Vec::<String>::new(), "of {} requests", outcome.served);
        assert!(outcome.served > 1000, "the load was real: {}", outcome.served);
    }
}
