//! Good bytes in the wrong place or at the wrong time, and proofs of somebody else: each refused by its own name.

use postern_proto::authenticator::{AnotherIdentity, AuthenticatorError, Request, authenticate, follows};
use postern_proto::identity::{SpiffeId, VerifyError};
use postern_proto::mtls::SuiteHash;
use rcgen::PKCS_ECDSA_P256_SHA256;
use rustls::Side;
use time::Duration;

use crate::case::{CONTEXT, Case};
use crate::reference::{
    ED25519, FINISHED, Key, P256, P384, Reference, certificate, certificate_verify, entry, message,
};
use crate::support::NOW;
use crate::support::authority::Authority;

#[test]
fn an_authenticator_replayed_on_another_connection_is_refused() {
    for case in Case::all() {
        let bytes = case.authenticator();
        let mut secret = case.secret.clone();
        secret[0] ^= 1;
        let other = Case { secret, ..case };
        assert_eq!(other.judge(&bytes), Err(AuthenticatorError::Signature));
    }
}

#[test]
fn an_authenticator_of_a_connection_with_another_hash_is_malformed() {
    let case = Case::default();
    let bytes = case.authenticator();
    let other = Case { hash: SuiteHash::Sha384, secret: vec![1; 48], ..case };
    assert_eq!(other.judge(&bytes).unwrap_err().code(), "authenticator_malformed");
}

#[test]
fn an_answer_to_another_request_is_refused() {
    for case in Case::all() {
        let mut context = CONTEXT;
        context[31] ^= 1;
        let stale = case.judge_answer_to(Request::new(case.asker, context), &case.authenticator());
        assert_eq!(stale, Err(AuthenticatorError::Context));
    }
}

#[test]
fn a_request_that_was_changed_on_its_way_gets_no_answer_that_is_believed() {
    let case = Case::default();
    let mut asked = case.request().as_bytes().to_vec();
    let last = asked.len() - 1;
    asked[last] = 0x0a; // a scheme that nobody knows
    let asked = Request::parse(case.asker, &asked).unwrap();
    let bytes = authenticate(&case.exporter(), &asked, &case.identity());
    assert_eq!(case.judge(&bytes.unwrap()), Err(AuthenticatorError::Signature));
}

#[test]
fn an_own_authenticator_that_comes_back_is_refused() {
    for case in Case::all() {
        let bytes = case.authenticator();
        let asker = case.request().answerer();
        let reflected = Case { asker, ..case };
        assert_eq!(reflected.judge(&bytes), Err(AuthenticatorError::Signature), "{asker:?}");
    }
}

#[test]
fn nobody_but_the_same_identity_takes_over() {
    let expected = SpiffeId::parse("spiffe://shop.example/payments").unwrap();
    let case = Case { expected: expected.clone(), ..Case::default() };
    let found = case.svid.id().clone();
    let another = AnotherIdentity { expected: expected.clone(), found: found.clone() };
    assert_eq!(case.judge(&case.authenticator()), Err(another.clone().into()));
    assert_eq!(follows(&expected, case.svid.verified()), Err(another));
    assert_eq!(follows(&found, case.svid.verified()), Ok(()));
}

#[test]
fn a_certificate_is_judged_at_the_time_of_its_proof() {
    let mut case = Case::default();
    let bytes = case.authenticator();
    let mut judged = |now| {
        case.now = now;
        case.judge(&bytes).map_err(|error| error.code())
    };
    let (from, until) = (NOW - Duration::hours(1), NOW + Duration::hours(1));
    assert_eq!(judged(from - Duration::seconds(1)), Err("not_yet_valid"));
    assert!(judged(from).is_ok());
    assert!(judged(until).is_ok());
    assert_eq!(judged(until + Duration::seconds(1)), Err("expired"));
}

#[test]
fn a_certificate_of_an_untrusted_root_is_refused() {
    let case = Case::default();
    let bytes = case.authenticator();
    let code = Case { authority: Authority::default(), ..case }.judge(&bytes).unwrap_err().code();
    assert!(["unknown_issuer", "bad_signature"].contains(&code), "{code}");
}

/// An authenticator over any list of certificates, signed with the case's key.
fn over(case: &Case, entries: &[u8]) -> Vec<u8> {
    let first = certificate(&CONTEXT, entries);
    Reference::of(case).authenticator(case.request().as_bytes(), &first, &Key::of(case))
}

#[test]
fn only_a_chain_that_the_one_judge_believes_is_proof() {
    let case = Case::default();
    let leaf = entry(&case.svid.chain()[0], &[]);
    assert!(case.judge(&over(&case, &leaf)).is_ok());
    let refused = |entries: &[u8]| case.judge(&over(&case, entries)).unwrap_err();
    assert_eq!(refused(&[]), VerifyError::EmptyChain.into());
    assert_eq!(refused(&entry(b"not DER", &[])).code(), "malformed");
    assert_eq!(refused(&leaf.repeat(17)), VerifyError::TooManyCertificates { count: 17 }.into());
    let bytes = 64 * 1024 + 1;
    assert_eq!(refused(&entry(&vec![0x30; bytes], &[])), VerifyError::TooLarge { bytes }.into());
    assert_eq!(refused(&entry(&[], &[])).to_string(), "cert_data has 0 bytes, which it cannot have");
}

#[test]
fn the_signature_is_the_leafs_own() {
    let (case, mut other) = (Case::default(), Case::default());
    // The thief shows the victim's certificate and signs with the key it has.
    let victim = entry(&case.svid.chain()[0], &[]);
    other.svid = other.authority.svid_of(
        &PKCS_ECDSA_P256_SHA256,
        "/orders",
        (NOW - Duration::hours(1), NOW + Duration::hours(1)),
    );
    let bytes = over(&other, &victim);
    assert_eq!(case.judge(&bytes), Err(AuthenticatorError::Signature));
}

#[test]
fn a_signature_is_of_a_scheme_that_was_asked_for_and_fits_the_key() {
    for case in Case::all() {
        let (reference, key, request) = (Reference::of(&case), Key::of(&case), case.request());
        let first = certificate(&CONTEXT, &entry(&case.svid.chain()[0], &[]));
        let signature = key.sign(&reference.signed_content(request.as_bytes(), &first));
        let judged = |scheme| {
            let second = certificate_verify(scheme, &signature);
            case.judge(&reference.signed(request.as_bytes(), &first, &second))
        };
        assert!(judged(key.scheme()).is_ok());
        let asked = [P256, P384, ED25519, 0x0804, 0x0805, 0x0806];
        for scheme in asked.into_iter().filter(|scheme| *scheme != key.scheme()) {
            assert_eq!(judged(scheme), Err(AuthenticatorError::Signature), "{scheme:#06x}");
        }
        // RSASSA-PKCS1-v1_5, SHA-1, P-521, Ed448, RSA-PSS keys, ML-DSA, none at all.
        for scheme in [0x0401, 0x0501, 0x0201, 0x0203, 0x0603, 0x0808, 0x0809, 0x0904, 0, 0xffff] {
            assert_eq!(judged(scheme), Err(AuthenticatorError::Scheme { scheme }), "{scheme:#06x}");
        }
    }
}

#[test]
fn a_signature_for_something_else_is_no_proof() {
    let case = Case::default();
    let (reference, key, request) = (Reference::of(&case), Key::of(&case), case.request());
    let first = certificate(&CONTEXT, &entry(&case.svid.chain()[0], &[]));
    let content = reference.signed_content(request.as_bytes(), &first);
    let handshake = [
        " ".repeat(64).as_bytes(),
        b"TLS 1.3, client CertificateVerify\0",
        &reference.hash(&[&reference.handshake_context(), request.as_bytes(), &first]),
    ]
    .concat();
    let without_request = reference.signed_content(&[], &first);
    for other in [&handshake, &without_request, &content[1..].to_vec(), &content[64..].to_vec()] {
        let second = certificate_verify(key.scheme(), &key.sign(other));
        let bytes = reference.signed(request.as_bytes(), &first, &second);
        assert_eq!(case.judge(&bytes), Err(AuthenticatorError::Signature));
    }
}

#[test]
fn a_finished_is_of_this_sender_and_over_all_of_it() {
    let case = Case::default();
    let (reference, request) = (Reference::of(&case), case.request());
    let good = case.authenticator();
    let messages = &good[..good.len() - 36];
    let judged = |finished: &[u8]| case.judge(&[messages, finished].concat());
    assert!(judged(&reference.finished(&[request.as_bytes(), messages])).is_ok());
    let mut other = Reference::of(&case);
    other.sender = "server";
    for finished in [
        other.finished(&[request.as_bytes(), messages]),
        reference.finished(&[messages]),
        reference.finished(&[request.as_bytes(), &messages[1..]]),
        reference.finished(&[request.as_bytes()]),
        message(FINISHED, &[0; 32]),
    ] {
        assert_eq!(judged(&finished), Err(AuthenticatorError::Finished));
    }
}

#[test]
fn an_empty_authenticator_is_understood_and_is_no_proof() {
    for case in Case::all() {
        let (reference, request) = (Reference::of(&case), case.request());
        let empty = reference.finished(&[request.as_bytes(), &certificate(&CONTEXT, &[])]);
        assert_eq!(case.judge(&empty), Err(AuthenticatorError::Refused));
        for at in 4..empty.len() {
            let mut forged = empty.clone();
            forged[at] ^= 1;
            assert_eq!(case.judge(&forged), Err(AuthenticatorError::Finished));
        }
        let other = reference.finished(&[request.as_bytes(), &certificate(&[0; 32], &[])]);
        assert_eq!(case.judge(&other), Err(AuthenticatorError::Finished));
    }
}

#[test]
fn an_extension_in_a_certificate_is_refused_by_name() {
    let case = Case::default();
    let leaf = &case.svid.chain()[0];
    for (code, name) in [
        (0, "server_name(0)"),
        (5, "status_request(5)"),
        (13, "signature_algorithms(13)"),
        (18, "signed_certificate_timestamp(18)"),
        (34, "delegated_credential(34)"),
        (0x0a0a, "unknown(2570)"),
        (0xffff, "unknown(65535)"),
    ] {
        let extension = [&u16::to_be_bytes(code)[..], &[0, 1, 0]].concat();
        for entries in [entry(leaf, &extension), [entry(leaf, &[]), entry(leaf, &extension)].concat()] {
            let refused = case.judge(&over(&case, &entries)).unwrap_err();
            assert_eq!(
                refused.to_string(),
                format!("a certificate has the extension {name}, which was not asked for")
            );
        }
    }
}

#[test]
fn a_refusal_says_its_clauses_cause_in_one_word() {
    let case = Case { asker: Side::Client, ..Case::default() };
    let words = [
        (AuthenticatorError::TooLarge { bytes: 1 }, "authenticator_too_large"),
        (AuthenticatorError::Context, "authenticator_context"),
        (AuthenticatorError::Signature, "authenticator_signature"),
        (AuthenticatorError::Finished, "authenticator_finished"),
        (AuthenticatorError::Refused, "authenticator_refused"),
        (AuthenticatorError::Scheme { scheme: 1 }, "authenticator_scheme"),
        (VerifyError::EmptyChain.into(), "empty_chain"),
        (case.judge(&[]).unwrap_err(), "authenticator_malformed"),
    ];
    for (error, word) in words {
        assert_eq!(error.code(), word);
    }
}
