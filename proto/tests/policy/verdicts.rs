//! policy.md `Verdicts`: connections, refusals and what they say.

use postern_proto::policy::{
    Decision, DenyReason, Mismatch, NEAREST_RULES_MAX, Policy, Refusal, may_connect,
};

use crate::ask::{HTTP, NOW, TCP, allowed, ask, policy, with_rule};

fn refusal(decision: Decision) -> Refusal {
    match decision {
        Decision::Deny { refusal } => *refusal,
        other => panic!("{other:?}"),
    }
}

fn lacked(policy: &Policy, from: &str, call: &str) -> Vec<(u32, Vec<Mismatch>)> {
    let refusal = refusal(ask(policy, from, HTTP, Some(call)));
    refusal.nearest.into_iter().map(|nearest| (nearest.rule.line, nearest.mismatches)).collect()
}

#[test]
fn a_connection_is_let_in_when_some_call_could_be_allowed() {
    let policy = with_rule("from = [\"orders\"]\ncalls = [\"GET /a\"]");
    let service = policy.identity_of("payments").unwrap();
    let connects =
        |from: &str, port| allowed(&may_connect(&policy, &policy.peer(from).unwrap(), service, port, NOW));
    assert!(connects("orders", HTTP));
    assert!(!connects("reports", HTTP));
    assert!(!connects("orders", TCP));
}

#[test]
fn a_rule_that_is_over_or_for_another_port_lets_no_connection_in() {
    let text = "[service.orders]\n[service.payments]\nports = { api = \"http\", web = \"http\" }\n[[service.payments.allow]]\nfrom = [\"orders\"]\ncalls = [\"GET /\"]\n";
    for key in ["port = \"web\"", "expires = 2026-11-22"] {
        let policy = policy(&format!("{text}{key}"));
        let service = policy.identity_of("payments").unwrap();
        assert!(
            !allowed(&may_connect(&policy, &policy.peer("orders").unwrap(), service, HTTP, NOW)),
            "{key}"
        );
    }
}

#[test]
fn a_refusal_names_the_nearest_rules_and_what_each_lacked() {
    let policy = policy(
        "[service.orders]\n[service.reports]\n[service.payments]\nports = { api = \"http\", web = \"http\" }\n\
         [[service.payments.allow]]\nfrom = [\"orders\"]\ncalls = [\"POST /charge\"]\nport = \"api\"\n\
         [[service.payments.allow]]\nfrom = [\"reports\"]\ncalls = [\"GET /charge\"]\nport = \"web\"\nexpires = 2026-01-01\n",
    );
    assert_eq!(lacked(&policy, "reports", "POST /charge"), [(6, vec![Mismatch::From])]);
    assert_eq!(lacked(&policy, "orders", "GET /charge"), [(6, vec![Mismatch::Call])]);
    assert_eq!(
        lacked(&policy, "reports", "GET /charge"),
        [(10, vec![Mismatch::Port, Mismatch::Expired]), (6, vec![Mismatch::From, Mismatch::Call])]
    );
    let said = ask(&policy, "reports", HTTP, Some("GET /charge")).reason();
    for part in [
        "reports (spiffe://shop.example/reports)",
        "payments",
        "GET /charge",
        "\"api\"",
        "policy.toml:10",
        "expired 2026-01-01",
        "not for this port",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn a_refusal_is_bounded_however_many_rules_are_near() {
    let rules: String =
        (0..2_000).map(|n| format!("[[service.payments.allow]]\nfrom = [\"/x{n}\"]\n")).collect();
    let policy = policy(&format!("[service.payments]\n{rules}"));
    assert_eq!(lacked(&policy, "/y", "GET /").len(), NEAREST_RULES_MAX);
}

#[test]
fn a_rule_that_names_the_peer_is_found_however_far_down_it_is() {
    let rules: String = (0..2_000)
        .map(|n| format!("[[service.payments.allow]]\nfrom = [\"/x{n}\"]\ncalls = [\"GET /{n}\"]\n"))
        .collect();
    let policy = policy(&format!("[service.payments]\n{rules}"));
    assert_eq!(lacked(&policy, "/x1999", "GET /").first(), Some(&(3 + 3 * 1999, vec![Mismatch::Call])));
}

#[test]
fn the_refusal_says_which_part_of_the_path_was_ambiguous() {
    let policy = with_rule("from = [\"orders\"]\ncalls = [\"* /**\"]");
    for (call, part) in [
        ("GET //a", "empty segment"),
        ("GET /a/../b", "\"..\""),
        ("GET /a%2fb", "encoded '/'"),
        ("OPTIONS *", "start with \"/\""),
    ] {
        let said = ask(&policy, "orders", HTTP, Some(call)).reason();
        assert!(said.contains("ambiguous") && said.contains(part), "{said}");
    }
}

#[test]
fn each_gap_is_named() {
    let ports = policy("[service.payments]\nports = { web = \"http\" }");
    assert!(matches!(refusal(ask(&ports, "/x", HTTP, None)).reason, DenyReason::PortNotDeclared { .. }));
    assert_eq!(refusal(ask(&policy("[service.payments]"), "/x", HTTP, None)).reason, DenyReason::NoRules);
    assert_eq!(refusal(ask(&with_rule("from = [\"orders\"]"), "/x", HTTP, None)).reason, DenyReason::NoRule);
    assert_eq!(
        refusal(ask(&with_rule("from = [\"orders\"]"), "orders", HTTP, Some("CONNECT a:1"))).reason,
        DenyReason::Connect
    );
}

#[test]
fn peer_supplied_text_is_escaped_in_refusals() {
    let policy = with_rule("from = [\"orders\"]\ncalls = [\"GET /\"]");
    let call = postern_proto::policy::Call { method: "GET\u{1b}[2J", path: "/\r\nx\u{202e}" };
    let said = crate::ask::ask_at(&policy, "orders", HTTP, Some(call), NOW).reason();
    assert!(!said.chars().any(|c| c.is_control() || c == '\u{202e}'), "{said:?}");
}

#[test]
fn the_digest_is_that_of_the_bytes_of_the_file() {
    let policy = Policy::parse("p", "trust_domain = \"a\"\n").unwrap();
    assert_eq!(policy.digest(), "sha256:cd53bcb9bdaa922399dcbad49512606d69c1ea9828d152dcec897d645790791c");
}
