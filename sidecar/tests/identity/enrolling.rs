//! The first certificate, and its renewals.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use postern_sidecar::config::HostPort;
use postern_sidecar::identity::ca_client::{CaClient, Timeouts};
use postern_sidecar::network::resolver::NameServers;
use postern_sidecar::network::resolver::setup::SystemFiles;
use time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::authority::{Authority, id};
use crate::fake_ca::{Behaviour, FakeCa, issue};
use crate::workload::Home;

async fn ca(life: Duration, home: &Home) -> FakeCa {
    let authority = Arc::new(Authority::new());
    FakeCa::start_with(authority.clone(), issue(&authority, life, home.clock())).await
}

#[tokio::test]
async fn a_join_token_brings_the_identity_it_names() {
    let home = Home::new();
    let ca = ca(Duration::hours(1), &home).await;
    home.put_token(&ca.token(&id("orders"), 1));
    let mut workload = home.start(&ca);
    let credentials = workload.until_enrolled().await;
    assert_eq!(*credentials.svid.id(), id("orders"));
    assert_eq!(*credentials.bundles, ca.authority.bundles());
    let status = workload.until(|status| status.next_attempt.is_some_and(|at| at > home_now(&home))).await;
    assert_eq!((status.generation, status.rotations, status.last_error), (1, 0, None));
    let next = status.next_attempt.unwrap() - home_now(&home);
    assert!(next > Duration::minutes(26) && next < Duration::minutes(34), "{next}");
    workload.stop().await;
}

fn home_now(home: &Home) -> time::OffsetDateTime {
    home.clock().now()
}

/// Connecting there hangs: the queue is full, and nobody takes from it.
async fn hanging(at: SocketAddr) -> (TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(at).unwrap();
    let (listener, mut queued) = (socket.listen(1).unwrap(), Vec::new());
    let moment = std::time::Duration::from_millis(200);
    while let Ok(Ok(stream)) = tokio::time::timeout(moment, TcpStream::connect(at)).await {
        queued.push(stream);
    }
    (listener, queued)
}

#[tokio::test]
async fn a_ca_whose_first_address_is_silent_is_reached_at_its_second_without_a_timeout() {
    let home = Home::new();
    let ca = ca(Duration::hours(1), &home).await;
    home.put_token(&ca.token(&id("orders"), 1));
    let port = ca.address.port();
    let _silent = hanging(SocketAddr::from(([127, 0, 0, 2], port))).await;
    let directory = tempfile::tempdir().unwrap();
    let hosts = directory.path().join("hosts");
    std::fs::write(&hosts, "127.0.0.2 ca.test\n127.0.0.1 ca.test\n").unwrap();
    let names = NameServers::System(Arc::new(SystemFiles::new(hosts, "/nowhere/resolv.conf".into())));
    let late = std::time::Duration::from_secs(300);
    let timeouts = Timeouts { connect: late, handshake: late, request: late };
    let address = HostPort { host: "ca.test".to_owned(), port };
    let mut workload = home.start_with(CaClient::new(address, names, timeouts));
    workload.until_enrolled().await;
    workload.stop().await;
}

#[tokio::test]
async fn each_renewal_has_a_new_key_and_comes_at_half_life() {
    let home = Home::new();
    let ca = ca(Duration::seconds(3), &home).await;
    home.put_token(&ca.token(&id("orders"), 1));
    let started = std::time::Instant::now();
    let mut workload = home.start(&ca);
    workload.until(|status| status.rotations == 3).await;
    let elapsed = started.elapsed().as_secs_f64();
    assert!((3.0..9.0).contains(&elapsed), "three halves of up to three seconds took {elapsed} s");
    let asked = ca.asked();
    let keys: HashSet<_> = asked.iter().map(|asked| asked.public_key()).collect();
    assert_eq!(keys.len(), asked.len());
    assert_eq!(asked.iter().filter(|asked| asked.token.is_some()).count(), 1, "one enrolment, then renewals");
    assert_eq!(workload.status().failures, 0);
}

#[tokio::test]
async fn a_signing_request_names_nobody() {
    use x509_parser::prelude::{FromDer as _, X509CertificationRequest};
    let home = Home::new();
    let ca = ca(Duration::hours(1), &home).await;
    home.put_token(&ca.token(&id("orders"), 1));
    home.start(&ca).until_enrolled().await;
    let csr = &ca.asked()[0].csr;
    let (_, request) = X509CertificationRequest::from_der(csr).unwrap();
    assert_eq!(request.certification_request_info.subject.iter().count(), 0);
    assert!(request.requested_extensions().is_none_or(|mut extensions| extensions.next().is_none()));
}

#[tokio::test]
async fn a_token_is_waited_for_and_read_anew_at_each_attempt() {
    let home = Home::new();
    let ca = ca(Duration::hours(1), &home).await;
    let mut workload = home.start(&ca);
    let error = workload.until_error().await;
    assert_eq!(error.code, "join_token");
    assert!(error.reason.contains("cannot be read"), "{error:?}");
    home.put_token(&ca.token(&id("orders"), 1));
    workload.until_enrolled().await;
    assert_eq!(workload.status().last_error, None);
}

#[tokio::test]
async fn a_token_of_another_ca_is_not_shown_to_this_one() {
    let home = Home::new();
    let ca = ca(Duration::hours(1), &home).await;
    let other = FakeCa::start(Behaviour::Away).await;
    home.put_token(&other.token(&id("orders"), 1));
    let mut workload = home.start(&ca);
    let error = workload.until_error().await;
    assert_eq!(error.code, "ca_distrusted");
    assert!(error.reason.contains("pin") && error.reason.contains(&ca.authority.pin().to_hex()), "{error:?}");
    assert!(ca.asked().is_empty());
}

#[tokio::test]
async fn told_to_end_the_task_ends_also_during_an_attempt() {
    let home = Home::new();
    let ca = FakeCa::start(Behaviour::HangInHandshake).await;
    home.put_token(&ca.token(&id("orders"), 1));
    home.start(&ca).stop().await;
}
