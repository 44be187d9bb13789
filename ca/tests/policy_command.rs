//! `postern-ca policy` answers offline with the code that enforces.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test says no by a panic")]

use std::process::{Command, Output};

use serde_json::Value;

const POLICY: &str = r#"trust_domain = "shop.example"

[service.payments]
ports = { api = "http", bulk = "tcp" }

[[service.payments.allow]]
from = ["orders"]
calls = ["POST /charge"]
port = "api"
owner = "team-checkout"
reason = "orders charges the card"

[service.orders]

[[expect]]
from = "orders"
to = "payments"
port = "api"
call = "POST /charge"
verdict = "allow"
"#;

fn run(policy: &str, args: &[&str]) -> (i32, String, String) {
    run_with(&[("policy.toml", policy)], args)
}

fn run_with(files: &[(&str, &str)], args: &[&str]) -> (i32, String, String) {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_postern-ca"));
    let Output { status, stdout, stderr } =
        command.current_dir(dir.path()).arg("policy").args(args).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

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
fn check_tells_errors_and_warnings_and_strict_refuses_both() {
    let (code, out, _) = run(&POLICY.replace("service.orders", "servce.orders"), &["check", "policy.toml"]);
    assert!(code == 1 && out.contains("policy.toml:13:2") && out.contains("service"), "{out}");
    let (code, out, _) = run(POLICY, &["check", "policy.toml"]);
    assert!(code == 0 && out.contains("0 errors, 1 warning"), "{out}");
    assert_eq!(run(POLICY, &["check", "policy.toml", "--strict"]).0, 1);
    let (code, _, err) = run(POLICY, &["check", "missing.toml"]);
    assert!(code == 2 && err.contains("missing.toml"), "{err}");
}

#[test]
fn test_runs_the_expectations() {
    let (code, out, _) = run(POLICY, &["test", "policy.toml"]);
    assert!(code == 0 && out.contains("1 passed, 0 failed"), "{out}");
    let (code, out, _) =
        run(&POLICY.replace("verdict = \"allow\"", "verdict = \"deny\""), &["test", "policy.toml"]);
    assert!(code == 1 && out.contains("FAILED: found allow on port \"api\""), "{out}");
}

#[test]
fn test_warns_of_services_that_no_expectation_speaks_of() {
    let (code, out, _) = run(POLICY, &["test", "policy.toml"]);
    assert!(code == 0 && out.contains("no expectation says who may call service \"orders\""), "{out}");
    let (_, out, _) = run(POLICY, &["test", "policy.toml", "--format", "json"]);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["without_expectation"], serde_json::json!(["orders"]));
    assert_eq!((&report["passed"], &report["failed"]), (&1.into(), &0.into()));
}

#[test]
fn test_answers_as_of_a_time_and_fails_on_a_file_with_errors() {
    let ending = POLICY.replace("owner =", "expires = 2027-01-01\nowner =");
    let at = |at: &str| run(&ending, &["test", "policy.toml", "--at", at]).0;
    assert_eq!((at("2027-01-01T23:59:59Z"), at("2027-01-02T00:00:00Z"), at("2027-01-02")), (0, 1, 2));
    assert_eq!(run("trust_domain = 1", &["test", "policy.toml"]).0, 1);
    assert_eq!(run(POLICY, &["test", "other.toml"]).0, 2);
}

fn diff(old: &str, new: &str, more: &[&str]) -> (i32, String, String) {
    let args = [&["diff", "old.toml", "new.toml"], more].concat();
    run_with(&[("old.toml", old), ("new.toml", new)], &args)
}

#[test]
fn diff_is_a_gate_for_access_that_is_gained() {
    let wider = POLICY.replace("\"POST /charge\"]", "\"POST /charge\", \"GET /charges/*\"]");
    let (code, out, _) = diff(POLICY, &wider, &[]);
    assert_eq!(code, 1);
    assert_eq!(
        out,
        "gains: orders may GET /charges/* on payments port api (new.toml:6)\naccess gained: 1 change; nothing lost\n"
    );
    let (code, out, _) = diff(&wider, POLICY, &[]);
    assert!(code == 0 && out.starts_with("loses: orders may no longer GET /charges/*"), "{out}");
    assert_eq!(diff(POLICY, POLICY, &[]), (0, "nothing gained, nothing lost\n".to_owned(), String::new()));
}

#[test]
fn diff_says_the_same_in_json() {
    let wider = POLICY.replace("[\"orders\"]", "[\"orders\", \"/ns/*\"]");
    let (code, out, _) = diff(POLICY, &wider, &["--format", "json", "--at", "2026-11-23T12:00:00Z"]);
    let found: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &found["lost"], &found["at"]),
        (1, &serde_json::json!([]), &"2026-11-23T12:00:00Z".into())
    );
    let gained = &found["gained"][0];
    for (key, value) in [
        ("kind", "access".into()),
        ("service", "payments".into()),
        ("from", serde_json::json!(["/ns/*"])),
        ("calls", serde_json::json!(["POST /charge"])),
        ("ports", serde_json::json!([{ "port": "api", "protocol": "http" }])),
        ("after", Value::Null),
        ("text", "/ns/* may POST /charge on payments port api (new.toml:6)".into()),
    ] {
        assert_eq!(gained[key], value, "{key}");
    }
    assert_eq!((&gained["rule"]["line"], &gained["rule"]["owner"]), (&6.into(), &"team-checkout".into()));
}

#[test]
fn diff_looks_from_a_time_on() {
    let ended = POLICY.replace("owner =", "expires = 2027-01-01\nowner =");
    assert_eq!(diff(&ended, POLICY, &["--at", "2026-12-01T00:00:00Z"]).0, 1);
    assert_eq!(diff("trust_domain = \"shop.example\"", &ended, &["--at", "2027-01-02T00:00:00Z"]).0, 0);
}

#[test]
fn diff_refuses_what_it_cannot_read_and_tells_both_files() {
    let (code, out, err) = diff("trust_domain = 1", "trust = 1", &[]);
    assert!(code == 2 && out.is_empty() && err.contains("old.toml:1") && err.contains("new.toml:1"), "{err}");
    assert_eq!(run(POLICY, &["diff", "policy.toml", "missing.toml"]).0, 2);
    assert_eq!(run(POLICY, &["diff", "policy.toml"]).0, 2);
    assert_eq!(diff(POLICY, POLICY, &["--at", "tomorrow"]).0, 2);
}
