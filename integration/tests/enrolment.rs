//! A join token is good once, in time, for one identity and at one CA.

use std::time::Duration;

use postern_integration::{CaOptions, Mesh, tls};
use tokio::task::JoinSet;
use tonic::Code;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hundred_concurrent_callers_one_redeems_a_token() {
    let mesh = Mesh::default();
    let ca = std::sync::Arc::new(mesh.ca(CaOptions::default()).await);
    let token = ca.token("orders");
    let mut callers = JoinSet::new();
    for _ in 0..100 {
        let (ca, token) = (ca.clone(), token.clone());
        callers.spawn(async move { tls::redeem(&ca, &token).await });
    }
    let results = callers.join_all().await;
    let refused: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert_eq!(refused.len(), 99);
    for status in refused {
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unauthenticated, "this join token has been used up")
        );
    }
}

#[tokio::test]
async fn a_token_is_refused_after_its_time_for_another_id_and_at_another_ca() {
    let (mesh, other_mesh) = (Mesh::default(), Mesh::default());
    let (ca, other) = (mesh.ca(CaOptions::default()).await, other_mesh.ca(CaOptions::default()).await);

    let short = ca.run(&["token", "create", "--id", "orders", "--ttl", "1s"]);
    // Time itself is what is tested.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_refused(tls::redeem(&ca, &short).await, Code::Unauthenticated, "expired");

    let token = ca.token("orders");
    let stolen = token.replace("shop.example/orders", "shop.example/payments");
    assert_refused(tls::redeem(&ca, &stolen).await, Code::PermissionDenied, "another identity");
    let foreign = token.replace("shop.example/orders", "other.example/orders");
    assert_refused(tls::redeem(&ca, &foreign).await, Code::PermissionDenied, "trust domain");
    assert_refused(tls::redeem(&other, &token).await, Code::Unauthenticated, "another CA");
    let mut guessed = token.trim().to_owned();
    let last = guessed.pop().unwrap();
    guessed.push(if last == 'A' { 'E' } else { 'A' });
    assert_refused(tls::redeem(&ca, &guessed).await, Code::Unauthenticated, "unknown");

    tls::redeem(&ca, &token).await.unwrap();
}

#[tokio::test]
async fn a_token_of_three_uses_is_good_three_times() {
    let mesh = Mesh::default();
    let ca = mesh.ca(CaOptions::default()).await;
    let token = ca.run(&["token", "create", "--id", "/ns/shop/sa/orders", "--uses", "3"]);
    for _ in 0..3 {
        let svid = tls::redeem(&ca, &token).await.unwrap();
        assert_eq!(svid.id().as_str(), "spiffe://shop.example/ns/shop/sa/orders");
    }
    assert_refused(tls::redeem(&ca, &token).await, Code::Unauthenticated, "used up");
}

#[tokio::test]
async fn nobody_gets_a_reserved_or_foreign_identity() {
    let mesh = Mesh::default();
    let ca = mesh.ca(CaOptions::default()).await;
    for id in
        ["postern/ca", "/postern/x", "spiffe://other.example/orders", "spiffe://shop.example", "a//b", ""]
    {
        let output = std::process::Command::new(postern_integration::ca_binary())
            .args(["token", "create", "--id", id, "--data-dir"])
            .arg(&ca.data_dir)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{id}");
        assert!(output.stdout.is_empty(), "{id}: nothing but a token goes to stdout");
    }
}

#[tokio::test]
async fn a_renewal_needs_a_certificate_on_record_and_a_new_key() {
    let (mesh, other_mesh) = (Mesh::default(), Mesh::default());
    let (ca, other) = (mesh.ca(CaOptions::default()).await, other_mesh.ca(CaOptions::default()).await);
    let first = tls::enrol(&ca, "orders").await;
    let second = tls::renew(&ca, &first).await.unwrap();
    assert_eq!(second.id(), first.id());
    assert_ne!(second.verified().serial(), first.verified().serial());
    assert!(second.verified().not_after() >= first.verified().not_after());

    let same_key = tls::renew_with_key_of(&ca, &second, &second).await;
    assert_refused(same_key, Code::InvalidArgument, "make a new one");
    let stranger = tls::enrol(&other, "orders").await;
    assert!(tls::try_renew(&ca, &stranger).await.is_err(), "another CA's certificate opens no connection");
    let nobody = tls::renew_without_certificate(&ca).await;
    assert_refused(nobody, Code::Unauthenticated, "current certificate");
}

#[tokio::test]
async fn whoever_asks_too_often_is_told_when_to_come_back() {
    let mesh = Mesh::default();
    let extra = "[limits]\nidentity_per_second = 1\nidentity_burst = 2\n";
    let ca = mesh.ca(CaOptions { extra, ..CaOptions::default() }).await;
    let mut svid = tls::enrol(&ca, "orders").await;
    svid = tls::renew(&ca, &svid).await.unwrap();
    let status = tls::renew(&ca, &svid).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    let wait = status.metadata().get("retry-after").unwrap().to_str().unwrap();
    assert_eq!(wait, "1");
    tls::enrol(&ca, "payments").await;
}

fn assert_refused<T: std::fmt::Debug>(result: Result<T, tonic::Status>, code: Code, reason: &str) {
    let status = result.unwrap_err();
    assert_eq!(status.code(), code, "{status}");
    assert!(status.message().contains(reason), "{reason:?} is missing in {:?}", status.message());
}
