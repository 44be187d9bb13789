//! policy.md `Ports`.

use postern_proto::policy::{Decision, DenyReason, Port, ProblemKind, Protocol, Unenforceable};

use crate::ask::{HTTP, NOW, TCP, allowed, ask, errors, policy};

const PORTS: &str = "[service.orders]\n[service.payments]\nports = { api = \"http\", bulk = \"tcp\" }\n";

fn rule(keys: &str) -> String {
    format!("{PORTS}[[service.payments.allow]]\nfrom = [\"orders\"]\n{keys}\n")
}

fn reason(decision: Decision) -> DenyReason {
    match decision {
        Decision::Deny { refusal } => refusal.reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_rule_for_one_port_does_not_open_another() {
    let policy = policy(&rule("port = \"bulk\""));
    assert!(allowed(&ask(&policy, "orders", TCP, None)));
    assert!(!allowed(&ask(&policy, "orders", HTTP, None)));
    assert!(!allowed(&ask(&policy, "orders", HTTP, Some("GET /"))));
}

#[test]
fn a_rule_without_port_is_for_every_declared_one() {
    let policy = policy(&rule(""));
    assert!(allowed(&ask(&policy, "orders", TCP, None)));
    assert!(allowed(&ask(&policy, "orders", HTTP, Some("GET /"))));
}

#[test]
fn a_declared_list_of_ports_is_complete() {
    let policy = policy(&rule(""));
    let admin = Port { name: "admin", protocol: Protocol::Tcp };
    let declared = vec!["api".to_owned(), "bulk".to_owned()];
    assert_eq!(reason(ask(&policy, "orders", admin, None)), DenyReason::PortNotDeclared { declared });
}

#[test]
fn an_inbound_that_speaks_something_else_is_refused() {
    let policy = policy(&rule(""));
    for (name, protocol, declared) in
        [("api", Protocol::Tcp, Protocol::Http), ("bulk", Protocol::Http, Protocol::Tcp)]
    {
        let port = Port { name, protocol };
        assert_eq!(reason(ask(&policy, "orders", port, None)), DenyReason::ProtocolMismatch { declared });
        let reported =
            policy.service("payments").unwrap().unenforceable([port, HTTP, TCP]).collect::<Vec<_>>();
        assert_eq!(
            reported,
            [Unenforceable::Inbound { name: name.into(), reason: DenyReason::ProtocolMismatch { declared } }]
        );
    }
}

#[test]
fn observe_does_not_open_an_inbound_that_is_not_declared() {
    let text = PORTS.replace("ports =", "mode = \"observe\"\nports =");
    let policy = policy(&text);
    let admin = Port { name: "admin", protocol: Protocol::Tcp };
    assert!(matches!(ask(&policy, "orders", admin, None), Decision::Deny { .. }));
    let api_as_tcp = Port { name: "api", protocol: Protocol::Tcp };
    assert!(matches!(ask(&policy, "orders", api_as_tcp, None), Decision::Deny { .. }));
    assert!(matches!(ask(&policy, "orders", HTTP, None), Decision::Observed { .. }));
}

#[test]
fn a_port_in_a_rule_must_be_declared() {
    assert_eq!(errors(&rule("port = \"apl\"")), [ProblemKind::UnknownPort]);
    assert_eq!(errors(&rule("port = \"API\"")), [ProblemKind::UnknownPort]);
    assert_eq!(errors(&rule("port = \"api\"").replace("ports =", "#")), [ProblemKind::UnknownPort]);
}

#[test]
fn calls_on_a_tcp_port_are_an_error() {
    assert_eq!(errors(&rule("port = \"bulk\"\ncalls = [\"GET /\"]")), [ProblemKind::CallsOnTcp]);
    let only_tcp = rule("calls = [\"GET /\"]").replace("api = \"http\", ", "");
    assert_eq!(errors(&only_tcp), [ProblemKind::CallsOnTcp]);
    assert_eq!(errors(&rule("port = \"api\"\ncalls = [\"GET /\"]")), []);
    assert_eq!(errors(&rule("calls = [\"GET /\"]")), []);
}

#[test]
fn calls_allow_nothing_on_an_inbound_that_is_not_declared_http() {
    let policy = policy(
        "[service.orders]\n[service.payments]\n[[service.payments.allow]]\nfrom = [\"orders\"]\ncalls = [\"* /**\"]",
    );
    assert!(allowed(&ask(&policy, "orders", HTTP, Some("GET /"))));
    assert!(!allowed(&ask(&policy, "orders", TCP, None)));
    assert!(!allowed(&ask(&policy, "orders", TCP, Some("GET /"))));
    let reported = policy.service("payments").unwrap().unenforceable([HTTP, TCP]).collect::<Vec<_>>();
    assert!(
        matches!(&reported[..], [Unenforceable::Rule { rule, inbound }] if rule.line == 4 && inbound == "bulk")
    );
}

#[test]
fn a_service_with_an_empty_list_of_ports_serves_nobody() {
    let text = "[service.payments]\nports = {}\n[service.orders]\n";
    let policy = policy(text);
    assert!(matches!(ask(&policy, "orders", HTTP, None), Decision::Deny { .. }));
    let rule = "[[service.payments.allow]]\nfrom = [\"orders\"]";
    assert_eq!(errors(&format!("{text}{rule}")), [ProblemKind::UnknownPort]);
}

#[test]
fn a_protocol_is_http_or_tcp() {
    for protocol in ["\"HTTP\"", "\"h2\"", "\"\"", "1", "true", "[\"http\"]"] {
        let found = errors(&format!("[service.a]\nports = {{ api = {protocol} }}"));
        assert_eq!(found.len(), 1, "{protocol}");
    }
    assert_eq!(errors("[service.a]\nports = [\"api\"]"), [ProblemKind::WrongType]);
}

#[test]
fn an_unknown_service_is_refused_by_name() {
    let policy = policy(&rule(""));
    let peer = policy.peer("orders").unwrap();
    let nobody = policy.peer("/nobody").unwrap();
    let decision = postern_proto::policy::decide(&policy, &peer, &nobody, HTTP, None, NOW);
    assert_eq!(reason(decision), DenyReason::UnknownService);
}
