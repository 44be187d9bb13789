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
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("policy.toml"), policy).unwrap();
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
    assert!(code == 0 && out.contains("0 errors, 1 warnings"), "{out}");
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
