//! A CA that answers badly: each answer is refused with its reason, and what is in place stays.

use std::sync::Arc;

use postern_proto::wire::v1::IssueResponse;
use postern_sidecar::identity::credentials::Credentials;
use time::{Duration, OffsetDateTime};
use tonic::{Code, Status};

use crate::authority::{Authority, Validity, id};
use crate::fake_ca::{Asked, Behaviour, FakeCa, issue, response};
use crate::workload::{Home, Workload};

const LIFE: Duration = Duration::seconds(2);

/// Enrolled with a good certificate, half of whose life will soon be over.
async fn enrolled(home: &Home) -> (FakeCa, Workload, Arc<Credentials>) {
    let authority = Arc::new(Authority::new());
    let ca = FakeCa::start_with(authority.clone(), issue(&authority, LIFE, home.clock())).await;
    home.put_token(&ca.token(&id("orders"), 1));
    let mut workload = home.start(&ca);
    let credentials = workload.until_enrolled().await;
    (ca, workload, credentials)
}

/// The CA turns bad: the reason is told, the old certificate kept; it turns good: a new certificate comes.
async fn survives(behaviour: impl FnOnce(&FakeCa) -> Behaviour, code: &str, words: &[&str]) {
    let home = Home::new();
    let (ca, mut workload, before) = enrolled(&home).await;
    ca.behave(behaviour(&ca));
    let error = workload.until_error().await;
    assert_eq!(error.code, code, "{}", error.reason);
    for word in words {
        assert!(error.reason.contains(word), "{word:?} is not in: {}", error.reason);
    }
    assert!(!error.reason.contains('\n'), "{:?}", error.reason);
    let kept = workload.store.current().unwrap();
    assert_eq!((kept.generation, kept.svid.chain()), (before.generation, before.svid.chain()));
    let status = workload.status();
    assert!(status.next_attempt.unwrap() > error.at, "{status:?}");

    ca.renew_expired_for(std::time::Duration::from_secs(3600));
    ca.behave(ca.issue_for(LIFE, home.clock()));
    workload.until(|status| status.rotations == 1 && status.last_error.is_none()).await;
}

fn answer(
    ca: &FakeCa,
    make: impl Fn(&Authority, &Asked) -> IssueResponse + Send + Sync + 'static,
) -> Behaviour {
    let authority = ca.authority.clone();
    Behaviour::Answer(Arc::new(move |asked| Ok(make(&authority, asked))))
}

fn valid() -> Validity {
    Validity::of(Duration::hours(1), OffsetDateTime::now_utc())
}

#[tokio::test]
async fn an_expired_certificate() {
    let expired = |authority: &Authority, asked: &Asked| {
        let past = Validity::of(Duration::seconds(-30), OffsetDateTime::now_utc());
        response(authority, authority.certify(&asked.csr, &asked.id, past).to_vec())
    };
    survives(|ca| answer(ca, expired), "bad_answer", &["expired"]).await;
}

#[tokio::test]
async fn a_certificate_of_another_identity() {
    let other = |authority: &Authority, asked: &Asked| {
        response(authority, authority.certify(&asked.csr, &id("payments"), valid()).to_vec())
    };
    let words =
        &["expected a certificate of spiffe://shop.example/orders", "found spiffe://shop.example/payments"];
    survives(|ca| answer(ca, other), "bad_answer", words).await;
}

#[tokio::test]
async fn a_certificate_for_another_key() {
    let other = |authority: &Authority, asked: &Asked| {
        response(authority, authority.leaf(&asked.id, valid()).0.to_vec())
    };
    survives(|ca| answer(ca, other), "bad_answer", &["private key"]).await;
}

#[tokio::test]
async fn a_certificate_of_another_authority() {
    let other = |authority: &Authority, asked: &Asked| {
        response(authority, Authority::new().certify(&asked.csr, &asked.id, valid()).to_vec())
    };
    survives(|ca| answer(ca, other), "bad_answer", &["chain or key is refused"]).await;
}

#[tokio::test]
async fn no_certificate_and_garbage_for_one() {
    let none =
        |authority: &Authority, _: &Asked| IssueResponse { chain: vec![], ..response(authority, vec![]) };
    let garbage = |authority: &Authority, _: &Asked| response(authority, vec![0xff; 500]);
    tokio::join!(
        survives(|ca| answer(ca, none), "bad_answer", &["chain"]),
        survives(|ca| answer(ca, garbage), "bad_answer", &["chain or key is refused"]),
    );
}

#[tokio::test]
async fn more_certificates_than_a_chain_may_have() {
    let long = |authority: &Authority, asked: &Asked| {
        let leaf = authority.certify(&asked.csr, &asked.id, valid()).to_vec();
        IssueResponse { chain: vec![leaf; 1000], ..response(authority, vec![]) }
    };
    survives(|ca| answer(ca, long), "bad_answer", &["chain or key is refused"]).await;
}

#[tokio::test]
async fn bundles_that_lack_the_own_domain_or_have_it_twice_or_too_many() {
    let with = |bundles: fn(&mut IssueResponse)| {
        move |authority: &Authority, asked: &Asked| {
            let mut good = response(authority, authority.certify(&asked.csr, &asked.id, valid()).to_vec());
            bundles(&mut good);
            good
        }
    };
    let lacks = with(|good| good.bundles[0].trust_domain = "other.example".into());
    let twice = with(|good| good.bundles.push(good.bundles[0].clone()));
    let many = with(|good| good.bundles = vec![good.bundles[0].clone(); 101]);
    let nameless = with(|good| good.bundles[0].trust_domain = "Shop\u{1b}[31m".into());
    tokio::join!(
        survives(|ca| answer(ca, lacks), "bad_answer", &["shop.example is missing"]),
        survives(|ca| answer(ca, twice), "bad_answer", &["shop.example has two bundles"]),
        survives(|ca| answer(ca, many), "bad_answer", &["101"]),
        survives(|ca| answer(ca, nameless), "bad_answer", &["names no trust domain"]),
    );
}

#[tokio::test]
async fn an_answer_of_ten_megabytes() {
    let huge = |authority: &Authority, _: &Asked| response(authority, vec![0; 10_000_000]);
    survives(|ca| answer(ca, huge), "ca_refused", &["too large"]).await;
}

#[tokio::test]
async fn bytes_that_are_no_tls_no_http2_or_no_answer_at_all() {
    tokio::join!(
        survives(|_| Behaviour::Garbage, "ca_unreachable", &["no TLS connection"]),
        survives(|_| Behaviour::GarbageInTls, "ca_unreachable", &["broke"]),
        survives(|_| Behaviour::Away, "ca_unreachable", &[]),
    );
}

#[tokio::test]
async fn a_hang_in_the_handshake_and_in_the_request() {
    tokio::join!(
        survives(|_| Behaviour::HangInHandshake, "ca_timeout", &["the TLS handshake"]),
        survives(|_| Behaviour::HangInRequest, "ca_timeout", &["the answer"]),
    );
}

#[tokio::test]
async fn a_refusal_with_hostile_words_is_shown_escaped_and_short() {
    let refuse = Status::new(Code::Internal, format!("\u{1b}[31m\nfake line {}", "x".repeat(3000)));
    let refusal = Behaviour::Answer(Arc::new(move |_| Err(refuse.clone())));
    survives(|_| refusal, "ca_refused", &["Internal", r"\u{1b}[31m\nfake line"]).await;
}

#[tokio::test]
async fn a_retry_after_is_honoured() {
    let home = Home::new();
    let (ca, mut workload, _) = enrolled(&home).await;
    let mut busy = Status::new(Code::ResourceExhausted, "rate");
    busy.metadata_mut().insert("retry-after", "120".parse().unwrap());
    ca.behave(Behaviour::Answer(Arc::new(move |_| Err(busy.clone()))));
    let error = workload.until_error().await;
    let status = workload
        .until(|status| status.next_attempt.is_some_and(|at| at > error.at + Duration::seconds(5)))
        .await;
    let pause = status.next_attempt.unwrap() - error.at;
    assert!(pause >= Duration::seconds(119) && pause <= Duration::seconds(121), "{pause}");
}

#[tokio::test]
async fn an_answer_to_an_enrolment_must_have_the_pinned_bundle() {
    let home = Home::new();
    let ca = FakeCa::start(Behaviour::Away).await;
    let two_roots = |authority: &Authority, asked: &Asked| {
        let mut good = response(authority, authority.certify(&asked.csr, &asked.id, valid()).to_vec());
        good.bundles[0].roots.push(Authority::new().root.to_vec());
        good
    };
    ca.behave(answer(&ca, two_roots));
    home.put_token(&ca.token(&id("orders"), 1));
    let mut workload = home.start(&ca);
    let error = workload.until_error().await;
    assert_eq!(error.code, "bad_answer");
    assert!(error.reason.contains("as the join token says"), "{error:?}");
    assert!(workload.store.current().is_none());
}
