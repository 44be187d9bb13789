//! The TLS that everything runs on: 1.3 alone, post-quantum first, both sides judged in every handshake, nothing resumed.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test says no by a panic")]

#[path = "support/mtls.rs"]
mod support;

use std::sync::Arc;

use postern_proto::crypto::provider;
use postern_proto::identity::{SpiffeId, TrustDomain, VerifiedSvid};
use postern_proto::mtls::{
    AuthorizeId, Authorizer, Denial, PeerVerifier, TlsIdentity, Verdict, client_config, server_config,
    server_name,
};
use rustls::{AlertDescription, ClientConnection, Error, HandshakeKind, ServerConfig, ServerConnection};
use support::{Authority, Pair, shake_hands};
use time::{Duration, OffsetDateTime};

#[test]
fn both_sides_learn_who_the_other_is() {
    let pair = Pair::new(&Authority::new());
    let (client, _) = pair.connect().unwrap();
    assert_eq!(pair.server_judge.admitted().unwrap().id().as_str(), "spiffe://shop.example/orders");
    assert_eq!(pair.client_judge.admitted().unwrap().id().as_str(), "spiffe://shop.example/payments");
    assert_eq!(client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
}

#[cfg(feature = "aws-lc-rs")]
#[test]
fn the_key_exchange_is_post_quantum_first() {
    let (client, _) = Pair::new(&Authority::new()).connect().unwrap();
    assert_eq!(client.negotiated_key_exchange_group().unwrap().name(), rustls::NamedGroup::X25519MLKEM768);
}

#[test]
fn no_session_is_resumed_and_no_ticket_is_sent() {
    let authority = Authority::new();
    let judge = Arc::new(authority.judge());
    let client = client_config(Some(&authority.identity("/orders")), judge, &[]).unwrap();
    let server = server_config(&authority.identity("/payments"), Arc::new(authority.judge()), &[]).unwrap();
    for _ in 0..2 {
        let mut near = ClientConnection::new(client.clone(), server_name()).unwrap();
        let mut far = ServerConnection::new(server.clone()).unwrap();
        shake_hands(&mut near, &mut far).unwrap();
        assert_eq!(near.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(near.tls13_tickets_received(), 0);
    }
}

#[test]
fn tls_1_2_is_not_spoken() {
    let authority = Authority::new();
    assert!(provider().cipher_suites.iter().all(|suite| suite.tls13().is_some()));
    let server = server_config(&authority.identity("/payments"), Arc::new(authority.judge()), &[]).unwrap();
    // The start of a TLS 1.2 ClientHello without supported_versions: two suites, no extensions.
    let hello = [&[3, 3][..], &[7; 32], &[0, 0, 4, 0xc0, 0x2b, 0xc0, 0x2f, 1, 0]].concat();
    let handshake = [&[1, 0, 0, hello.len() as u8][..], &hello].concat();
    let record = [&[22, 3, 1, 0, handshake.len() as u8][..], &handshake].concat();
    let mut far = ServerConnection::new(server).unwrap();
    far.read_tls(&mut record.as_slice()).unwrap();
    assert!(matches!(far.process_new_packets(), Err(Error::PeerIncompatible(_))));
}

#[test]
fn a_client_without_a_certificate_is_refused_where_one_is_needed_only() {
    let authority = Authority::new();
    let mut pair = Pair { client: None, ..Pair::new(&authority) };
    let refused = pair.connect().err().unwrap();
    assert_eq!(refused, ("server", Error::AlertReceived(AlertDescription::CertificateRequired)));
    pair.server_judge = Arc::new(authority.judge().certificate_optional());
    pair.connect().unwrap();
    assert!(pair.server_judge.verdict().is_none());
}

#[derive(Debug)]
struct Nobody;

impl Authorizer for Nobody {
    fn authorize(&self, _: &VerifiedSvid) -> Result<(), Denial> {
        Err(Denial { code: "denied", detail: "nobody is let in".to_owned() })
    }
}

#[test]
fn who_is_not_admitted_gets_the_alert_access_denied_and_the_reason_stays_here() {
    let authority = Authority::new();
    let judge = Arc::new(PeerVerifier::new(authority.bundles(), Arc::new(Nobody)));
    let pair = Pair { server_judge: judge.clone(), ..Pair::new(&authority) };
    let refused = pair.connect().err().unwrap();
    assert_eq!(refused, ("server", Error::AlertReceived(AlertDescription::AccessDenied)));
    let Some(Verdict::Denied(peer, denial)) = judge.verdict() else { panic!("{:?}", judge.verdict()) };
    assert_eq!((peer.id().as_str(), denial.code), ("spiffe://shop.example/orders", "denied"));
}

#[test]
fn a_client_demands_exactly_the_server_it_called() {
    let authority = Authority::new();
    let called = |id: &str| {
        let exactly = AuthorizeId(SpiffeId::parse(id).unwrap());
        let client_judge = Arc::new(PeerVerifier::new(authority.bundles(), Arc::new(exactly)));
        Pair { client_judge, ..Pair::new(&authority) }.connect()
    };
    called("spiffe://shop.example/payments").unwrap();
    for other in [
        "spiffe://shop.example/payment",
        "spiffe://shop.example/payments/x",
        "spiffe://other.example/payments",
    ] {
        assert_eq!(called(other).err().unwrap().0, "client", "{other}");
    }
}

#[test]
fn another_cas_certificate_and_an_expired_one_get_their_own_alerts() {
    let (authority, other) = (Authority::new(), Authority::new());
    let with = |identity: TlsIdentity| {
        Pair { client: Some(identity), ..Pair::new(&authority) }.connect().err().unwrap()
    };
    let foreign = with(other.identity("/orders"));
    assert!(
        matches!(
            foreign.1,
            Error::AlertReceived(AlertDescription::UnknownCA | AlertDescription::DecryptError)
        ),
        "{foreign:?}"
    );
    let expired = TlsIdentity::new(&authority.svid("/orders", Duration::hours(2))).unwrap();
    assert_eq!(with(expired).1, Error::AlertReceived(AlertDescription::CertificateExpired));
}

#[test]
fn an_expired_certificate_is_believed_within_the_grace_of_a_renewal_only() {
    let authority = Authority::new();
    let expired = TlsIdentity::new(&authority.svid("/orders", Duration::hours(2))).unwrap();
    let within = |grace: u64| {
        let judge = authority.judge().expired_for_at_most(std::time::Duration::from_secs(grace));
        let pair =
            Pair { client: Some(expired.clone()), server_judge: Arc::new(judge), ..Pair::new(&authority) };
        pair.connect().map(|_| pair.server_judge.admitted().unwrap().not_after())
    };
    let ended = within(2 * 3600).unwrap();
    assert!(ended < OffsetDateTime::now_utc(), "the finding says when it really ended");
    within(1800).unwrap_err();
}

#[test]
fn a_pin_is_enough_to_know_the_ca_and_nobody_else() {
    let (authority, other) = (Authority::new(), Authority::new());
    let domain = TrustDomain::new("shop.example").unwrap();
    let pin = authority.bundles().of(&domain).unwrap().pin();
    let connect = |server: &Authority, path: &str| {
        let svid = server.svid(path, Duration::ZERO);
        let pair = Pair {
            client: None,
            server: TlsIdentity::with_roots(&svid, std::slice::from_ref(&server.root)).unwrap(),
            client_judge: Arc::new(PeerVerifier::pinned(domain.clone(), pin)),
            server_judge: Arc::new(server.judge().certificate_optional()),
        };
        pair.connect().map(|_| ()).map_err(|_| pair.client_judge.verdict().cloned().map(Box::new))
    };
    connect(&authority, "/postern/ca").unwrap();
    assert!(
        matches!(connect(&other, "/postern/ca"), Err(Some(verdict)) if matches!(*verdict, Verdict::WrongPin { .. }))
    );
    assert!(
        matches!(connect(&authority, "/orders"), Err(Some(verdict)) if matches!(*verdict, Verdict::Denied(..)))
    );
}

#[test]
fn a_client_hello_tells_no_name() {
    let authority = Authority::new();
    let config = client_config(None, Arc::new(authority.judge()), &[]).unwrap();
    let mut client = ClientConnection::new(config, server_name()).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    let server: Arc<ServerConfig> =
        server_config(&authority.identity("/payments"), Arc::new(authority.judge()), &[]).unwrap();
    let mut far = ServerConnection::new(server).unwrap();
    far.read_tls(&mut hello.as_slice()).unwrap();
    far.process_new_packets().unwrap();
    assert_eq!(far.server_name(), None);
}
