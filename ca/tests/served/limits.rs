//! Every limit of the workloads' door is reached, named to whom it concerns, and over when its cause is.

use std::time::Duration;

use postern_proto::wire::v1::{IssueRequest, RenewRequest};
use rcgen::KeyPair;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tonic::{Code, Status};

use crate::fixture::{Ca, Client, Home, csr, issue_request};

/// Well past every limit of these tests, and well before any default.
const SOON: Duration = Duration::from_secs(8);

/// Waits until the CA has closed the connection.
async fn closed(stream: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let mut rest = Vec::new();
    // A reset is an end, too.
    let _end = tokio::time::timeout(SOON, stream.read_to_end(&mut rest)).await.expect("it is closed");
}

fn assert_busy(status: &Status, what: &str) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains(what), "{status}");
    let wait: u64 = status.metadata().get("retry-after").unwrap().to_str().unwrap().parse().unwrap();
    assert!((1..=3).contains(&wait), "{wait} s");
}

#[tokio::test]
async fn a_stalled_handshake_is_cut_after_its_time() {
    let home = Home::new();
    let ca = home.start("[limits]\nhandshake_timeout = \"100ms\"\n");
    let mut silent = TcpStream::connect(ca.address).await.unwrap();
    closed(&mut silent).await;
    home.logged("handshake_timeout").await;
}

#[tokio::test]
async fn stalled_handshakes_keep_nobody_out() {
    let home = Home::new();
    let ca = home.start("[limits]\nhandshakes_pending_max = 4\n");
    let mut oldest = TcpStream::connect(ca.address).await.unwrap();
    let mut others = Vec::new();
    for _ in 0..40 {
        others.push(TcpStream::connect(ca.address).await.unwrap());
    }
    closed(&mut oldest).await;
    ca.client().redeem(&ca.token("orders", 1)).await.unwrap();
    home.logged("handshakes_pending").await;
}

#[tokio::test]
async fn one_connection_too_many_is_closed_until_another_ends() {
    let home = Home::new();
    let ca = home.start("[limits]\nconnections_max = 2\n");
    let client = ca.client();
    let (one, _two) = (client.tls(None).await.unwrap(), client.tls(None).await.unwrap());
    assert!(client.tls(None).await.is_err());
    drop(one);
    let token = ca.token("orders", 1);
    let redeemed = async {
        loop {
            if let Ok(mut connection) = client.connect(None).await {
                let request = issue_request(&token, csr(&KeyPair::generate().unwrap()));
                return connection.issue(request).await;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, redeemed).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_request_that_never_ends_is_answered_all_the_same() {
    let home = Home::new();
    let ca = home.start("[limits]\nrequest_timeout = \"100ms\"\n");
    let mut stalled = ca.client().stall().await;
    // The rest of a frame's head after its length: HEADERS that end stream 1 (RFC 9113 §4.1, §6.2).
    let headers = [1, 5, 0, 0, 0, 1];
    let mut heard = Vec::new();
    let answered = async {
        while !heard.windows(headers.len()).any(|bytes| bytes == headers) {
            assert_ne!(stalled.read_buf(&mut heard).await.unwrap(), 0);
        }
    };
    tokio::time::timeout(SOON, answered).await.unwrap();
}

#[tokio::test]
async fn an_old_connection_is_ended_whether_it_was_used_or_not() {
    let home = Home::new();
    let ca = home.start("[limits]\nrequest_timeout = \"100ms\"\nconnection_age_max = \"100ms\"\n");
    let client = ca.client();
    closed(&mut client.stall().await).await;
    closed(&mut client.tls(None).await.unwrap()).await;
}

#[tokio::test]
async fn an_address_that_asks_too_often_is_told_when_to_come_back() {
    let home = Home::new();
    let ca = home.start("[limits]\naddress_per_second = 1\naddress_burst = 2\n");
    let (client, token) = (ca.client(), ca.token("orders", 9));
    client.redeem(&token).await.unwrap();
    client.redeem(&token).await.unwrap();
    assert_busy(&client.redeem(&token).await.unwrap_err(), "from this address");
}

#[tokio::test]
async fn an_identity_is_limited_by_its_own_requests_and_by_nobody_elses() {
    let home = Home::new();
    let ca = home.start("[limits]\nidentity_per_second = 1\nidentity_burst = 2\n");
    let (client, token) = (ca.client(), ca.token("orders", 9));
    let first = client.redeem(&token).await.unwrap();
    // Made-up secrets for the same identity.
    let stranger = made_up_token_like(&token);
    for _ in 0..20 {
        let status = client.redeem(&stranger).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    }
    let second = client.renew(&first).await.unwrap();
    assert_busy(&client.renew(&second).await.unwrap_err(), "spiffe://shop.example/orders");
    client.redeem(&ca.token("payments", 1)).await.unwrap();
}

fn made_up_token_like(token: &str) -> String {
    let (start, secret) = token.rsplit_once(':').unwrap();
    let secret: String = secret.chars().rev().collect();
    // The last of 43 characters carries four bits only.
    format!("{start}:{}A", &secret[..42])
}

#[tokio::test]
async fn more_requests_than_may_be_under_way_are_told_to_come_back() {
    let home = Home::new();
    let ca = home.start("[limits]\nrequests_max = 1\n");
    let (client, token) = (ca.client(), ca.token("orders", 200));
    let (mut granted, mut busy) = (0, 0);
    let mut connections = tokio::task::JoinSet::new();
    for _ in 0..8 {
        connections.spawn(many_at_once(client.clone(), token.clone()));
    }
    for answer in connections.join_all().await.concat() {
        match answer {
            None => granted += 1,
            Some(status) => {
                assert_busy(&status, "under way");
                busy += 1;
            }
        }
    }
    assert!(granted >= 1 && busy >= 1, "{granted} granted, {busy} busy");
}

async fn many_at_once(client: Client, token: String) -> Vec<Option<Status>> {
    let connection = client.connect(None).await.unwrap();
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (mut connection, request) =
            (connection.clone(), issue_request(&token, csr(&KeyPair::generate().unwrap())));
        requests.spawn(async move { connection.issue(request).await.err() });
    }
    requests.join_all().await
}

#[tokio::test]
async fn what_is_too_large_or_absent_is_refused_by_name() {
    let home = Home::new();
    let ca = home.start("");
    let client = ca.client();
    let mut connection = client.connect(None).await.unwrap();
    let small = csr(&KeyPair::generate().unwrap());
    let token = ca.token("orders", 1);
    for (request, code, reason) in [
        (issue_request(&"x".repeat(5_000), small.clone()), Code::InvalidArgument, "5000 bytes"),
        (issue_request(&token, vec![0; 9_000]), Code::InvalidArgument, "9000 bytes"),
        (issue_request(&token, vec![0; 64 * 1024]), Code::OutOfRange, "too large"),
        (issue_request(&token, Vec::new()), Code::InvalidArgument, "PKCS#10"),
        (IssueRequest { csr: small.clone(), attestation: None }, Code::InvalidArgument, "no attestation"),
    ] {
        let status = connection.issue(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(reason), "{reason:?} is missing in {status}");
    }
    let status = connection.renew(RenewRequest { csr: small }).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    client.redeem(&token).await.unwrap();
    assert_records(&ca, 1);
}

fn assert_records(ca: &Ca, expected: usize) {
    let list: serde_json::Value =
        serde_json::from_str(&ca.told(&["cert", "list", "--format", "json"])).unwrap();
    assert_eq!(list["certificates"].as_array().unwrap().len(), expected);
}
