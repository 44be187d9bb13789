//! policy.md `Rules`.

use postern_proto::policy::{Call, Decision, ProblemKind};
use time::macros::datetime;

use crate::ask::{HTTP, TCP, allowed, ask, ask_at, errors, may, one_rule, policy, with_rule};

#[test]
fn without_a_rule_there_is_no_access_not_even_to_oneself() {
    let policy = with_rule("from = [\"orders\"]");
    for peer in ["payments", "reports", "/x", "spiffe://partner.example/orders"] {
        assert!(!may(&policy, peer, "GET /"), "{peer}");
        assert!(!allowed(&ask(&policy, peer, TCP, None)), "{peer}");
    }
    assert!(may(&with_rule("from = [\"payments\"]"), "payments", "GET /"));
}

#[test]
fn access_is_the_union_of_the_rules() {
    let policy = with_rule(
        "from = [\"orders\"]\ncalls = [\"GET /a\"]\n[[service.payments.allow]]\nfrom = [\"reports\", \"orders\"]\ncalls = [\"GET /b\"]",
    );
    for (peer, call, expected) in [
        ("orders", "GET /a", true),
        ("orders", "GET /b", true),
        ("reports", "GET /b", true),
        ("reports", "GET /a", false),
        ("orders", "GET /c", false),
    ] {
        assert_eq!(may(&policy, peer, call), expected, "{peer} {call}");
    }
}

#[test]
fn the_first_rule_of_the_file_that_allows_is_the_one_named() {
    let policy =
        with_rule("from = [\"/**\"]\ncalls = [\"GET /**\"]\n[[service.payments.allow]]\nfrom = [\"orders\"]");
    for (call, line) in [("GET /", 5), ("POST /", 8)] {
        let Decision::Allow { rule } = ask(&policy, "orders", HTTP, Some(call)) else { panic!("{call}") };
        assert_eq!((rule.line, &*rule.file, &*rule.service), (line, "policy.toml", "payments"));
    }
}

#[test]
fn without_calls_any_bytes_and_any_call_but_connect_are_allowed() {
    let policy = with_rule("from = [\"orders\"]");
    assert!(allowed(&ask(&policy, "orders", TCP, None)));
    assert!(allowed(&ask(&policy, "orders", HTTP, None)));
    for call in ["GET /", "get /", "TRACE /", "PRI *", "OPTIONS *", "GET //a/../b;c", "GET /%00", "BREW /x"] {
        assert!(may(&policy, "orders", call), "{call}");
    }
    assert!(!may(&policy, "orders", "CONNECT host:443"));
    assert!(!may(&policy, "orders", "CONNECT /"));
}

#[test]
fn with_calls_only_those_are_allowed() {
    let policy =
        with_rule("from = [\"orders\"]\ncalls = [\"POST /charge\", \"GET /charges/*\", \"* /public/**\"]");
    for call in [
        "POST /charge",
        "GET /charges/7",
        "DELETE /public/",
        "get /public/a/b",
        "POST /%63harge",
        "POST /charge?x=/..",
    ] {
        assert!(may(&policy, "orders", call), "{call}");
    }
    for call in [
        "GET /charge",
        "POST /charge/",
        "POST /CHARGE",
        "HEAD /charges/7",
        "GET /charges/",
        "GET /charges/7/x",
        "GET /public",
        "OPTIONS *",
        "CONNECT /public/a",
        "CONNECT host:443",
        "GET /public//a",
        "GET /public/../charge",
    ] {
        assert!(!may(&policy, "orders", call), "{call}");
    }
    assert!(!allowed(&ask(&policy, "orders", HTTP, None)));
    assert!(!allowed(&ask(&policy, "orders", TCP, None)));
}

#[test]
fn a_grpc_method_is_a_post_of_its_path() {
    let policy = with_rule("from = [\"orders\"]\ncalls = [\"POST /shop.v1.Payments/Charge\"]");
    assert!(may(&policy, "orders", "POST /shop.v1.Payments/Charge"));
    assert!(!may(&policy, "orders", "POST /shop.v1.Payments/Refund"));
}

#[test]
fn a_rule_needs_at_least_one_peer_and_calls_at_least_one_call() {
    assert_eq!(errors(&one_rule("from = []")), [ProblemKind::Empty]);
    assert_eq!(errors(&one_rule("owner = \"x\"")), [ProblemKind::Missing]);
    assert_eq!(errors(&one_rule("from = [\"orders\"]\ncalls = []")), [ProblemKind::Empty]);
    assert_eq!(errors(&one_rule("from = \"orders\"")), [ProblemKind::WrongType]);
    assert_eq!(errors(&one_rule("from = [\"orders\", 1]")), [ProblemKind::WrongType]);
}

#[test]
fn require_makes_fields_mandatory_and_by_default_none_is() {
    let bare = one_rule("from = [\"orders\"]");
    assert_eq!(errors(&bare), []);
    for field in ["owner", "reason", "expires"] {
        assert_eq!(errors(&format!("require = [{field:?}]\n{bare}")), [ProblemKind::Missing], "{field}");
    }
    let full = one_rule("from = [\"orders\"]\nowner = \"x\"\nreason = \"y\"\nexpires = 2027-01-01");
    let all = "require = [\"owner\", \"reason\", \"expires\"]\n";
    assert_eq!(errors(&format!("{all}{full}")), []);
    assert_eq!(errors(&format!("{all}{bare}")), [ProblemKind::Missing; 3]);
    assert_eq!(errors(&format!("{all}{}", full.replace("\"x\"", "\" \""))), [ProblemKind::Missing]);
    assert_eq!(errors("require = [\"port\"]"), [ProblemKind::WrongValue]);
    assert_eq!(errors("require = [\"owner\", \"owner\"]"), [ProblemKind::Duplicate]);
    assert_eq!(errors("require = \"owner\""), [ProblemKind::WrongType]);
    assert_eq!(errors("require = []"), []);
}

#[test]
fn unknown_keys_are_errors_everywhere() {
    for text in [
        "colour = 1",
        "[service.a]\ncolour = 1",
        "[service.a.colour]",
        "[service.a]\n[[service.a.allow]]\nfrom = [\"a\"]\ncolour = 1",
        "[service.a]\n[[service.a.allow]]\nfrom = [\"a\"]\ndeny = true",
        "[service.a]\n[[expect]]\nfrom = \"a\"\nto = \"a\"\nverdict = \"deny\"\ncolour = 1",
        "[[service.a.alow]]\nfrom = [\"a\"]",
        "[defaults]\nmode = \"observe\"",
    ] {
        assert_eq!(errors(text), [ProblemKind::UnknownKey], "{text}");
    }
}

#[test]
fn a_rule_without_service_header_belongs_to_the_service_it_names() {
    let policy = policy("[[service.payments.allow]]\nfrom = [\"payments\"]");
    assert!(may(&policy, "payments", "GET /"));
}

#[test]
fn after_its_end_a_rule_allows_nothing() {
    let call = Call { method: "GET", path: "/" };
    for (expires, last, over) in [
        ("2026-12-31", datetime!(2026-12-31 23:59:59.999 UTC), datetime!(2027-01-01 00:00:00 UTC)),
        (
            "2026-12-31T12:00:00Z",
            datetime!(2026-12-31 12:00:00 UTC),
            datetime!(2026-12-31 12:00:00.000_001 UTC),
        ),
        ("2026-12-31T12:00:00+02:00", datetime!(2026-12-31 10:00:00 UTC), datetime!(2026-12-31 10:00:01 UTC)),
    ] {
        let policy = with_rule(&format!("from = [\"orders\"]\nexpires = {expires}"));
        assert!(allowed(&ask_at(&policy, "orders", HTTP, Some(call), last)), "{expires}");
        assert!(!allowed(&ask_at(&policy, "orders", HTTP, Some(call), over)), "{expires}");
    }
}

#[test]
fn an_end_that_depends_on_the_reader_is_no_end() {
    for (expires, kind) in [
        ("2027-01-01T00:00:00", ProblemKind::Expires),
        ("00:00:00", ProblemKind::Expires),
        ("\"2027-01-01\"", ProblemKind::WrongType),
        ("2027", ProblemKind::WrongType),
        ("true", ProblemKind::WrongType),
    ] {
        assert_eq!(
            errors(&one_rule(&format!("from = [\"orders\"]\nexpires = {expires}"))),
            [kind],
            "{expires}"
        );
    }
}

#[test]
fn observe_lets_in_for_whom_no_rule_matches_and_says_so() {
    let text = one_rule("from = [\"orders\"]\ncalls = [\"GET /\"]")
        .replace("[service.payments]", "[service.payments]\nmode = \"observe\"");
    let policy = policy(&text);
    assert!(allowed(&ask(&policy, "orders", HTTP, Some("GET /"))));
    for (peer, call) in [("orders", "POST /"), ("reports", "GET /"), ("orders", "GET //")] {
        let decision = ask(&policy, peer, HTTP, Some(call));
        assert!(matches!(&decision, Decision::Observed { .. }), "{peer} {call}");
        assert!(decision.lets_pass() && decision.reason().contains("only observes"));
    }
    assert!(matches!(ask(&policy, "reports", TCP, None), Decision::Observed { .. }));
}

#[test]
fn a_mode_is_enforce_or_observe() {
    for mode in ["\"Enforce\"", "\"off\"", "\"\"", "false"] {
        assert_eq!(errors(&format!("[service.a]\nmode = {mode}")).len(), 1, "{mode}");
    }
    assert!(!may(&policy("[service.payments]\nmode = \"enforce\""), "/x", "GET /"));
}
