//! A sidecar that was told its slice decides as whoever has the whole policy; a slice that is not understood is none.

use postern_proto::identity::SpiffeId;
use postern_proto::policy::{Call, Decision, Policy, decide, may_connect};
use postern_proto::wire::SliceError;
use postern_proto::wire::v1::{PolicySlice, SliceName};
use proptest::prelude::*;
use time::macros::datetime;

use crate::ask::{HTTP, NOW, one_rule, policy, with_rule};
use crate::reference::{parsed, questions, service};

const ALL: [&str; 4] = ["s0", "s1", "s2", "s3"];

/// The decision without the caller's declared name, which a slice may not know.
fn nameless(mut decision: Decision) -> Decision {
    match &mut decision {
        Decision::Allow { .. } => {}
        Decision::Deny { refusal } | Decision::Observed { refusal } => refusal.peer_name = None,
    }
    decision
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_slice_decides_everything_about_its_identity_as_the_whole_policy_does(
        services in proptest::collection::vec(service(), 2..4),
        questions in questions(),
    ) {
        let Some((whole, _)) = parsed(&services) else { return Ok(()) };
        for target in whole.services().iter().map(|service| service.identity()) {
            let slice = Policy::from_slice(whole.slice_for(target, &ALL, 7)).unwrap();
            let bare = Policy::from_slice(whole.slice_for(target, &[] as &[&str], 7)).unwrap();
            prop_assert_eq!((slice.digest(), slice.file()), (whole.digest(), whole.file()));
            prop_assert_eq!((slice.version(), whole.version()), (Some(7), None));
            prop_assert_eq!(slice.trust_domain(), whole.trust_domain());
            for name in ALL {
                prop_assert_eq!(slice.identity_of(name), whole.identity_of(name));
            }
            for (id, port, call) in &questions {
                let peer = SpiffeId::parse(id).unwrap();
                let call = call.map(|(method, path)| Call { method, path });
                let said = decide(&whole, &peer, target, *port, call, NOW);
                prop_assert_eq!(&decide(&slice, &peer, target, *port, call, NOW), &said);
                prop_assert_eq!(nameless(decide(&bare, &peer, target, *port, call, NOW)), nameless(said));
                prop_assert_eq!(
                    may_connect(&slice, &peer, target, *port, NOW),
                    may_connect(&whole, &peer, target, *port, NOW)
                );
            }
        }
    }
}

#[test]
fn what_the_rules_authors_say_travels_with_them() {
    let whole = with_rule(
        "from = [\"orders\"]\nowner = \"team\"\nreason = \"why\"\nexpires = 2027-01-01T00:00:00+02:00",
    );
    let payments = whole.identity_of("payments").unwrap();
    let slice = Policy::from_slice(whole.slice_for(payments, &["orders"], 1)).unwrap();
    let orders = slice.peer("orders").unwrap();
    let Decision::Allow { rule } = decide(&slice, &orders, payments, HTTP, None, NOW) else {
        panic!("denied")
    };
    assert_eq!((rule.owner.as_deref(), rule.reason.as_deref()), (Some("team"), Some("why")));
    assert_eq!(rule.expires.as_ref().unwrap().as_str(), "2027-01-01T00:00:00+02:00");
    assert_eq!((&*rule.file, rule.line), ("policy.toml", 5));
}

#[test]
fn a_slice_says_nothing_of_who_may_call_others() {
    let whole = with_rule("from = [\"orders\"]");
    let slice = whole.slice_for(whole.identity_of("orders").unwrap(), &["payments"], 1);
    assert_eq!(slice.own.unwrap().rules.len(), 0);
    assert_eq!(slice.names.len(), 1);
    let stranger = SpiffeId::parse("spiffe://shop.example/stranger").unwrap();
    assert_eq!(whole.slice_for(&stranger, &["nobody"], 1).own, None);
}

#[test]
fn the_first_end_that_is_still_to_come_is_the_next() {
    let rule =
        |expires: &str| format!("[[service.a.allow]]\nfrom=[\"/x{}\"]\nexpires={expires}\n", expires.len());
    let ends = policy(&format!(
        "[service.a]\n{}{}{}",
        rule("2026-11-22"),
        rule("2026-11-23T12:00:00Z"),
        rule("2026-12-01T00:00:00.25Z")
    ));
    let next = ends.next_expiry(NOW).unwrap();
    assert_eq!(next, datetime!(2026-11-23 12:00:00.000_000_001 UTC), "at the very moment it still holds");
    assert_eq!(ends.next_expiry(next).unwrap(), datetime!(2026-12-01 00:00:00.250_000_001 UTC));
    assert_eq!(ends.next_expiry(datetime!(2026-12-02 00:00:00 UTC)), None);
    let never = policy("[service.a]\n[[service.a.allow]]\nfrom=[\"/x\"]\nexpires=9999-12-31");
    assert_eq!(never.next_expiry(NOW), None, "the end of time does not overflow");
}

/// A slice with a rule that has everything.
fn slice() -> PolicySlice {
    let rule = "from = [\"orders\"]\ncalls = [\"GET /a\"]\nport = \"api\"\nexpires = 2027-01-01";
    let text = one_rule(rule)
        .replace("[service.payments]", "[service.payments]\nports = { api = \"http\", bulk = \"tcp\" }");
    let whole = policy(&text);
    whole.slice_for(whole.identity_of("payments").unwrap(), &["orders"], 1)
}

type Spoil = fn(&mut PolicySlice);

#[test]
fn what_is_not_understood_is_refused_whole() {
    let spoilt: [(&str, Spoil); 30] = [
        ("version", |slice| slice.version = 0),
        ("digest", |slice| slice.digest = "sha256:12".to_owned()),
        ("digest case", |slice| slice.digest = slice.digest.to_uppercase()),
        ("domain", |slice| slice.trust_domain = "Shop.Example".to_owned()),
        ("no domain", |slice| slice.trust_domain.clear()),
        ("other domain", |slice| slice.trust_domain = "other.example".to_owned()),
        ("name", |slice| slice.names[0].name = "Orders".to_owned()),
        ("name's identity", |slice| slice.names[0].spiffe_id = "/orders".to_owned()),
        ("name's domain alone", |slice| slice.names[0].spiffe_id = "spiffe://shop.example".to_owned()),
        ("reserved name", |slice| slice.names[0].spiffe_id = "spiffe://shop.example/postern/ca".to_owned()),
        ("shared identity", |slice| slice.names[0].spiffe_id = "spiffe://shop.example/payments".to_owned()),
        ("shared name", |slice| slice.names[0].name = "payments".to_owned()),
        ("name twice", |slice| {
            let spiffe_id = "spiffe://shop.example/other".to_owned();
            slice.names.push(SliceName { name: "orders".to_owned(), spiffe_id });
        }),
        ("names", |slice| {
            slice.names = (0..1_001)
                .map(|n| SliceName {
                    name: format!("n{n}"),
                    spiffe_id: format!("spiffe://shop.example/n{n}"),
                })
                .collect();
        }),
        ("own name", |slice| slice.own.as_mut().unwrap().name.clear()),
        ("own identity", |slice| slice.own.as_mut().unwrap().spiffe_id = "x".to_owned()),
        ("mode", |slice| slice.own.as_mut().unwrap().mode = "Observe".to_owned()),
        ("no mode", |slice| slice.own.as_mut().unwrap().mode.clear()),
        ("ports not expected", |slice| slice.own.as_mut().unwrap().ports_declared = false),
        ("port twice", |slice| slice.own.as_mut().unwrap().ports[1].name = "api".to_owned()),
        ("protocol", |slice| slice.own.as_mut().unwrap().ports[0].protocol = "udp".to_owned()),
        ("nobody", |slice| slice.own.as_mut().unwrap().rules[0].from.clear()),
        ("bare word", |slice| slice.own.as_mut().unwrap().rules[0].from[0] = "orders".to_owned()),
        ("pattern", |slice| slice.own.as_mut().unwrap().rules[0].from[0] = "spiffe://*/a".to_owned()),
        ("call", |slice| slice.own.as_mut().unwrap().rules[0].calls[0] = "GET a".to_owned()),
        ("rule's port", |slice| slice.own.as_mut().unwrap().rules[0].port = Some("other".to_owned())),
        ("calls on tcp", |slice| slice.own.as_mut().unwrap().rules[0].port = Some("bulk".to_owned())),
        ("no date", |slice| slice.own.as_mut().unwrap().rules[0].expires = Some("soon".to_owned())),
        ("local time", |slice| {
            slice.own.as_mut().unwrap().rules[0].expires = Some("2027-01-01T00:00:00".to_owned())
        }),
        ("rules", |slice| {
            let own = slice.own.as_mut().unwrap();
            own.rules = vec![own.rules[0].clone(); 10_001];
        }),
    ];
    Policy::from_slice(slice()).unwrap();
    for (what, spoil) in spoilt {
        let mut spoilt = slice();
        spoil(&mut spoilt);
        assert!(Policy::from_slice(spoilt).is_err(), "{what}");
    }
}

#[test]
fn the_absence_of_a_policy_is_no_policy() {
    assert!(matches!(Policy::from_slice(PolicySlice::default()), Err(SliceError::NoPolicy)));
}

#[test]
fn a_policy_that_declares_nobody_by_this_identity_refuses_everybody() {
    let whole = with_rule("from = [\"/**\"]");
    let stranger = SpiffeId::parse("spiffe://shop.example/stranger").unwrap();
    let slice = Policy::from_slice(whole.slice_for(&stranger, &["payments"], 1)).unwrap();
    let payments = slice.identity_of("payments").unwrap().clone();
    for service in [&stranger, &payments] {
        assert!(!decide(&slice, &payments, service, HTTP, None, NOW).lets_pass(), "{service}");
    }
}
