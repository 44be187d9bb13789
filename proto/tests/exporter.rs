//! The exporter gives at both ends of a connection what rustls's own would, whichever API drives the handshake.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test says no by a panic")]

mod support;

use std::sync::Arc;

use postern_proto::crypto::provider;
use postern_proto::mtls::{
    ExporterSecret, HandshakeSecrets, SuiteHash, client_config, client_config_with_secret_extraction,
    server_config_with_secret_extraction, server_name,
};
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::{CipherSuite, ClientConnection, ServerConfig, ServerConnection};
use support::authority::Authority;
use support::handshake::{shake_hands, shake_hands_unbuffered};

/// Labels of every length that matters, with contexts of their own.
const CASES: [(&str, &[u8], usize); 6] = [
    ("EXPORTER-client authenticator handshake context", b"", 32),
    ("EXPORTER-server authenticator finished key", b"", 48),
    ("", b"", 1),
    ("x", b"y", 0),
    ("EXPORTER-Channel-Binding", &[0xff; 300], 32),
    ("twelve_bytes", b"context", 255 * 32),
];

/// A client that speaks one suite alone, so that the server has no choice.
fn client_of(
    authority: &Authority,
    suite: CipherSuite,
    exporter: Arc<HandshakeSecrets>,
) -> Arc<ClientConfig> {
    let all = provider();
    let cipher_suites = all.cipher_suites.iter().copied().filter(|known| known.suite() == suite).collect();
    let provider = CryptoProvider { cipher_suites, ..(*all).clone() };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(authority.judge()))
        .with_client_cert_resolver(
            client_config(Some(&authority.identity("/orders")), Arc::new(authority.judge()), &[])
                .unwrap()
                .client_auth_cert_resolver
                .clone(),
        );
    config.resumption = Resumption::disabled();
    config.key_log = exporter;
    Arc::new(config)
}

fn server_of(authority: &Authority, exporter: Arc<HandshakeSecrets>) -> Arc<ServerConfig> {
    let judge = Arc::new(authority.judge());
    server_config_with_secret_extraction(&authority.identity("/payments"), judge, &[], exporter).unwrap()
}

fn same(near: &ExporterSecret, far: &ExporterSecret) {
    for (label, context, length) in CASES {
        let value = near.export(label, context, length).unwrap();
        assert_eq!(value, far.export(label, context, length).unwrap(), "{label}");
    }
}

#[test]
fn what_is_exported_equals_what_rustls_exports_at_both_ends_of_each_suite() {
    let authority = Authority::default();
    for (suite, hash) in [
        (CipherSuite::TLS13_AES_128_GCM_SHA256, SuiteHash::Sha256),
        (CipherSuite::TLS13_CHACHA20_POLY1305_SHA256, SuiteHash::Sha256),
        (CipherSuite::TLS13_AES_256_GCM_SHA384, SuiteHash::Sha384),
    ] {
        let (near, far) = (Arc::new(HandshakeSecrets::default()), Arc::new(HandshakeSecrets::default()));
        let client = client_of(&authority, suite, near.clone());
        let mut client = ClientConnection::new(client, server_name()).unwrap();
        let mut server = ServerConnection::new(server_of(&authority, far.clone())).unwrap();
        shake_hands(&mut client, &mut server).unwrap();
        let near = near.take(client.negotiated_cipher_suite().unwrap()).unwrap().exporter;
        let far = far.take(server.negotiated_cipher_suite().unwrap()).unwrap().exporter;
        assert_eq!((near.hash(), far.hash()), (hash, hash), "{suite:?}");
        same(&near, &far);
        for (label, context, length) in CASES {
            if length == 0 {
                continue; // rustls refuses to export nothing
            }
            let ours = near.export(label, context, length).unwrap();
            let room = || vec![0; length];
            let (label, context) = (label.as_bytes(), Some(context));
            assert_eq!(*ours, client.export_keying_material(room(), label, context).unwrap());
            assert_eq!(*ours, server.export_keying_material(room(), label, context).unwrap());
        }
        let absent = client.export_keying_material(vec![0; 32], b"label", None).unwrap();
        assert_eq!(*near.export("label", b"", 32).unwrap(), absent, "absent and empty are one");
    }
}

#[test]
fn an_unbuffered_handshake_exports_the_same_at_both_ends_and_another_something_else() {
    let authority = Authority::default();
    let mut before: Option<ExporterSecret> = None;
    for _ in 0..2 {
        let (near, far) = (Arc::new(HandshakeSecrets::default()), Arc::new(HandshakeSecrets::default()));
        let (identity, judge) = (authority.identity("/orders"), Arc::new(authority.judge()));
        let client = client_config_with_secret_extraction(Some(&identity), judge, &[], near.clone()).unwrap();
        let (client, server) = shake_hands_unbuffered(client, server_of(&authority, far.clone()));
        let near = near.take(client.negotiated_cipher_suite().unwrap()).unwrap().exporter;
        let far = far.take(server.negotiated_cipher_suite().unwrap()).unwrap().exporter;
        same(&near, &far);
        let value = |of: &ExporterSecret| of.export("label", b"", 32).unwrap();
        assert!(
            before.is_none_or(|before| value(&before) != value(&near)),
            "two connections export the same"
        );
        before = Some(near);
    }
}

#[test]
fn a_handshakes_secret_is_there_when_it_is_done_and_is_taken_once() {
    let authority = Authority::default();
    let exporter = Arc::new(HandshakeSecrets::default());
    let client = client_of(&authority, CipherSuite::TLS13_AES_128_GCM_SHA256, exporter.clone());
    let suite = provider().cipher_suites[0];
    let mut client = ClientConnection::new(client, server_name()).unwrap();
    assert!(exporter.take(suite).is_none());
    let mut server = ServerConnection::new(server_of(&authority, Arc::default())).unwrap();
    shake_hands(&mut client, &mut server).unwrap();
    assert!(exporter.take(suite).is_some());
    assert!(exporter.take(suite).is_none(), "taken once");
}
