//! `explain`: a verdict, the line that decides, and what was near.

use serde_json::Value;

use crate::{POLICY, run};

#[test]
fn explain_names_the_deciding_line() {
    let ask = |more: &[&str]| run(POLICY, &[&["explain", "policy.toml", "--to", "payments"], more].concat());
    let charge = ["--from", "orders", "--port", "api", "--call", "POST /charge"];
    let (code, out, _) = ask(&charge);
    assert_eq!(code, 0, "{out}");
    assert!(
        out.starts_with("allow ") && out.contains("policy.toml:6") && out.contains("team-checkout"),
        "{out}"
    );

    let (code, out, _) = ask(&[&charge[..], &["--format", "json"]].concat());
    let answer: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &answer["verdict"], &answer["rule"]["line"]), (0, &"allow".into(), &6.into()));

    let (code, out, _) =
        ask(&["--from", "/reports", "--port", "api", "--call", "POST /charge", "--format", "json"]);
    let answer: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &answer["verdict"], &answer["rule"]), (1, &"deny".into(), &Value::Null));
    assert_eq!(answer["nearest"][0], serde_json::json!({ "line": 6, "lacked": ["from"] }));

    let (code, out, _) = ask(&["--from", "orders", "--port", "api"]);
    assert!(code == 1 && out.starts_with("depends "), "{out}");
    let (code, out, _) = ask(&["--from", "orders", "--call", "POST /charge"]);
    assert!(code == 1 && out.lines().count() == 2, "allowed on one port and not on the other: {out}");
    assert_eq!(ask(&["--from", "nobody-declared"]).0, 2);
    assert_eq!(ask(&["--from", "orders", "--call", "charge"]).0, 2);
    assert_eq!(ask(&["--from", "orders", "--port", "apj"]).0, 1);
    assert_eq!(run(POLICY, &["explain", "policy.toml", "--from", "orders", "--to", "stock"]).0, 1);
}

#[test]
fn explain_without_a_call_lists_what_is_allowed_when_it_depends() {
    let more = POLICY.replace("[service.orders]", "[service.orders]\n[[service.payments.allow]]\nfrom = [\"/**\"]\ncalls = [\"GET /\", \"POST /charge\"]");
    let ask = ["explain", "policy.toml", "--from", "orders", "--to", "payments", "--port", "api"];
    let (code, out, _) = run(&more, &ask);
    assert_eq!(code, 1);
    let shown: Vec<_> = out.lines().skip(1).collect();
    assert_eq!(
        shown,
        [
            "  POST /charge  by policy.toml:6 (team-checkout) (orders charges the card)",
            "  GET /  by policy.toml:14",
            "  POST /charge  by policy.toml:14"
        ]
    );
    let (_, out, _) = run(&more, &[&ask[..], &["--format", "json"]].concat());
    let answer: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(answer["verdict"], "depends");
    assert_eq!(answer["calls"], serde_json::json!(["POST /charge", "GET /"]));
    assert_eq!(answer["rules"][1], serde_json::json!({ "line": 14, "calls": ["GET /", "POST /charge"] }));
}

#[test]
fn explain_says_observed_and_passes() {
    let observing = POLICY.replace("[service.payments]", "[service.payments]\nmode = \"observe\"");
    let ask = |more: &[&str]| {
        run(&observing, &[&["explain", "policy.toml", "--from", "/x", "--to", "payments"], more].concat())
    };
    for more in [&["--call", "GET /"][..], &[], &["--port", "api"]] {
        let (code, out, _) = ask(more);
        assert!(code == 0 && out.starts_with("observed ") && out.contains("policy.toml:7"), "{out}");
    }
    assert_eq!(ask(&["--port", "other"]).0, 1);
}

#[test]
fn explain_answers_as_of_a_time() {
    let ending = POLICY.replace("owner =", "expires = 2027-01-01\nowner =");
    let at = |at: &str| {
        let ask =
            ["explain", "policy.toml", "--from", "orders", "--to", "payments", "--port", "api", "--call"];
        run(&ending, &[&ask[..], &["POST /charge", "--at", at]].concat())
    };
    assert_eq!(at("2027-01-01T23:59:59Z").0, 0);
    let (code, out, _) = at("2027-01-02T00:00:00Z");
    assert!(code == 1 && out.contains("policy.toml:6 expired 2027-01-01"), "{out}");
}

#[test]
fn explain_on_every_port_is_one_object_with_one_verdict() {
    let everyone = POLICY.replace("calls = [\"POST /charge\"]\nport = \"api\"\n", "");
    for (policy, code, verdict) in [(everyone.as_str(), 0, "allow"), (POLICY, 1, "depends")] {
        let ask = ["explain", "policy.toml", "--from", "orders", "--to", "payments", "--format", "json"];
        let (found, out, _) = run(policy, &ask);
        let answer: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((found, &answer["verdict"]), (code, &verdict.into()), "{out}");
        let ports: Vec<_> = answer["ports"].as_array().unwrap().iter().map(|port| &port["port"]).collect();
        assert_eq!(ports, ["api", "bulk"]);
    }
}

#[test]
fn explain_helps_with_a_name_that_is_not_declared() {
    let ask = |more: &[&str]| run(POLICY, &[&["explain", "policy.toml"], more].concat());
    let (code, out, _) = ask(&["--from", "orders", "--to", "paymnets"]);
    assert!(code == 1 && out.contains("did you mean \"payments\"?"), "{out}");
    let (code, out, _) = ask(&["--from", "orders", "--to", "paymnets", "--format", "json"]);
    let answer: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &answer["verdict"], &answer["to"]), (1, &"deny".into(), &"paymnets".into()));
    assert_eq!((&answer["rule"], &answer["nearest"]), (&Value::Null, &serde_json::json!([])));
    let (code, _, err) = ask(&["--from", "ordres", "--to", "payments"]);
    assert!(code == 2 && err.contains("did you mean \"orders\"?"), "{err}");
    for to in ["spiffe://Shop.example/payments", "/payments/*", "spiffe://shop.example"] {
        assert_eq!(ask(&["--from", "orders", "--to", to]).0, 2, "{to}");
    }
    assert_eq!(ask(&["--from", "orders", "--to", "spiffe://partner.example/x"]).0, 1);
    let (code, out, _) = ask(&["--from", "orders", "--to", "payments", "--port", "apj", "--format", "json"]);
    let answer: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &answer["verdict"], &answer["port"]), (1, &"deny".into(), &"apj".into()));
}
