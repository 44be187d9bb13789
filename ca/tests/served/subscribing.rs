//! What a sidecar hears on its stream, when it ends, and who gets none.

use std::time::Duration;

use postern_proto::wire::v1::sidecar_report::Report;
use postern_proto::wire::v1::sidecar_update::Update;
use postern_proto::wire::v1::{PolicyAcknowledgement, SidecarHello};
use tonic::{Code, Status};

use crate::fixture::Home;
use crate::subscriber::{Subscriber, hello, svid};

const POLICY: &str = "trust_domain = \"shop.example\"\n[service.payments]\n[[service.payments.allow]]\n\
                      from = [\"orders\"]\n[service.orders]\n";

fn with_comment(number: usize) -> String {
    format!("{POLICY}# {number}\n")
}

#[tokio::test]
async fn both_kinds_come_at_once_and_then_each_change_at_once() {
    let home = Home::new();
    let ca = home.start("");
    let client = ca.client();
    let services = vec!["orders".to_owned(), "nobody".to_owned()];
    let payments = svid(&ca, "payments").await;
    let mut stream = client.subscribe(&payments, SidecarHello { services, ..hello("one") }).await.unwrap();
    assert!(matches!(stream.next().await.unwrap().unwrap(), Update::Revoked(list) if list.ids.is_empty()));
    let nothing = stream.slice().await;
    assert_eq!((nothing.version, nothing.own, nothing.trust_domain.as_str()), (0, None, "shop.example"));
    ca.apply(POLICY);
    let slice = stream.slice().await;
    assert_eq!((slice.version, slice.names.len()), (1, 1));
    let own = slice.own.unwrap();
    assert_eq!((own.name.as_str(), own.rules.len()), ("payments", 1));
    assert!(slice.file.ends_with("policy.toml") && slice.digest.starts_with("sha256:"));
    ca.told(&["identity", "revoke", "orders", "--reason", "stolen", "--author", "ann"]);
    assert_eq!(stream.revoked().await, ["spiffe://shop.example/orders"]);
    ca.told(&["identity", "restore", "orders", "--author", "ann"]);
    assert!(stream.revoked().await.is_empty());
}

#[tokio::test]
async fn what_was_stored_is_told_after_a_restart() {
    let home = Home::new();
    let mut ca = home.start("");
    ca.apply(POLICY);
    ca.told(&["identity", "revoke", "orders", "--reason", "stolen", "--author", "ann"]);
    let payments = svid(&ca, "payments").await;
    ca.signal("-TERM");
    ca.wait();
    let ca = home.start("");
    let mut stream = ca.client().subscribe(&payments, hello("one")).await.unwrap();
    assert_eq!(stream.revoked().await, ["spiffe://shop.example/orders"]);
    assert_eq!(stream.slice().await.version, 1);
}

#[tokio::test]
async fn a_sidecar_with_a_policy_of_its_own_hears_of_revocations_only() {
    let home = Home::new();
    let ca = home.start("");
    ca.apply(POLICY);
    let own_policy_digest = "sha256:00".to_owned();
    let said = SidecarHello { own_policy_digest, ..hello("one") };
    let mut stream = ca.client().subscribe(&svid(&ca, "payments").await, said).await.unwrap();
    ca.apply(&with_comment(2));
    ca.told(&["identity", "revoke", "orders", "--reason", "stolen", "--author", "ann"]);
    for _ in 0..2 {
        assert!(matches!(stream.next().await.unwrap(), Some(Update::Revoked(_))));
    }
}

#[tokio::test]
async fn a_revocation_ends_the_stream_with_its_reason_and_only_a_restored_identity_comes_back() {
    let home = Home::new();
    let ca = home.start("");
    let (client, orders) = (ca.client(), svid(&ca, "orders").await);
    let mut stream = client.subscribe(&orders, hello("one")).await.unwrap();
    let mut other = client.subscribe(&svid(&ca, "payments").await, hello("one")).await.unwrap();
    ca.told(&["identity", "revoke", "orders", "--reason", "laptop stolen", "--author", "ann"]);
    for status in [stream.refusal().await, client.subscribe(&orders, hello("two")).await.err().unwrap()] {
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
        assert!(status.message().contains("laptop stolen"), "{status}");
    }
    let status = client.renew(&orders).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert_eq!(other.revoked().await, Vec::<String>::new());
    assert_eq!(other.revoked().await, ["spiffe://shop.example/orders"]);
    ca.told(&["identity", "restore", "orders", "--author", "ann"]);
    client.subscribe(&orders, hello("one")).await.unwrap().slice().await;
    client.renew(&orders).await.unwrap();
}

#[tokio::test]
async fn a_stream_ends_with_its_certificate_which_is_good_for_a_renewal_only() {
    let home = Home::new();
    let ca = home.start("svid_ttl = \"10s\"\n");
    let (client, orders) = (ca.client(), svid(&ca, "orders").await);
    let mut stream = client.subscribe(&orders, hello("one")).await.unwrap();
    let status = tokio::time::timeout(Duration::from_secs(20), ended(&mut stream)).await.unwrap();
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    let status = client.subscribe(&orders, hello("one")).await.err().unwrap();
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    let next = client.renew(&orders).await.unwrap();
    client.subscribe(&next, hello("one")).await.unwrap().slice().await;
}

/// How a stream ends that has nothing more to tell for some time.
async fn ended(stream: &mut Subscriber) -> Status {
    loop {
        match stream.updates.message().await {
            Ok(update) => assert!(update.is_some(), "it ended without a reason"),
            Err(status) => return status,
        }
    }
}

#[tokio::test]
async fn who_shows_no_certificate_or_begins_otherwise_gets_no_stream() {
    let home = Home::new();
    let ca = home.start("[limits]\nrequest_timeout = \"300ms\"\n");
    let (client, orders) = (ca.client(), svid(&ca, "orders").await);
    let stranger = client.begin(None, Report::Hello(hello("one"))).await.err().unwrap();
    assert_eq!(stranger.code(), Code::Unauthenticated, "{stranger}");
    let acknowledgement = Report::Acknowledgement(PolicyAcknowledgement::default());
    for first in [acknowledgement, Report::Hello(SidecarHello::default())] {
        let status = client.begin(Some(&orders), first).await.err().unwrap();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    let mut twice = client.subscribe(&orders, hello("one")).await.unwrap();
    twice.report(Report::Hello(hello("one"))).await;
    assert_eq!(twice.refusal().await.code(), Code::InvalidArgument);
    // No hello at all.
    let mut connection = client.connect(Some(&orders)).await.unwrap();
    let silent = connection.subscribe(tokio_stream::pending()).await.unwrap_err();
    assert!(matches!(silent.code(), Code::DeadlineExceeded | Code::Cancelled), "{silent}");
}

#[tokio::test]
async fn a_stream_outlives_the_age_of_connections_and_ends_in_order_with_the_ca() {
    let home = Home::new();
    let mut ca = home.start("[limits]\nrequest_timeout = \"50ms\"\nconnection_age_max = \"100ms\"\n");
    let client = ca.client();
    let mut stream = client.subscribe(&svid(&ca, "orders").await, hello("one")).await.unwrap();
    // An idle connection that is younger is closed meanwhile.
    let mut idle = client.tls(None).await.unwrap();
    let mut rest = Vec::new();
    let closed = tokio::io::AsyncReadExt::read_to_end(&mut idle, &mut rest);
    let _reset_or_end = tokio::time::timeout(Duration::from_secs(8), closed).await.expect("it is closed");
    ca.apply(POLICY);
    while stream.slice().await.version != 1 {}
    ca.signal("-TERM");
    assert!(matches!(stream.next().await, Ok(None)));
    assert_eq!(ca.wait().code(), Some(0), "{}", home.log());
}

#[tokio::test]
async fn a_slow_reader_skips_versions_and_stalls_nobody() {
    let home = Home::new();
    let ca = home.start("");
    let client = ca.client();
    let mut slow = client.subscribe(&svid(&ca, "orders").await, hello("slow")).await.unwrap();
    let mut quick = client.subscribe(&svid(&ca, "payments").await, hello("quick")).await.unwrap();
    // More than what fits into the windows of a connection that nobody reads (RFC 9113 §6.9.2).
    let bulk = bulky_rules();
    let versions = 40;
    for version in 1..=versions {
        ca.apply(&format!("{POLICY}{bulk}# {version}\n"));
        while quick.slice().await.version != version {}
    }
    let mut heard = Vec::new();
    while heard.last() != Some(&versions) {
        heard.push(slow.slice().await.version);
    }
    assert!(heard.is_sorted() && heard.len() < 40, "{heard:?}");
}

/// Rules of `orders` that make its slice large.
fn bulky_rules() -> String {
    let rule = |number| {
        format!(
            "[[service.orders.allow]]\nfrom = [\"payments\"]\ncalls = [\"GET /{number}\"]\nreason = \"{}\"\n",
            "x".repeat(4_000)
        )
    };
    (0..40).map(rule).collect()
}
