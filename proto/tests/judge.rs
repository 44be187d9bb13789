//! One crafted chain for each rule of X509-SVID, RFC 5280 and our own: refused by its own name, the good ones beside.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test says no by a panic")]

mod support;

use postern_proto::identity::{
    self, BUNDLE_ROOTS_MAX, BundleError, CHAIN_BYTES_MAX, CHAIN_CERTIFICATES_MAX, TrustBundle, TrustBundles,
    TrustDomain, VerifiedSvid, VerifyError,
};
use rustls_pki_types::CertificateDer;
use support::*;
use time::{Duration, OffsetDateTime};

const ID: &str = "spiffe://shop.example/orders";

/// root → issuer → leaf, each of which a test can change before it is signed.
struct Case {
    root: Spec,
    issuer: Spec,
    leaf: Spec,
    root_key: Key,
    issuer_key: Key,
    leaf_key: Key,
}

impl Default for Case {
    fn default() -> Self {
        let (root_key, issuer_key, leaf_key) = (Key::default(), Key::default(), Key::default());
        Self {
            root: Spec::ca("root", "root", &root_key),
            issuer: Spec::ca("root", "issuer", &issuer_key),
            leaf: Spec::leaf("issuer", ID, &leaf_key),
            root_key,
            issuer_key,
            leaf_key,
        }
    }
}

impl Case {
    fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.leaf.sign(&self.issuer_key), self.issuer.sign(&self.root_key)]
    }

    fn bundles(&self) -> TrustBundles {
        bundles("shop.example", vec![self.root.sign(&self.root_key)])
    }

    fn verify(&self) -> Result<VerifiedSvid, VerifyError> {
        verify(&self.chain(), &self.bundles(), NOW)
    }
}

/// Asks the judge and, as handshakes do, the bundles that remember: before the chain is remembered and after it.
fn verify(
    chain: &[CertificateDer<'_>],
    bundles: &TrustBundles,
    now: OffsetDateTime,
) -> Result<VerifiedSvid, VerifyError> {
    let verdict = identity::verify(chain, bundles, now);
    for _ in 0..2 {
        let judged = bundles.verify_cached(chain, now);
        assert_eq!(judged.as_ref().map(|judged| judged.svid()), verdict.as_ref());
        if let Ok(judged) = judged {
            judged.remember();
        }
    }
    if let Err(error) = &verdict {
        assert_sentence(&error.to_string());
    }
    if verdict.is_ok() {
        assert!(bundles.verify_cached(chain, now).unwrap().is_remembered());
    }
    verdict
}

fn bundles(domain: &str, roots: Vec<CertificateDer<'static>>) -> TrustBundles {
    [TrustBundle::new(TrustDomain::new(domain).unwrap(), roots).unwrap()].into_iter().collect()
}

fn accepted(what: &str, change: impl FnOnce(&mut Case)) {
    let mut case = Case::default();
    change(&mut case);
    let verdict = case.verify();
    assert!(verdict.is_ok(), "{what} is refused: {}", verdict.unwrap_err());
}

fn refused(what: &str, code: &str, change: impl FnOnce(&mut Case)) {
    let mut case = Case::default();
    change(&mut case);
    match case.verify() {
        Ok(_) => panic!("{what} is accepted"),
        Err(error) => assert_eq!(error.code(), code, "{what}: {error}"),
    }
}

/// The three certificates of a case, for rules that hold on each.
const EVERY: [fn(&mut Case) -> &mut Spec; 3] =
    [|case| &mut case.leaf, |case| &mut case.issuer, |case| &mut case.root];

#[test]
fn a_good_chain_names_its_workload_and_its_issuers() {
    let found = Case::default().verify().unwrap();
    assert_eq!(found.id().as_str(), ID);
    assert_eq!(found.issuer_path(), ["CN=issuer", "CN=root"]);
    assert_eq!(found.not_after(), NOW + Duration::hours(1));
    assert_eq!(found.serial(), [1, 2, 3]);
}

#[test]
fn a_leaf_has_exactly_one_uri_counted_on_the_raw_der() {
    let with = |names: Vec<Vec<u8>>| move |case: &mut Case| case.leaf.set(OID_SAN, true, san(&names));
    let dns = tlv(0x82, b"orders.shop.example");
    accepted("other names beside the URI", with(vec![dns.clone(), uri(ID), tlv(0x87, &[127, 0, 0, 1])]));
    refused("no SAN", "no_uri_san", |case| case.leaf.remove(OID_SAN));
    refused("a DNS name alone", "no_uri_san", with(vec![dns]));
    refused("two URIs", "many_uri_sans", with(vec![uri(ID), uri("spiffe://shop.example/payments")]));
    refused("the same URI twice", "many_uri_sans", with(vec![uri(ID), uri(ID)]));
    refused("a second URI that is no text", "many_uri_sans", with(vec![uri(ID), uri([0xff, 0xfe])]));
    refused("a second URI that is constructed", "many_uri_sans", with(vec![uri(ID), tlv(0xa6, &uri(ID))]));
    refused("a thousand URIs", "many_uri_sans", with(vec![uri(ID); 1000]));
    refused("one URI that is no text", "uri_not_text", with(vec![uri([0xff, 0xfe])]));
    refused("an https URI beside", "many_uri_sans", with(vec![uri(ID), uri("https://shop.example/")]));
    refused("an empty SAN", "malformed", with(vec![]));
    refused("a SAN with rubbish in it", "malformed", |case| {
        case.leaf.set(OID_SAN, true, vec![0x30, 0x05, 0x86])
    });
    refused("two SAN extensions", "repeated_extension", |case| case.leaf.add(OID_SAN, true, san(&[uri(ID)])));
    refused("identity in the common name only", "no_uri_san", |case| {
        case.leaf.remove(OID_SAN);
        case.leaf.subject = name(ID);
    });
}

#[test]
fn a_leafs_id_is_canonical_and_has_a_path() {
    for id in [
        "SPIFFE://shop.example/orders",
        "spiffe://Shop.example/orders",
        "spiffe://shop.example/",
        "spiffe://shop.example//a",
        "spiffe://shop.example/./a",
        "spiffe://shop.example/../a",
        "spiffe://shop.example/%41",
        "spiffe://shop.example:443/a",
        "spiffe://u@shop.example/a",
        "spiffe://shop.example/a?q",
        "spiffe://shop.example/a#f",
        "spiffe:/shop.example/a",
        "",
        "https://shop.example/orders",
        "spiffe:///orders",
        "spiffe://shop.example/a\0b",
        "spiffe://shop.example/é",
    ] {
        refused(id, "spiffe_id", |case| case.leaf.set(OID_SAN, true, san(&[uri(id)])));
    }
    refused("a domain's ID", "no_path_in_id", |case| {
        case.leaf.set(OID_SAN, true, san(&[uri("spiffe://shop.example")]))
    });
    let long = |bytes: usize| format!("{ID}/{}", "a".repeat(bytes - ID.len() - 1));
    accepted("2,048 bytes", |case| case.leaf.set(OID_SAN, true, san(&[uri(long(2048))])));
    refused("2,049 bytes", "spiffe_id", |case| case.leaf.set(OID_SAN, true, san(&[uri(long(2049))])));
}

#[test]
fn bounds_come_before_anything_is_parsed() {
    let rubbish = CertificateDer::from(vec![0; 16]);
    let none = TrustBundles::default();
    let error = verify(&vec![rubbish; CHAIN_CERTIFICATES_MAX + 1], &none, NOW).unwrap_err();
    assert_eq!(error.code(), "too_many_certificates");
    let large = CertificateDer::from(vec![0; CHAIN_BYTES_MAX + 1]);
    assert_eq!(verify(&[large], &none, NOW).unwrap_err().code(), "chain_too_large");
    assert_eq!(verify(&[], &none, NOW).unwrap_err().code(), "empty_chain");
    let root = Case::default().root.sign(&Key::default());
    let roots: Vec<_> = (0..=BUNDLE_ROOTS_MAX)
        .map(|at| {
            let mut der = root.to_vec();
            let last = der.len() - 1;
            (der[last], der[last - 1]) = (at as u8, 0);
            CertificateDer::from(der)
        })
        .collect();
    let domain = TrustDomain::new("shop.example").unwrap();
    assert!(matches!(TrustBundle::new(domain, roots), Err(BundleError::TooManyRoots { roots: 101 })));
}

#[test]
fn only_the_roots_of_the_ids_own_domain_vouch() {
    let case = Case::default();
    let foreign = bundles("other.example", vec![case.root.sign(&case.root_key)]);
    assert_eq!(verify(&case.chain(), &foreign, NOW).unwrap_err().code(), "unknown_trust_domain");
    let claims = |id: &'static str| move |case: &mut Case| case.root.set(OID_SAN, false, san(&[uri(id)]));
    accepted("a root of the domain's ID", claims("spiffe://shop.example"));
    refused("a root that claims another domain", "no_usable_root", claims("spiffe://other.example"));
    refused("a root whose ID has a path", "no_usable_root", claims("spiffe://shop.example/x"));
    refused("a root whose URI is no SPIFFE ID", "no_usable_root", claims("https://shop.example"));
}

#[test]
fn a_root_that_is_no_unexpired_ca_vouches_for_nothing() {
    refused("cA false", "no_usable_root", |case| {
        case.root.set(OID_BASIC_CONSTRAINTS, true, basic_constraints(false, None));
    });
    refused("no basic constraints", "no_usable_root", |case| case.root.remove(OID_BASIC_CONSTRAINTS));
    refused("key usage without keyCertSign", "no_usable_root", |case| {
        case.root.set(OID_KEY_USAGE, true, key_usage(CRL_SIGN));
    });
    accepted("no key usage at all", |case| case.root.remove(OID_KEY_USAGE));
    accepted("key usage not critical", |case| case.root.set(OID_KEY_USAGE, false, key_usage(KEY_CERT_SIGN)));
    refused("expired", "no_usable_root", |case| case.root.not_after = utc(NOW - Duration::seconds(1)));
    refused("not yet valid", "no_usable_root", |case| case.root.not_before = utc(NOW + Duration::seconds(1)));
    refused("a root of version 1", "no_usable_root", |case| {
        (case.root.version, case.root.extensions) = (None, Vec::new());
    });

    let case = Case::default();
    let mut own = Spec::leaf("orders", ID, &case.leaf_key);
    own.subject = name("orders");
    let leaf = own.sign(&case.leaf_key);
    let error =
        verify(std::slice::from_ref(&leaf), &bundles("shop.example", vec![leaf.clone()]), NOW).unwrap_err();
    assert_eq!(error.code(), "no_usable_root", "a leaf in the bundle does not vouch for itself");
}

#[test]
fn every_certificate_of_the_path_keeps_the_rules_of_form() {
    // A root that breaks them vouches for nothing.
    let codes = |code: &'static str| [code, code, "no_usable_root"];
    let each = |what: &str, code: &'static str, change: fn(&mut Spec)| {
        for (of, code) in EVERY.into_iter().zip(codes(code)) {
            refused(what, code, |case| change(of(case)));
        }
    };
    each("an unknown extension twice", "repeated_extension", |spec| {
        spec.add(OID_UNKNOWN, false, tlv(0x04, b"x"));
        spec.add(OID_UNKNOWN, false, tlv(0x04, b"y"));
    });
    each("key usage twice", "repeated_extension", |spec| {
        let usage = spec.extensions.iter().find(|extension| extension.oid == OID_KEY_USAGE).unwrap().clone();
        spec.extensions.push(usage);
    });
    each("serial zero", "serial", |spec| spec.serial = vec![0]);
    each("a negative serial", "serial", |spec| spec.serial = vec![0x80]);
    each("a serial with a needless zero", "serial", |spec| spec.serial = vec![0, 0x7f]);
    each("a serial of 21 octets", "serial", |spec| spec.serial = vec![1; 21]);
    each("two signature algorithms", "signature_algorithm_mismatch", |spec| {
        spec.inner_algorithm = sequence(&[oid(OID_ECDSA_SHA384)]);
    });
    each("SHA-1", "signature_algorithm", |spec| {
        spec.inner_algorithm = sequence(&[oid(OID_ECDSA_SHA1)]);
        spec.outer_algorithm = spec.inner_algorithm.clone();
    });
    for (of, serial) in
        EVERY.into_iter().flat_map(|of| [(of, vec![0x00, 0x80]), (of, vec![1; 20]), (of, vec![1])])
    {
        accepted("a good serial", |case| of(case).serial = serial);
    }
}

#[test]
fn keys_are_p256_p384_ed25519_or_rsa_of_2048_to_8192_bits() {
    let point = |bytes: usize| [&[4][..], &vec![7; bytes - 1]].concat();
    let good = [
        ("P-384", spki(&[oid(OID_EC_KEY), oid(OID_P384)], &p384_point())),
        ("Ed25519", spki(&[oid(OID_ED25519)], &ed25519_key())),
        ("RSA-2048", rsa_spki(2048)),
        ("RSA-8192", rsa_spki(8192)),
    ];
    for (what, key) in good {
        accepted(what, |case| case.leaf.spki = key);
    }
    let bad = [
        ("P-521", spki(&[oid(OID_EC_KEY), oid(OID_P521)], &point(133))),
        ("Ed448", spki(&[oid(OID_ED448)], &[7; 57])),
        ("RSA-1024", rsa_spki(1024)),
        ("RSA-2047", rsa_spki(2047)),
        ("RSA-8193", rsa_spki(8193)),
        ("RSA-PSS", spki(&[oid(OID_RSA_PSS)], b"\x30\x00")),
        ("explicit curve", spki(&[oid(OID_EC_KEY), sequence(&[])], &point(65))),
        ("no curve", spki(&[oid(OID_EC_KEY)], &point(65))),
        ("compressed point", spki(&[oid(OID_EC_KEY), oid(OID_P256)], &[&[2][..], &[7; 32]].concat())),
        ("short point", spki(&[oid(OID_EC_KEY), oid(OID_P256)], &point(64))),
        ("unknown", spki(&[oid(OID_UNKNOWN)], &[7; 32])),
        ("P-256 beside its curve", spki(&[oid(OID_EC_KEY), oid(OID_P256)], &point(65))),
        ("P-384 beside its curve", spki(&[oid(OID_EC_KEY), oid(OID_P384)], &point(97))),
        ("Ed25519 of small order", spki(&[oid(OID_ED25519)], &[0; 32])),
        ("Ed25519 beside its curve", spki(&[oid(OID_ED25519)], &[&[2][..], &[0; 31]].concat())),
        ("RSA with an even modulus", rsa_spki_of(&[0xfe; 256], &[1, 0, 1])),
        ("RSA with a modulus that 3 divides", rsa_spki_of(&[0xff; 256], &[1, 0, 1])),
        ("RSA with the exponent 1", rsa_spki_of(&[0xff; 256], &[1])),
        ("RSA with an even exponent", rsa_spki_of(&[0xff; 256], &[4])),
        ("RSA with an exponent of 40 bits", rsa_spki_of(&[0xff; 256], &[1, 0, 0, 0, 1])),
    ];
    for (what, key) in bad {
        refused(what, "key", |case| case.leaf.spki = key.clone());
        refused(what, "no_usable_root", |case| case.root.spki = key);
    }
}

#[test]
fn a_leaf_is_no_ca_and_signs_only_handshakes() {
    let usage = |bits: u8| move |case: &mut Case| case.leaf.set(OID_KEY_USAGE, true, key_usage(bits));
    accepted("keyEncipherment and keyAgreement beside", usage(DIGITAL_SIGNATURE | 0x20 | 0x08));
    refused("keyCertSign", "leaf_signs_certificates", usage(DIGITAL_SIGNATURE | KEY_CERT_SIGN));
    refused("cRLSign", "leaf_signs_crls", usage(DIGITAL_SIGNATURE | CRL_SIGN));
    refused("no digitalSignature", "no_digital_signature", usage(0x20));
    refused("no key usage", "no_key_usage", |case| case.leaf.remove(OID_KEY_USAGE));
    refused("key usage not critical", "key_usage_not_critical", |case| {
        case.leaf.set(OID_KEY_USAGE, false, key_usage(DIGITAL_SIGNATURE));
    });
    let constraints =
        |value: Vec<u8>| move |case: &mut Case| case.leaf.set(OID_BASIC_CONSTRAINTS, true, value);
    accepted("cA false", constraints(basic_constraints(false, None)));
    refused("cA true", "leaf_is_ca", constraints(basic_constraints(true, None)));
    refused("a path length without cA", "leaf_path_len", constraints(basic_constraints(false, Some(0))));
}

#[test]
fn an_extended_key_usage_has_both_purposes_or_is_absent() {
    let usage = |purposes: &'static [u8]| {
        move |case: &mut Case| case.leaf.set(OID_EXTENDED_KEY_USAGE, false, extended_key_usage(purposes))
    };
    accepted("absent", |case| case.leaf.remove(OID_EXTENDED_KEY_USAGE));
    accepted("both and another", usage(&[SERVER_AUTH, CLIENT_AUTH, 4]));
    refused("serverAuth alone", "extended_key_usage", usage(&[SERVER_AUTH]));
    refused("clientAuth alone", "extended_key_usage", usage(&[CLIENT_AUTH]));
    refused("another alone", "extended_key_usage", usage(&[4]));
    let issuer = |purposes: &'static [u8]| {
        move |case: &mut Case| case.issuer.set(OID_EXTENDED_KEY_USAGE, false, extended_key_usage(purposes))
    };
    accepted("an issuer for both", issuer(&[SERVER_AUTH, CLIENT_AUTH]));
    refused("an issuer for servers only", "extended_key_usage", issuer(&[SERVER_AUTH]));
    refused("an issuer for clients only", "extended_key_usage", issuer(&[CLIENT_AUTH]));
}

#[test]
fn an_empty_subject_makes_the_name_critical() {
    refused("not critical", "san_not_critical", |case| case.leaf.set(OID_SAN, false, san(&[uri(ID)])));
    accepted("a subject beside", |case| {
        case.leaf.subject = name("orders");
        case.leaf.set(OID_SAN, false, san(&[uri(ID)]));
    });
}

#[test]
fn issuers_are_cas_that_sign_and_name_no_workload() {
    refused("no CA", "issuer_not_ca", |case| {
        case.issuer.set(OID_BASIC_CONSTRAINTS, true, basic_constraints(false, None));
    });
    refused("no basic constraints", "issuer_not_ca", |case| case.issuer.remove(OID_BASIC_CONSTRAINTS));
    refused("no keyCertSign", "issuer_does_not_sign", |case| {
        case.issuer.set(OID_KEY_USAGE, true, key_usage(CRL_SIGN | DIGITAL_SIGNATURE));
    });
    refused("no key usage", "no_key_usage", |case| case.issuer.remove(OID_KEY_USAGE));
    refused("key usage not critical", "key_usage_not_critical", |case| {
        case.issuer.set(OID_KEY_USAGE, false, key_usage(KEY_CERT_SIGN));
    });
    let named = |names: Vec<Vec<u8>>| move |case: &mut Case| case.issuer.set(OID_SAN, false, san(&names));
    accepted("the domain's ID", named(vec![uri("spiffe://shop.example")]));
    refused("a workload's ID", "issuer_with_path", named(vec![uri("spiffe://shop.example/ca")]));
    refused(
        "two IDs",
        "many_uri_sans",
        named(vec![uri("spiffe://shop.example"), uri("spiffe://shop.example")]),
    );
    refused("no SPIFFE ID", "spiffe_id", named(vec![uri("https://shop.example")]));
    refused("a path length that is too short", "path_length", |case| {
        case.root.set(OID_BASIC_CONSTRAINTS, true, basic_constraints(true, Some(0)));
    });
    accepted("a path length that is enough", |case| {
        case.issuer.set(OID_BASIC_CONSTRAINTS, true, basic_constraints(true, Some(0)));
        case.root.set(OID_BASIC_CONSTRAINTS, true, basic_constraints(true, Some(1)));
    });
}

#[test]
fn a_leaf_cannot_issue_a_leaf() {
    let case = Case::default();
    let evil_key = Key::default();
    let mut middle = case.leaf.clone();
    middle.subject = name("middle");
    let evil = Spec::leaf("middle", "spiffe://shop.example/payments", &evil_key).sign(&case.leaf_key);
    let chain = [evil, middle.sign(&case.issuer_key), case.issuer.sign(&case.root_key)];
    assert_eq!(verify(&chain, &case.bundles(), NOW).unwrap_err().code(), "issuer_not_ca");
}

#[test]
fn time_counts_from_the_first_second_through_the_last() {
    let case = Case::default();
    let at = |now: OffsetDateTime| verify(&case.chain(), &case.bundles(), now).map_err(|error| error.code());
    let (from, to) = (NOW - Duration::hours(1), NOW + Duration::hours(1));
    assert!(at(from).is_ok());
    assert_eq!(at(from - Duration::nanoseconds(1)), Err("not_yet_valid"));
    assert!(at(to).is_ok());
    assert!(at(to + Duration::milliseconds(999)).is_ok(), "the whole last second");
    assert_eq!(at(to + Duration::seconds(1)), Err("expired"));
    assert_eq!(at(to + Duration::minutes(5)), Err("expired"), "no hidden leeway");
    refused("an expired issuer", "issuer_expired", |case| {
        case.issuer.not_after = utc(NOW - Duration::seconds(1))
    });
    refused("an issuer of tomorrow", "issuer_not_yet_valid", |case| {
        case.issuer.not_before = utc(NOW + Duration::seconds(1));
    });
}

#[test]
fn each_root_that_cannot_be_used_is_named_with_the_rule_that_it_breaks() {
    let p521 = spki(&[oid(OID_EC_KEY), oid(OID_P521)], &[&[4][..], &[7; 132]].concat());
    type Change = fn(&mut Spec, Vec<u8>);
    let changes: [(Change, &str); 8] = [
        (|root, p521| root.spki = p521, "\"CN=root\": root has a key that is not accepted: EC curve P-521"),
        (
            |root, _| {
                root.version = None;
                root.extensions.clear();
            },
            "root is of X.509 version 1; version 3 is needed",
        ),
        (|root, _| root.not_after = utc(NOW - Duration::seconds(1)), "certificate expired"),
        (|root, _| root.not_before = utc(NOW + Duration::seconds(1)), "not yet valid"),
        (|root, _| root.set(OID_BASIC_CONSTRAINTS, true, basic_constraints(false, None)), "root is not a CA"),
        (|root, _| root.set(OID_KEY_USAGE, true, key_usage(CRL_SIGN)), "root lacks keyCertSign"),
        (
            |root, _| root.set(OID_SAN, false, san(&[uri("spiffe://other.example")])),
            "root is of trust domain other.example",
        ),
        (|root, _| root.serial = vec![0], "serial number of root is not positive"),
    ];
    for (change, reason) in changes {
        let mut case = Case::default();
        change(&mut case.root, p521.clone());
        let error = case.verify().unwrap_err();
        assert!(error.code() == "no_usable_root" && error.to_string().contains(reason), "{reason}: {error}");

        // Beside one that could be used and did not issue the chain.
        let other_key = Key::default();
        let other = Spec::ca("other", "other", &other_key).sign(&other_key);
        let both = bundles("shop.example", vec![case.root.sign(&case.root_key), other]);
        let error = verify(&case.chain(), &both, NOW).unwrap_err();
        assert!(
            error.code() == "issuer_passed_over" && error.to_string().contains(reason),
            "{reason}: {error}"
        );
    }
}

#[test]
fn a_bundle_of_many_unusable_roots_names_a_few() {
    let case = Case::default();
    let expired = |at: u8| {
        let mut root = Spec::ca("root", &format!("root {at}"), &case.root_key);
        root.not_after = utc(NOW - Duration::hours(1));
        root.sign(&case.root_key)
    };
    let error =
        verify(&case.chain(), &bundles("shop.example", (0..40).map(expired).collect()), NOW).unwrap_err();
    assert!(error.to_string().ends_with("; and 35 more"), "{error}");
}

#[test]
fn signatures_and_names_must_lead_to_a_root() {
    refused("an issuer with another key", "bad_signature", |case| case.issuer_key = Key::default());
    refused("another root of the same name", "bad_signature", |case| {
        case.root.spki = Key::default().spki();
    });
    refused("a root of another name", "unknown_issuer", |case| case.root.subject = name("other"));
    let case = Case::default();
    let chain = case.chain();
    let alone = verify(&chain[..1], &case.bundles(), NOW).unwrap_err();
    assert_eq!(alone.code(), "unknown_issuer", "without its issuer");
    let unrelated = Spec::ca("root", "unrelated", &Key::default()).sign(&Key::default());
    let mixed = [chain[0].clone(), unrelated, chain[1].clone(), chain[1].clone()];
    assert!(verify(&mixed, &case.bundles(), NOW).is_ok(), "in any order, with strangers and twice");
}

#[test]
fn critical_extensions_that_nobody_knows_are_refused() {
    let critical = |spec: &mut Spec| spec.add(OID_UNKNOWN, true, tlv(0x04, b"x"));
    refused("in the leaf", "critical_extension", |case| critical(&mut case.leaf));
    refused("in the issuer", "critical_extension", |case| critical(&mut case.issuer));
    refused("in the root", "no_usable_root", |case| critical(&mut case.root));
    for of in EVERY {
        accepted("not critical", |case| of(case).add(OID_UNKNOWN, false, tlv(0x04, b"x")));
    }
    for tag in [0xa0, 0xa1] {
        let constraint = sequence(&[tlv(tag, &sequence(&[tlv(0x86, b"shop.example")]))]);
        refused("a name constraint on URIs", "uri_constraints", |case| {
            case.issuer.set(OID_NAME_CONSTRAINTS, true, constraint.clone());
        });
        refused("the same in the root", "no_usable_root", |case| {
            case.root.set(OID_NAME_CONSTRAINTS, true, constraint);
        });
    }
    let dns_constraint = sequence(&[tlv(0xa0, &sequence(&[tlv(0x82, b"shop.example")]))]);
    accepted("a name constraint on DNS names, of which the leaf has none", |case| {
        case.issuer.set(OID_NAME_CONSTRAINTS, true, dns_constraint.clone());
    });
    refused("one that the leaf's DNS name breaks", "name_constraints", |case| {
        case.issuer.set(OID_NAME_CONSTRAINTS, true, dns_constraint);
        case.leaf.set(OID_SAN, true, san(&[uri(ID), tlv(0x82, b"other.example")]));
    });
}

#[test]
fn a_broken_certificate_is_malformed_and_never_a_panic() {
    let case = Case::default();
    let (chain, bundles) = (case.chain(), case.bundles());
    let leaf = &chain[0];
    let trailing = CertificateDer::from([leaf.as_ref(), &[0]].concat());
    let error = verify(&[trailing, chain[1].clone()], &bundles, NOW).unwrap_err();
    assert_eq!(error.code(), "malformed");
    for at in 0..leaf.len() {
        let cut = CertificateDer::from(leaf[..at].to_vec());
        assert_eq!(verify(&[cut, chain[1].clone()], &bundles, NOW).unwrap_err().code(), "malformed");
        let mut flipped = leaf.to_vec();
        flipped[at] ^= 0x55;
        let flipped = CertificateDer::from(flipped);
        assert!(verify(&[flipped, chain[1].clone()], &bundles, NOW).is_err(), "byte {at} changed");
    }
}

#[test]
fn many_certificates_that_sign_each_other_are_judged_soon() {
    let case = Case::default();
    let keys: Vec<_> = (0..CHAIN_CERTIFICATES_MAX - 1).map(|_| Key::default()).collect();
    // All of one name: every one could have issued every other, and none leads to the root.
    let mut chain = vec![Spec::leaf("ring", ID, &case.leaf_key).sign(&keys[0])];
    chain.extend(keys.iter().map(|key| Spec::ca("ring", "ring", key).sign(&keys[0])));
    let started = std::time::Instant::now();
    identity::verify(&chain, &case.bundles(), NOW).unwrap_err();
    // Without a bound it takes days.
    assert!(started.elapsed().as_secs() < 120, "bounded work: {:?}", started.elapsed());
}
