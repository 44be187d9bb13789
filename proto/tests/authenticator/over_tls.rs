//! Over a real connection, each side proves its next certificate to the other.

use std::sync::Arc;

use postern_proto::authenticator::{AuthenticatorError, Expected, Request, authenticate, judge};
use postern_proto::identity::{SpiffeId, VerifiedSvid};
use postern_proto::mtls::{
    ExporterSecret, HandshakeSecrets, TlsIdentity, client_config_with_secret_extraction,
    server_config_with_secret_extraction,
};
use rustls::Side;
use time::{Duration, OffsetDateTime};

use crate::case::CONTEXT;
use crate::support::authority::Authority;
use crate::support::handshake::shake_hands_unbuffered;

/// The exporters of both ends of a new connection: the client's, the server's.
fn connect(authority: &Authority) -> (ExporterSecret, ExporterSecret) {
    let (near, far) = (Arc::new(HandshakeSecrets::default()), Arc::new(HandshakeSecrets::default()));
    let (orders, payments) = (authority.identity("/orders"), authority.identity("/payments"));
    let judge = || Arc::new(authority.judge());
    let client = client_config_with_secret_extraction(Some(&orders), judge(), &[], near.clone()).unwrap();
    let server = server_config_with_secret_extraction(&payments, judge(), &[], far.clone()).unwrap();
    let (client, server) = shake_hands_unbuffered(client, server);
    let near = near.take(client.negotiated_cipher_suite().unwrap()).unwrap().exporter;
    (near, far.take(server.negotiated_cipher_suite().unwrap()).unwrap().exporter)
}

/// `asker` asks over its exporter, the workload `path` answers over its own with a new certificate.
fn ask(
    authority: &Authority,
    asker: (Side, &ExporterSecret),
    answerer: (&ExporterSecret, &str),
) -> Result<VerifiedSvid, AuthenticatorError> {
    let request = Request::new(asker.0, CONTEXT);
    let asked = Request::parse(asker.0, request.as_bytes()).unwrap();
    let svid = authority.svid(answerer.1, Duration::ZERO);
    let answer = authenticate(answerer.0, &asked, &TlsIdentity::new(&svid).unwrap()).unwrap();
    let (id, bundles) = (svid.id().clone(), authority.bundles());
    let now = OffsetDateTime::now_utc();
    let found = judge(asker.1, request, &answer, Expected { id: &id, bundles: &bundles, now })?;
    assert_eq!(found, *svid.verified());
    Ok(found)
}

#[test]
fn both_sides_of_a_connection_prove_their_next_certificate() {
    let authority = Authority::default();
    let (client, server) = connect(&authority);
    let orders = ask(&authority, (Side::Server, &server), (&client, "/orders")).unwrap();
    assert_eq!(*orders.id(), SpiffeId::parse("spiffe://shop.example/orders").unwrap());
    let payments = ask(&authority, (Side::Client, &client), (&server, "/payments")).unwrap();
    assert_eq!(*payments.id(), SpiffeId::parse("spiffe://shop.example/payments").unwrap());
}

#[test]
fn a_proof_made_on_one_connection_is_none_on_another() {
    let authority = Authority::default();
    let ((_, server), (client, _)) = (connect(&authority), connect(&authority));
    let refused = ask(&authority, (Side::Server, &server), (&client, "/orders"));
    assert_eq!(refused, Err(AuthenticatorError::Signature));
}
