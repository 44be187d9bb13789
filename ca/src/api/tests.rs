use std::net::Ipv4Addr;

use postern_proto::identity::{TrustDomain, VerifiedSvid, verify};
use postern_proto::wire::v1::admin_server::Admin as _;
use postern_proto::wire::v1::certificate_authority_server::CertificateAuthority as _;
use postern_proto::wire::v1::{
    ApplyPolicyRequest, IssueResponse, RenewRequest, RestoreIdentityRequest, RevokeIdentityRequest,
    RollBackPolicyRequest,
};
use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};
use ring::digest;
use rustls_pki_types::CertificateDer;
use time::{Duration as Time, OffsetDateTime};
use tonic::{Code, Request, Status};

use super::*;
use crate::authority::{leaf_params, serial_hex, serial_number};
use crate::store::{Authorisation, NewToken, Record, RepeatDeadline};

const ID: &str = "spiffe://shop.example/orders";
const NO_TOKEN: &str = "no token has this hash";

/// A CA's inside, without doors: whoever is said to have shaken hands has.
struct Inside {
    _dir: tempfile::TempDir,
    api: WorkloadApi,
    now: OffsetDateTime,
}

/// A certificate of this CA, with its key.
struct Held {
    svid: VerifiedSvid,
    key: KeyPair,
}

impl Inside {
    fn new() -> Self {
        Self::with_issuer_of(Time::days(2))
    }

    /// One whose issuer has that age, and was not replaced in time.
    fn with_issuer_of(age: Time) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let now = OffsetDateTime::now_utc();
        let config = Config::new(TrustDomain::new("shop.example").unwrap(), dir.path().to_owned());
        let authority = Authority::open(dir.path(), &config.trust_domain, now - age).unwrap();
        let (store, _) = Store::open(&dir.path().join("store.sqlite")).unwrap();
        let api = WorkloadApi(Arc::new(Shared::new(&config, Arc::new(authority), store)));
        Self { _dir: dir, api, now }
    }

    /// A certificate that ends so long from now, or ended so long ago.
    fn certificate(&self, id: &str, ends_in: Time) -> (Held, Record) {
        let (authority, key) = (&self.api.0.authority, KeyPair::generate().unwrap());
        let (serial, issuer) = (serial_number().unwrap(), authority.issuer());
        let not_after = self.now + ends_in;
        let not_before = not_after - Time::hours(1);
        let params = leaf_params(&id.parse().unwrap(), serial, not_before, not_after);
        let leaf: CertificateDer<'static> = params.signed_by(&key, &issuer.issuer).unwrap().der().clone();
        let chain = [leaf, issuer.certificate.clone()];
        let svid = verify(&chain, authority.bundles(), not_before + Time::minutes(1)).unwrap();
        let hash = digest::digest(&digest::SHA256, &key.subject_public_key_info());
        let record = Record {
            serial: serial_hex(&serial),
            spiffe_id: id.to_owned(),
            key_sha256: hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect(),
            attestation: NO_TOKEN.to_owned(),
            not_before: not_before.unix_timestamp(),
            not_after: not_after.unix_timestamp(),
            issued_at: not_before.unix_timestamp(),
            issuer: issuer.serial.clone(),
        };
        (Held { svid, key }, record)
    }

    /// The same, and the CA remembers it.
    async fn on_record(&self, ends_in: Time) -> Held {
        let (held, record) = self.certificate(ID, ends_in);
        let (store, at) = (&self.api.0.store, self.now.unix_timestamp());
        let token =
            NewToken { hash: [7; 32], spiffe_id: ID.to_owned(), created_at: at, expires_at: at + 9, uses: 1 };
        store.create_token(token).await.unwrap();
        let deadline = RepeatDeadline { now: at, grace: 0 };
        let authorisation = Authorisation::Token { hash: [7; 32], spiffe_id: ID.to_owned(), deadline };
        store.commit(authorisation, record).await.unwrap();
        held
    }

    async fn renew(&self, held: &Held, key: &KeyPair) -> Result<IssueResponse, Status> {
        let renewed = self.api.renew(asked_by(&held.svid, RenewRequest { csr: csr(key) })).await;
        renewed.map(tonic::Response::into_inner)
    }

    async fn renew_with_a_new_key(&self, held: &Held) -> Result<IssueResponse, Status> {
        self.renew(held, &KeyPair::generate().unwrap()).await
    }

    /// The last row of the audit chain.
    async fn last_decision(&self) -> (String, String, String) {
        let store = &self.api.0.store;
        let last = store.audit_last().await.unwrap();
        let row = store.audit_entries(last - 1, 1).await.unwrap().remove(0);
        (row.decision, row.subject, row.detail)
    }

    async fn assert_refused(&self, refused: Result<IssueResponse, Status>, code: Code, why: &str) {
        let status = refused.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(why), "{why:?} is missing in {status}");
        let (decision, _, detail) = self.last_decision().await;
        assert_eq!((decision.as_str(), detail.as_str()), ("refused", status.message()));
    }
}

fn asked_by<T>(svid: &VerifiedSvid, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let svid = Some(svid.clone());
    request.extensions_mut().insert(Caller {
        address: (Ipv4Addr::LOCALHOST, 9).into(),
        svid,
        active_streams: Arc::default(),
    });
    request
}

fn csr(key: &KeyPair) -> Vec<u8> {
    CertificateParams::default().serialize_request(key).unwrap().der().to_vec()
}

#[tokio::test]
async fn a_certificate_that_expired_while_its_machine_slept_renews_once() {
    let inside = Inside::new();
    let held = inside.on_record(-Time::hours(1)).await;
    let renewed = inside.renew_with_a_new_key(&held).await.unwrap();
    let chain: Vec<_> = renewed.chain.into_iter().map(CertificateDer::from).collect();
    let svid = verify(&chain, inside.api.0.authority.bundles(), OffsetDateTime::now_utc()).unwrap();
    assert_eq!(svid.id().as_str(), ID);
    let (decision, subject, detail) = inside.last_decision().await;
    assert_eq!((decision.as_str(), subject.as_str()), ("granted", ID));
    assert!(detail.contains(" by svid:"), "{detail}");

    let again = inside.renew_with_a_new_key(&held).await;
    inside.assert_refused(again, Code::PermissionDenied, "renewed before").await;
}

#[tokio::test]
async fn a_renewal_after_expiry_is_answered_again_for_its_key_until_that_is_renewed() {
    let inside = Inside::new();
    let held = inside.on_record(-Time::hours(1)).await;
    let key = KeyPair::generate().unwrap();
    inside.renew(&held, &key).await.unwrap();
    let repeated = inside.renew(&held, &key).await.unwrap();
    let (decision, _, detail) = inside.last_decision().await;
    assert_eq!(decision, "granted");
    assert!(detail.ends_with(", again for the same key"), "{detail}");
    let chain: Vec<_> = repeated.chain.into_iter().map(CertificateDer::from).collect();
    let svid = verify(&chain, inside.api.0.authority.bundles(), OffsetDateTime::now_utc()).unwrap();

    let successor = Held { svid, key };
    inside.renew_with_a_new_key(&successor).await.unwrap();
    let too_late = inside.renew(&held, &successor.key).await;
    inside.assert_refused(too_late, Code::PermissionDenied, "renewed before").await;
}

#[tokio::test]
async fn no_certificate_outlives_its_issuer() {
    let inside = Inside::with_issuer_of(Time::days(30) - Time::minutes(10));
    let held = inside.on_record(Time::minutes(9)).await;
    let renewed = inside.renew_with_a_new_key(&held).await.unwrap();
    let authority = &inside.api.0.authority;
    let chain: Vec<_> = renewed.chain.into_iter().map(CertificateDer::from).collect();
    let svid = verify(&chain, authority.bundles(), OffsetDateTime::now_utc()).unwrap();
    assert_eq!(svid.not_after(), authority.issuer().not_after);
}

#[tokio::test]
async fn an_issuer_whose_time_is_over_signs_nothing() {
    let inside = Inside::with_issuer_of(Time::days(30) + Time::minutes(10));
    let held = inside.on_record(-Time::minutes(11)).await;
    let refused = inside.renew_with_a_new_key(&held).await;
    inside.assert_refused(refused, Code::Internal, "nothing was issued").await;
}

#[tokio::test]
async fn a_certificate_in_time_renews_again_if_its_answer_was_lost() {
    let inside = Inside::new();
    let held = inside.on_record(Time::minutes(30)).await;
    inside.renew_with_a_new_key(&held).await.unwrap();
    inside.renew_with_a_new_key(&held).await.unwrap();
}

#[tokio::test]
async fn a_certificate_that_is_not_on_record_renews_nothing() {
    let inside = Inside::new();
    for ends_in in [Time::minutes(30), -Time::hours(1)] {
        let (held, _) = inside.certificate(ID, ends_in);
        let refused = inside.renew_with_a_new_key(&held).await;
        inside.assert_refused(refused, Code::PermissionDenied, "not on record").await;
    }
}

#[tokio::test]
async fn the_cas_own_identity_is_nobodys_to_renew() {
    let inside = Inside::new();
    let (held, _) = inside.certificate("spiffe://shop.example/postern/ca", Time::minutes(30));
    let refused = inside.renew_with_a_new_key(&held).await;
    inside.assert_refused(refused, Code::PermissionDenied, "reserved").await;
}

#[tokio::test]
async fn the_key_of_the_current_certificate_is_not_certified_again() {
    let inside = Inside::new();
    let held = inside.on_record(Time::minutes(30)).await;
    let refused = inside.renew(&held, &held.key).await;
    inside.assert_refused(refused, Code::InvalidArgument, "make a new one").await;
}

#[tokio::test]
async fn each_change_of_the_policy_or_of_revocations_and_nothing_else_wakes_who_tells_sidecars() {
    let inside = Inside::new();
    let shared = inside.api.0.clone();
    let admin = AdminApi(shared.clone());
    let author = || "ana".to_owned();
    let apply = async |text: &str| {
        let (text, file) = (text.to_owned(), "policy.toml".to_owned());
        let request = ApplyPolicyRequest { text, file, author: author(), ..Default::default() };
        admin.apply_policy(Request::new(request)).await.unwrap();
        *shared.changed.borrow()
    };
    assert_eq!(apply("trust_domain = 1").await, 0);
    assert_eq!(apply("trust_domain = \"shop.example\"").await, 1);
    assert_eq!(apply("trust_domain = \"shop.example\"").await, 1);
    let back = RollBackPolicyRequest { version: 1, author: author(), ..Default::default() };
    admin.roll_back_policy(Request::new(back)).await.unwrap();
    assert_eq!(*shared.changed.borrow(), 1, "what is in force is not rolled back to");
    for (changes, reason) in [(2, "stolen"), (2, "again")] {
        let (id, reason) = ("orders".to_owned(), reason.to_owned());
        let request = RevokeIdentityRequest { id, reason, author: author() };
        admin.revoke_identity(Request::new(request)).await.unwrap();
        assert_eq!(*shared.changed.borrow(), changes);
    }
    for changes in [3, 3] {
        let request = RestoreIdentityRequest { id: "orders".to_owned(), author: author() };
        admin.restore_identity(Request::new(request)).await.unwrap();
        assert_eq!(*shared.changed.borrow(), changes);
    }
}
