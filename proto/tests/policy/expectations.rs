//! policy.md `Verdicts`: `[[expect]]`.

use postern_proto::policy::{ProblemKind, Verdict, run_expectations};
use time::macros::datetime;

use crate::ask::{NOW, errors, policy};

const RULES: &str = "[service.orders]\n[service.reports]\n[service.payments]\nports = { api = \"http\", bulk = \"tcp\" }\n\
    [[service.payments.allow]]\nfrom = [\"orders\"]\ncalls = [\"POST /charge\"]\nport = \"api\"\n\
    [[service.payments.allow]]\nfrom = [\"reports\"]\nexpires = 2026-12-31\n";

/// The verdict that spoils an expectation, with its port.
fn failure(keys: &str) -> Option<(String, Verdict)> {
    let policy = policy(&format!("{RULES}[[expect]]\n{keys}\n"));
    run_expectations(&policy, NOW).remove(0).failure
}

fn expect(from: &str, rest: &str, verdict: &str) -> Option<(String, Verdict)> {
    failure(&format!("from = {from:?}\nto = \"payments\"\n{rest}\nverdict = {verdict:?}"))
}

#[test]
fn an_expectation_holds_or_says_where_it_does_not() {
    let charge = "call = \"POST /charge\"\nport = \"api\"";
    assert_eq!(expect("orders", charge, "allow"), None);
    assert_eq!(expect("orders", charge, "deny"), Some(("api".into(), Verdict::Allow)));
    assert_eq!(expect("/stranger", charge, "deny"), None);
    assert_eq!(expect("/stranger", charge, "allow"), Some(("api".into(), Verdict::Deny)));
}

#[test]
fn without_port_it_is_judged_on_every_declared_one() {
    assert_eq!(expect("orders", "call = \"POST /charge\"", "allow"), Some(("bulk".into(), Verdict::Deny)));
    assert_eq!(expect("orders", "call = \"POST /charge\"", "deny"), Some(("api".into(), Verdict::Allow)));
    assert_eq!(expect("reports", "call = \"POST /charge\"", "allow"), None);
    assert_eq!(expect("orders", "call = \"GET /charge\"", "deny"), None);
}

#[test]
fn without_call_allow_means_every_call_and_deny_means_none() {
    assert_eq!(expect("reports", "", "allow"), None);
    assert_eq!(expect("/stranger", "", "deny"), None);
    assert_eq!(expect("orders", "port = \"api\"", "allow"), Some(("api".into(), Verdict::Depends)));
    assert_eq!(expect("orders", "port = \"api\"", "deny"), Some(("api".into(), Verdict::Depends)));
    assert_eq!(expect("orders", "port = \"bulk\"", "deny"), None);
}

#[test]
fn it_is_judged_as_if_enforced() {
    let text = "[service.a]\nmode = \"observe\"\n[[expect]]\nfrom = \"/x\"\nto = \"a\"\nverdict = \"deny\"";
    assert_eq!(run_expectations(&policy(text), NOW)[0].failure, None);
}

#[test]
fn it_is_judged_at_a_time() {
    let text = format!("{RULES}[[expect]]\nfrom = \"reports\"\nto = \"payments\"\nverdict = \"allow\"\n");
    let later = datetime!(2027-01-01 00:00:00 UTC);
    assert_eq!(run_expectations(&policy(&text), later)[0].failure, Some(("api".into(), Verdict::Deny)));
}

#[test]
fn a_service_that_declares_no_ports_is_asked_on_an_http_inbound() {
    let rules = "[service.a]\n[[service.a.allow]]\nfrom = [\"/x\"]\ncalls = [\"GET /\"]\n";
    let text = format!("{rules}[[expect]]\nfrom = \"/x\"\nto = \"a\"\ncall = \"GET /\"\nverdict = \"allow\"");
    assert_eq!(run_expectations(&policy(&text), NOW)[0].failure, None);
}

#[test]
fn a_service_with_no_ports_at_all_allows_nothing() {
    let text = "[service.a]\nports = {}\n[[expect]]\nfrom = \"/x\"\nto = \"a\"\nverdict = ";
    assert_eq!(run_expectations(&policy(&format!("{text}\"deny\"")), NOW)[0].failure, None);
    assert!(run_expectations(&policy(&format!("{text}\"allow\"")), NOW)[0].failure.is_some());
}

#[test]
fn the_service_may_be_named_by_its_identity() {
    for to in ["payments", "/payments", "spiffe://shop.example/payments"] {
        assert_eq!(failure(&format!("from = \"/x\"\nto = {to:?}\nverdict = \"deny\"")), None, "{to}");
    }
}

#[test]
fn an_expectation_that_cannot_be_asked_is_an_error() {
    let good = [
        ("from", "\"orders\""),
        ("to", "\"payments\""),
        ("call", "\"GET /\""),
        ("port", "\"api\""),
        ("verdict", "\"deny\""),
    ];
    for (key, value, kind) in [
        ("from", "\"ordres\"", ProblemKind::UnknownService),
        ("from", "\"/a/*\"", ProblemKind::Peer),
        ("from", "\"spiffe://Shop.example/a\"", ProblemKind::Peer),
        ("from", "[\"orders\"]", ProblemKind::WrongType),
        ("to", "\"nobody\"", ProblemKind::UnknownService),
        ("to", "\"/nobody\"", ProblemKind::UnknownService),
        ("to", "\"/**\"", ProblemKind::Peer),
        ("call", "\"/charge\"", ProblemKind::Call),
        ("call", "\"GET\"", ProblemKind::Call),
        ("call", "\"G\u{e9}T /\"", ProblemKind::Call),
        ("port", "\"apl\"", ProblemKind::UnknownPort),
        ("verdict", "\"Deny\"", ProblemKind::WrongValue),
        ("verdict", "\"observed\"", ProblemKind::WrongValue),
        ("verdict", "false", ProblemKind::WrongType),
    ] {
        let keys: String =
            good.iter().map(|(k, v)| format!("{k} = {}\n", if *k == key { value } else { v })).collect();
        assert_eq!(errors(&format!("{RULES}[[expect]]\n{keys}")), [kind], "{key} = {value}");
    }
    for missing in ["from", "to", "verdict"] {
        let keys: String =
            good.iter().filter(|(k, _)| *k != missing).map(|(k, v)| format!("{k} = {v}\n")).collect();
        assert_eq!(errors(&format!("{RULES}[[expect]]\n{keys}")), [ProblemKind::Missing], "{missing}");
    }
}

#[test]
fn a_port_where_none_is_declared_is_an_error() {
    let text = "[service.a]\n[[expect]]\nfrom = \"a\"\nto = \"a\"\nport = \"api\"\nverdict = \"deny\"";
    assert_eq!(errors(text), [ProblemKind::UnknownPort]);
}

#[test]
fn hostile_requests_may_be_expected_to_be_refused() {
    for call in [
        "GET //charge",
        "post /charge",
        "OPTIONS *",
        "CONNECT host:443",
        "POST /charge;a=b",
        "POST /charge%2f..%2fadmin",
    ] {
        assert_eq!(expect("orders", &format!("call = {call:?}"), "deny"), None, "{call}");
    }
}
