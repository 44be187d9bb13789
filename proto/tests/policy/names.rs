//! policy.md `Names`: trust domains, services, identities and peers.

use postern_proto::policy::{Policy, ProblemKind};

use crate::ask::{errors, may, one_rule, policy, warnings, with_rule};

#[test]
fn a_trust_domain_is_canonical_and_the_refusal_says_which_spelling_would_do() {
    for (written, right) in [
        ("Shop.example", Some("shop.example")),
        ("spiffe://shop.example", Some("shop.example")),
        (" shop.example", Some("shop.example")),
        ("", None),
        ("shop_\u{e9}", None),
        ("shop.example:1", None),
        ("a/b", None),
    ] {
        let problems = Policy::parse("p", &format!("trust_domain = {written:?}")).unwrap_err();
        assert_eq!(problems.len(), 1, "{written}: {problems:?}");
        assert_eq!(problems[0].kind, ProblemKind::TrustDomain);
        assert_eq!(problems[0].suggestion, right.map(|right| format!("write {right:?}")), "{written}");
    }
}

#[test]
fn a_file_without_trust_domain_is_refused() {
    for text in ["", "\n", "# nothing\n", "[service.a]\n"] {
        let problems = Policy::parse("p", text).unwrap_err();
        assert_eq!(problems[0].kind, ProblemKind::Missing, "{text:?}");
    }
}

#[test]
fn a_service_name_has_1_to_63_of_lower_case_digits_and_dashes() {
    let longest = "a".repeat(63);
    for name in ["a", "0", "-", "a-b-0", &longest] {
        assert_eq!(errors(&format!("[service.{name}]")), [], "{name}");
    }
    let too_long = "a".repeat(64);
    for name in ["A", "a_b", "a.b", "a/b", "", "a b", "\u{e9}", "a*", "*", &too_long] {
        assert_eq!(errors(&format!("[service.{name:?}]")), [ProblemKind::ServiceName], "{name}");
    }
}

#[test]
fn without_identity_a_service_is_its_name_under_the_own_domain() {
    assert_eq!(
        policy("[service.payments]").identity_of("payments").unwrap().as_str(),
        "spiffe://shop.example/payments"
    );
}

#[test]
fn an_identity_is_an_exact_path_or_a_full_id() {
    for (written, id) in [
        ("/ns/shop/sa/payments", "spiffe://shop.example/ns/shop/sa/payments"),
        ("spiffe://shop.example/x", "spiffe://shop.example/x"),
        ("spiffe://partner.example/x", "spiffe://partner.example/x"),
    ] {
        let policy = policy(&format!("[service.a]\nidentity = {written:?}"));
        assert_eq!(policy.identity_of("a").unwrap().as_str(), id);
        assert_eq!(policy.service_of(policy.identity_of("a").unwrap()), Some("a"));
    }
    for written in [
        "",
        "/",
        "payments",
        "ns/shop",
        "/a/",
        "/a//b",
        "/./a",
        "/a/..",
        "/*",
        "/a/**",
        "/a*",
        "/a%20",
        "/a?b",
        "/a#b",
        "spiffe://shop.example",
        "spiffe://shop.example/",
        "spiffe://Shop.example/a",
        "SPIFFE://shop.example/a",
        "spiffe://*/a",
        "spiffe://shop.example/*",
        "spiffe://shop.example:1/a",
        "https://shop.example/a",
        "/caf\u{e9}",
    ] {
        assert_eq!(
            errors(&format!("[service.a]\nidentity = {written:?}")),
            [ProblemKind::Identity],
            "{written}"
        );
    }
}

#[test]
fn a_foreign_service_is_a_name_for_a_partner_and_has_no_allow() {
    let partner = "[service.partner]\nidentity = \"spiffe://partner.example/x\"\n[service.payments]\n";
    let named = policy(&format!("{partner}[[service.payments.allow]]\nfrom = [\"partner\"]"));
    assert!(may(&named, "spiffe://partner.example/x", "GET /"));
    assert!(!may(&named, "/x", "GET /"));
    let rule = "[[service.partner.allow]]\nfrom = [\"payments\"]";
    assert_eq!(errors(&format!("{partner}{rule}")), [ProblemKind::ForeignAllow]);
}

#[test]
fn two_services_never_share_an_identity() {
    for second in ["/a", "spiffe://shop.example/a"] {
        let text = format!("[service.a]\n[service.b]\nidentity = {second:?}");
        assert_eq!(errors(&text), [ProblemKind::SharedIdentity]);
    }
}

#[test]
fn a_bare_word_means_the_identity_of_the_declared_service() {
    let text = "[service.orders]\nidentity = \"/ns/x/sa/orders\"\n[service.payments]\n[[service.payments.allow]]\nfrom = [\"orders\"]";
    let policy = policy(text);
    assert!(may(&policy, "/ns/x/sa/orders", "GET /"));
    assert!(!may(&policy, "/orders", "GET /"));
}

#[test]
fn an_undeclared_bare_word_is_an_error_with_the_nearest_name() {
    let text = format!("trust_domain = \"shop.example\"\n{}", one_rule("from = [\"ordres\"]"));
    let problems = Policy::parse("p", &text).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].kind, ProblemKind::UnknownService);
    assert_eq!(problems[0].suggestion.as_deref(), Some("did you mean \"orders\"?"));
    assert_eq!((problems[0].line, problems[0].column), (6, 9));
}

#[test]
fn patterns_are_whole_segments_of_paths_and_never_in_the_trust_domain() {
    let star = with_rule("from = [\"/ns/*/sa/a\"]");
    assert!(may(&star, "/ns/x/sa/a", "GET /"));
    for other in
        ["/ns/sa/a", "/ns/x/y/sa/a", "/ns/x/sa/a/b", "/ns/x/sa/ab", "spiffe://evil.example/ns/x/sa/a"]
    {
        assert!(!may(&star, other, "GET /"), "{other}");
    }
    let rest = with_rule("from = [\"spiffe://partner.example/ns/**\"]");
    assert!(may(&rest, "spiffe://partner.example/ns/a", "GET /"));
    assert!(may(&rest, "spiffe://partner.example/ns/a/b", "GET /"));
    for other in ["spiffe://partner.example/ns", "spiffe://partner.example/nsx/a", "/ns/a"] {
        assert!(!may(&rest, other, "GET /"), "{other}");
    }
    for pattern in ["/a*", "/*a", "/a/**/b", "/**/", "/***", "spiffe://*/a", "spiffe://**", "*", "**", "ns/*"]
    {
        assert_eq!(errors(&one_rule(&format!("from = [{pattern:?}]"))), [ProblemKind::Peer], "{pattern}");
    }
}

#[test]
fn two_stars_alone_are_everyone_of_the_own_domain_and_shown_as_such() {
    let everyone = with_rule("from = [\"/**\"]");
    assert!(may(&everyone, "/anyone/at/all", "GET /"));
    assert!(!may(&everyone, "spiffe://partner.example/anyone", "GET /"));
    for written in ["/**", "spiffe://shop.example/**"] {
        assert_eq!(warnings(&one_rule(&format!("from = [{written:?}]"))), [ProblemKind::Everyone]);
    }
    for written in ["/*", "/a/**", "spiffe://partner.example/**"] {
        assert_eq!(warnings(&one_rule(&format!("from = [{written:?}]"))), []);
    }
}

#[test]
fn what_lies_under_postern_is_reserved() {
    assert_eq!(errors("[service.a]\nidentity = \"/postern/ca\""), [ProblemKind::Reserved]);
    assert_eq!(
        errors("[service.a]\nidentity = \"spiffe://shop.example/postern/x\""),
        [ProblemKind::Reserved]
    );
    for peer in ["/postern/ca", "/postern/*", "/postern/**", "spiffe://shop.example/postern/ca"] {
        assert_eq!(errors(&one_rule(&format!("from = [{peer:?}]"))), [ProblemKind::Reserved], "{peer}");
    }
    for (from, to) in [("/postern/ca", "a"), ("a", "/postern/ca")] {
        let expect = format!("[service.a]\n[[expect]]\nfrom = {from:?}\nto = {to:?}\nverdict = \"deny\"");
        assert_eq!(errors(&expect), [ProblemKind::Reserved]);
    }
    assert_eq!(errors(&one_rule("from = [\"/posterns/a\"]")), []);
}

#[test]
fn a_trust_domain_alone_is_nobody() {
    assert_eq!(errors(&one_rule("from = [\"spiffe://partner.example\"]")), [ProblemKind::Peer]);
}
