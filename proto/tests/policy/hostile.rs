//! Cases of hostile-inputs.md that the policy answers: 11, 12, 25, 28, 30, 31.

use postern_proto::policy::{Call, Policy, Port, Protocol};

use crate::ask::{HTTP, NOW, TCP, allowed, ask, ask_at, errors, may, one_rule, policy, with_rule};

#[test]
fn case_11_a_prefix_of_a_name_is_another_name_under_every_wildcard() {
    for (pattern, right, wrong) in [
        ("/orders", "/orders", ["/orders-evil", "/orders/x", "/order"]),
        ("/orders/*", "/orders/x", ["/orders-evil/x", "/orders", "/orders/x/y"]),
        ("/orders/**", "/orders/x/y", ["/orders-evil/x", "/orders", "/ordersx/y"]),
        ("/*/orders", "/x/orders", ["/x/orders-evil", "/x/orders/y", "/orders"]),
    ] {
        let policy = with_rule(&format!("from = [{pattern:?}]"));
        assert!(may(&policy, right, "GET /"), "{pattern} {right}");
        for wrong in wrong {
            assert!(!may(&policy, wrong, "GET /"), "{pattern} {wrong}");
        }
    }
}

#[test]
fn case_12_the_same_name_in_another_trust_domain_is_another_peer() {
    let policy = with_rule("from = [\"orders\", \"/ns/**\"]");
    for peer in
        ["spiffe://evil.example/orders", "spiffe://shop.example.evil/orders", "spiffe://evil.example/ns/x"]
    {
        assert!(!may(&policy, peer, "GET /"), "{peer}");
    }
}

#[test]
fn case_25_what_is_not_a_whole_right_policy_is_no_policy() {
    for text in [
        "",
        "\u{0}",
        "trust_domain",
        "trust_domain = \"shop.example",
        "trust_domain = \"shop.example\"\n[service.a]\n[[service.a.allow]]\nfrom = [\"a\"",
        "trust_domain = \"shop.example\"\n[[service.a.allow]]\nfrom = [\"nobody\"]",
        "trust_domain = \"shop.example\"\ntrust_domain = \"shop.example\"",
        "trust_domain: shop.example\nservice:\n  - a",
        "{\"trust_domain\": \"shop.example\"}",
        "trust_domain = \"shop.example\"\nallow = \"*\"",
        "trust_domain = \"shop.example\"\nservice = []",
        "trust_domain = \"shop.example\"\nservice.a = true",
    ] {
        assert!(Policy::parse("p", text).is_err(), "{text:?}");
    }
}

#[test]
fn case_25_a_file_cut_anywhere_never_allows_more() {
    let rule = "from = [\"orders\"]\ncalls = [\"GET /a\"]\nexpires = 2030-01-01";
    let whole = format!("trust_domain = \"shop.example\"\n{}", one_rule(rule));
    let keys = whole.find("calls").unwrap();
    for cut in (0..whole.len()).filter(|cut| whole.is_char_boundary(*cut)) {
        let Ok(policy) = Policy::parse("p", &whole[..cut]) else { continue };
        // A cut between two keys leaves a shorter rule, which no reader of text can tell from a meant one.
        if policy.service("payments").is_some() && cut < keys {
            assert!(!may(&policy, "/reports", "GET /b"), "{cut}");
        }
    }
}

#[test]
fn case_25_words_that_other_formats_turn_into_values_stay_words() {
    for word in ["no", "on", "0777", "null", "~"] {
        assert!(!errors(&one_rule(&format!("from = [{word}]"))).is_empty(), "{word}");
    }
    let policy = policy("[service.no]\n[service.payments]\n[[service.payments.allow]]\nfrom = [\"no\"]");
    assert!(may(&policy, "/no", "GET /"));
}

#[test]
fn case_28_a_permission_for_one_port_does_not_open_another() {
    let text = "[service.orders]\n[service.payments]\nports = { api = \"http\", admin = \"http\", bulk = \"tcp\" }\n[[service.payments.allow]]\nfrom = [\"orders\"]\nport = \"api\"";
    let policy = policy(text);
    assert!(allowed(&ask(&policy, "orders", HTTP, Some("GET /"))));
    for other in [
        Port { name: "admin", protocol: Protocol::Http },
        TCP,
        Port { name: "API", protocol: Protocol::Http },
    ] {
        assert!(!allowed(&ask(&policy, "orders", other, Some("GET /"))), "{other:?}");
    }
}

#[test]
fn case_30_tricks_with_methods_match_nothing() {
    let policy = with_rule("from = [\"orders\"]\ncalls = [\"POST /charge\"]");
    for method in [
        "post", "Post", "POST ", " POST", "POST\t", "POST\0", "CONNECT", "TRACE", "PRI", "BREW", "*", "",
        "GET",
    ] {
        let call = Call { method, path: "/charge" };
        assert!(!allowed(&ask_at(&policy, "orders", HTTP, Some(call), NOW)), "{method:?}");
    }
}

#[test]
fn case_31_tricks_with_paths_match_nothing() {
    let long = format!("/charge{}", "/a".repeat(32 * 1024));
    let tricks = [
        "//charge",
        "/./charge",
        "/x/../charge",
        "/charge%2f..%2fadmin",
        "/charge%00",
        "/charge;a=b",
        "\\charge",
        "/charge\\",
        "/charge#x",
        "http://payments/charge",
        "*",
        "",
        "/%2563harge",
        "/charge%",
        "/charge%f",
        "/charge\u{e9}",
        "/charge%5c",
        "/..;/charge",
        "/charge/%2e%2e",
        "/charge/..",
        &long,
        "/charge?x",
    ];
    let policy = with_rule("from = [\"orders\"]\ncalls = [\"* /**\"]");
    for path in tricks {
        let call = Call { method: "POST", path };
        assert!(!allowed(&ask_at(&policy, "orders", HTTP, Some(call), NOW)), "{path:?}");
    }
}

#[test]
fn case_31_what_reads_one_way_only_is_compared_exactly() {
    let policy = with_rule("from = [\"orders\"]\ncalls = [\"POST /charge\"]");
    for (path, expected) in [
        ("/charge", true),
        ("/%63harge", true),
        ("/%43harge", false),
        ("/charge/", false),
        ("/CHARGE", false),
    ] {
        let call = Call { method: "POST", path };
        assert_eq!(allowed(&ask_at(&policy, "orders", HTTP, Some(call), NOW)), expected, "{path}");
    }
    assert!(may(&policy, "orders", "POST /charge?x=/../%00"));
}
