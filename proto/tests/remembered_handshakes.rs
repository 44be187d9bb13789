//! What bundles remember in handshakes: chains of those who proved their key, and nothing that is decided anew each time.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test says no by a panic")]

#[path = "support/mtls.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use postern_proto::crypto::provider;
use postern_proto::identity::{SpiffeId, TrustBundles, VerifiedSvid};
use postern_proto::mtls::{
    AuthorizeAny, AuthorizeId, Authorizer, Denial, PeerVerifier, REVOKED, TlsIdentity, Verdict,
    server_config, server_name,
};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{AlertDescription, ClientConfig, ClientConnection, Error, ServerConnection};
use support::{Authority, Pair, shake_hands};
use time::{Duration, OffsetDateTime};

/// Lets anyone in until it is told otherwise.
#[derive(Debug, Default)]
struct Door(AtomicBool);

impl Authorizer for Door {
    fn authorize(&self, peer: &VerifiedSvid) -> Result<(), Denial> {
        if self.0.load(Ordering::SeqCst) {
            return Err(Denial { code: REVOKED, detail: format!("{} is revoked", peer.id()) });
        }
        Ok(())
    }
}

fn judge(bundles: &Arc<TrustBundles>, admission: impl Authorizer + 'static) -> Arc<PeerVerifier> {
    Arc::new(PeerVerifier::new(bundles.clone(), Arc::new(admission)))
}

#[test]
fn each_side_remembers_the_other_after_one_handshake() {
    let authority = Authority::new();
    let (near, far) = (authority.bundles(), authority.bundles());
    let (orders, payments) =
        (authority.svid("/orders", Duration::ZERO), authority.svid("/payments", Duration::ZERO));
    for _ in 0..3 {
        let pair = Pair {
            client: Some(TlsIdentity::new(&orders).unwrap()),
            server: TlsIdentity::new(&payments).unwrap(),
            client_judge: judge(&near, AuthorizeAny),
            server_judge: judge(&far, AuthorizeAny),
        };
        pair.connect().unwrap();
        assert_eq!(pair.server_judge.admitted().unwrap().id(), orders.id());
        assert_eq!(pair.client_judge.admitted().unwrap().id(), payments.id());
        let now = OffsetDateTime::now_utc();
        assert!(far.verify_cached(orders.chain(), now).unwrap().is_remembered());
        assert!(near.verify_cached(payments.chain(), now).unwrap().is_remembered());
        assert_eq!((near.remembered_chains(), far.remembered_chains()), (1, 1));
    }
}

#[test]
fn a_revocation_refuses_a_remembered_chain() {
    let authority = Authority::new();
    let (bundles, door) = (authority.bundles(), Arc::new(Door::default()));
    let mut pair = Pair::new(&authority);
    let mut connect = || {
        pair.server_judge = Arc::new(PeerVerifier::new(bundles.clone(), door.clone()));
        (pair.connect().map(|_| ()), pair.server_judge.clone())
    };
    connect().0.unwrap();
    connect().0.unwrap();
    assert_eq!(bundles.remembered_chains(), 1);
    door.0.store(true, Ordering::SeqCst);
    let (refused, judge) = connect();
    assert_eq!(refused, Err(("server", Error::AlertReceived(AlertDescription::CertificateRevoked))));
    assert!(matches!(judge.verdict(), Some(Verdict::Denied(_, denial)) if denial.code == REVOKED));
    door.0.store(false, Ordering::SeqCst);
    connect().0.unwrap();
}

#[test]
fn who_is_not_admitted_is_not_remembered() {
    let authority = Authority::new();
    let bundles = authority.bundles();
    let door = Door(AtomicBool::new(true));
    let pair = Pair { server_judge: judge(&bundles, door), ..Pair::new(&authority) };
    pair.connect().unwrap_err();
    assert_eq!(bundles.remembered_chains(), 0);
}

#[test]
fn a_remembered_server_is_still_not_another_one() {
    let authority = Authority::new();
    let bundles = authority.bundles();
    let mut pair = Pair::new(&authority);
    for (called, code) in
        [("/payments", None), ("/orders", Some("wrong_identity")), ("/payments/x", Some("wrong_identity"))]
    {
        let called = SpiffeId::parse(&format!("spiffe://shop.example{called}")).unwrap();
        pair.client_judge = judge(&bundles, AuthorizeId(called));
        assert_eq!(pair.connect().is_ok(), code.is_none());
        match pair.client_judge.verdict() {
            Some(Verdict::Denied(_, denial)) => assert_eq!(Some(denial.code), code),
            other => assert!(matches!(other, Some(Verdict::Admitted(_))), "{other:?}"),
        }
    }
}

/// A client that shows the chain of a workload whose key it does not hold.
fn impostor(authority: &Authority, chain: &[rustls_pki_types::CertificateDer<'static>]) -> ClientConnection {
    let own = authority.svid("/impostor", Duration::ZERO);
    let key = provider().key_provider.load_private_key(own.key().der().clone_key()).unwrap();
    let shown = SingleCertAndKey::from(CertifiedKey::new(chain.to_vec(), key));
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(authority.judge()))
        .with_client_cert_resolver(Arc::new(shown));
    ClientConnection::new(Arc::new(config), server_name()).unwrap()
}

#[test]
fn a_chain_shown_without_its_key_is_refused_and_not_remembered_nor_believed_when_it_is_remembered() {
    let authority = Authority::new();
    let bundles = authority.bundles();
    let orders = authority.svid("/orders", Duration::ZERO);
    let mut pair = Pair { client: Some(TlsIdentity::new(&orders).unwrap()), ..Pair::new(&authority) };
    let mut refused = |remembered: usize| {
        let server = server_config(&pair.server, judge(&bundles, AuthorizeAny), &[]).unwrap();
        let mut server = ServerConnection::new(server).unwrap();
        let (side, error) = shake_hands(&mut impostor(&authority, orders.chain()), &mut server).unwrap_err();
        assert_eq!((side, error), ("server", Error::AlertReceived(AlertDescription::DecryptError)));
        assert_eq!(bundles.remembered_chains(), remembered);
        pair.server_judge = judge(&bundles, AuthorizeAny);
        pair.connect().unwrap();
    };
    refused(0);
    refused(1);
}

#[test]
fn a_chain_remembered_within_the_grace_of_a_renewal_is_expired_for_others() {
    let authority = Authority::new();
    let bundles = authority.bundles();
    let expired = TlsIdentity::new(&authority.svid("/orders", Duration::hours(2))).unwrap();
    let connect = |grace: u64| {
        let judge = PeerVerifier::new(bundles.clone(), Arc::new(AuthorizeAny))
            .expired_for_at_most(std::time::Duration::from_secs(grace));
        let pair =
            Pair { client: Some(expired.clone()), server_judge: Arc::new(judge), ..Pair::new(&authority) };
        pair.connect().map(|_| ())
    };
    for _ in 0..2 {
        connect(2 * 3600).unwrap();
        assert_eq!(bundles.remembered_chains(), 1);
        let refused = ("server", Error::AlertReceived(AlertDescription::CertificateExpired));
        assert_eq!(connect(1800), Err(refused.clone()));
        assert_eq!(connect(0), Err(refused));
    }
}
