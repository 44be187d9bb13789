//! SPIFFE IDs are accepted and refused as the standard says (SPIFFE-ID §2).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says no by a panic")]

use postern_proto::identity::{
    SPIFFE_ID_BYTES_MAX, SpiffeId, SpiffeIdError, TRUST_DOMAIN_BYTES_MAX, TrustDomain,
};
use proptest::prelude::*;

#[test]
fn scheme_and_trust_domain_are_read_in_any_case_and_kept_in_lower_case() {
    for text in
        ["spiffe://shop.example/Orders", "SPIFFE://shop.example/Orders", "Spiffe://SHOP.Example/Orders"]
    {
        let id = SpiffeId::parse(text).unwrap();
        assert_eq!(id.as_str(), "spiffe://shop.example/Orders", "the path keeps its case");
    }
}

#[test]
fn where_only_the_canonical_form_will_do_the_right_spelling_is_named() {
    for text in ["SPIFFE://shop.example/orders", "spiffe://Shop.example/orders"] {
        let error = SpiffeId::parse_canonical(text).unwrap_err();
        let canonical = "spiffe://shop.example/orders".to_owned();
        assert_eq!(error, SpiffeIdError::NotCanonical { id: text.to_owned(), canonical });
    }
}

#[test]
fn what_the_standard_allows_is_accepted() {
    for text in [
        "spiffe://td",
        "spiffe://td/a",
        "spiffe://td/a.b-c_D/0",
        "spiffe://td/...",
        "spiffe://127.0.0.1/a",
        "spiffe://a_b-c.d/a",
        "spiffe://-/a",
    ] {
        assert_eq!(SpiffeId::parse_canonical(text).unwrap().as_str(), text);
    }
}

#[test]
fn what_the_standard_forbids_is_refused() {
    for text in [
        "",
        "spiffe",
        "spiffe:/td/a",
        "spiffe:td",
        "http://td/a",
        "spiffe://",
        "spiffe:///a",
        "spiffe://td/",
        "spiffe://td//a",
        "spiffe://td/a/",
        "spiffe://td/./a",
        "spiffe://td/../a",
        "spiffe://td/a/..",
        "spiffe://td/%41",
        "spiffe://td/a%2fb",
        "spiffe://td:443/a",
        "spiffe://td:/a",
        "spiffe://u@td/a",
        "spiffe://u:p@td/a",
        "spiffe://td/a?q",
        "spiffe://td?q",
        "spiffe://td/a#f",
        "spiffe://td#f",
        "spiffe://[::1]/a",
        "spiffe://t%64/a",
        "spiffe://tdé/a",
        "spiffe://td/é",
        "spiffe://td/a b",
        "spiffe://td/a\0",
        "spiffe://td/a\n",
        " spiffe://td/a",
        "spiffe://td/a ",
        "spiffe://td/a\\b",
        "spiffe://td/a;b",
        "spiffe://td/a:b",
        "spiffe://td/~a",
        "spiffe://td\\a",
    ] {
        assert!(SpiffeId::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn lengths_are_counted_in_bytes() {
    let domain = |bytes: usize| format!("spiffe://{}/a", "d".repeat(bytes));
    SpiffeId::parse(&domain(TRUST_DOMAIN_BYTES_MAX)).unwrap();
    assert!(SpiffeId::parse(&domain(TRUST_DOMAIN_BYTES_MAX + 1)).is_err());
    let whole = |bytes: usize| format!("spiffe://td/{}", "a".repeat(bytes - "spiffe://td/".len()));
    SpiffeId::parse(&whole(SPIFFE_ID_BYTES_MAX)).unwrap();
    let long = SpiffeId::parse(&whole(SPIFFE_ID_BYTES_MAX + 1));
    assert_eq!(long, Err(SpiffeIdError::TooLong { bytes: SPIFFE_ID_BYTES_MAX + 1 }));
}

#[test]
fn an_operator_may_leave_out_scheme_and_domain() {
    let own = TrustDomain::new("shop.example").unwrap();
    for text in ["orders", "/orders", "spiffe://shop.example/orders", "SPIFFE://SHOP.example/orders"] {
        assert_eq!(SpiffeId::parse_under(&own, text).unwrap().as_str(), "spiffe://shop.example/orders");
    }
    assert!(SpiffeId::parse_under(&own, "").is_err());
}

#[test]
fn posterns_own_names_are_reserved_whole_and_no_others() {
    let reserved = |path: &str| SpiffeId::parse(&format!("spiffe://td{path}")).unwrap().is_reserved();
    assert!(reserved("/postern") && reserved("/postern/ca") && reserved("/postern/x/y"));
    assert!(!reserved("/posterns") && !reserved("/a/postern") && !reserved(""));
}

proptest! {
    #[test]
    fn what_is_printed_is_read_back(text in "spiffe://[a-z0-9._-]{1,40}(/[A-Za-z0-9_-]{1,12}){0,6}") {
        let id = SpiffeId::parse(&text).unwrap();
        prop_assert_eq!(id.to_string(), text.clone());
        prop_assert_eq!(SpiffeId::parse_canonical(&id.to_string()).unwrap(), id.clone());
        let put_together = SpiffeId::from_parts(id.trust_domain().clone(), id.path()).unwrap();
        prop_assert_eq!(put_together, id);
    }

    #[test]
    fn any_text_is_read_or_refused_and_what_is_read_is_canonical(text in any::<String>()) {
        if let Ok(id) = SpiffeId::parse(&format!("spiffe://{text}")) {
            prop_assert_eq!(SpiffeId::parse_canonical(id.as_str()).unwrap(), id);
        }
    }
}
