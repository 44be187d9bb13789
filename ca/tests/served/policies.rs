//! The stored policy: what is put in force stays, what is refused changes nothing, and both are on record.

use std::path::PathBuf;
use std::process::Output;

use serde_json::{Value, json};

use crate::fixture::{Ca, Home, postern_ca};

const POLICY: &str = r#"trust_domain = "shop.example"

[service.payments]

[[service.payments.allow]]
from = ["orders"]

[service.orders]

[[expect]]
from = "orders"
to = "payments"
verdict = "allow"
"#;

/// The same policy for somebody else.
fn for_caller(name: &str) -> String {
    POLICY.replace("orders", name)
}

struct Operator {
    home: Home,
    ca: Ca,
}

impl Operator {
    fn new() -> Self {
        let home = Home::new();
        let ca = home.start("");
        Self { home, ca }
    }

    fn file(&self, text: &str) -> PathBuf {
        let path = self.home.path().join("policy.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    fn apply(&self, text: &str, more: &[&str]) -> Output {
        let path = self.file(text);
        self.ca.ask(&[&["policy", "apply", path.to_str().unwrap(), "--author", "ana"], more].concat())
    }

    fn in_force(&self) -> (u64, String) {
        let shown = read(&self.ca.ask(&["policy", "show", "--format", "json"]));
        (shown["version"]["number"].as_u64().unwrap(), shown["text"].as_str().unwrap().to_owned())
    }

    fn audited(&self) -> Vec<(String, String, String)> {
        let rows = read(&self.ca.ask(&["audit", "tail", "--limit", "1000", "--format", "json"]));
        assert!(self.ca.ask(&["audit", "verify"]).status.success());
        let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
        let rows = rows["entries"].as_array().unwrap().iter();
        rows.map(|row| (text(row, "decision"), text(row, "subject"), text(row, "detail"))).collect()
    }
}

fn read(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

#[test]
fn an_applied_policy_is_a_version_with_author_comment_and_digest() {
    let operator = Operator::new();
    let output = operator.ca.ask(&["policy", "show"]);
    assert!(code(&output) == 1 && said(&output).contains("policy apply FILE"), "{output:?}");
    let output = operator.apply(POLICY, &["--comment", "ticket 7", "--format", "json"]);
    assert_eq!(code(&output), 0, "{output:?}");
    let answer = read(&output);
    assert_eq!(answer["outcome"], "applied");
    let version = &answer["version"];
    assert_eq!((&version["number"], &version["author"]), (&json!(1), &json!("ana")));
    assert_eq!(version["comment"], "ticket 7");
    assert!(version["file"].as_str().unwrap().ends_with("policy.toml"));
    assert!(version["digest"].as_str().unwrap().starts_with("sha256:"));

    let shown = operator.ca.ask(&["policy", "show"]);
    assert_eq!(String::from_utf8(shown.stdout).unwrap(), POLICY, "byte for byte");
    let history = read(&operator.ca.ask(&["policy", "history", "--format", "json"]));
    assert_eq!(history, json!({ "versions": [version] }));
    let rows = operator.audited();
    let [(decision, subject, detail)] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!((decision.as_str(), subject.as_str()), ("policy_applied", "policy version 1"));
    for part in ["ana", "policy.toml", "sha256:", "ticket 7"] {
        assert!(detail.contains(part), "{detail}");
    }
}

#[test]
fn an_update_that_would_be_lost_is_refused_and_loses_nothing() {
    let operator = Operator::new();
    assert_eq!(code(&operator.apply(POLICY, &["--expect-version", "1"])), 1, "there is none yet");
    assert_eq!(code(&operator.apply(POLICY, &["--expect-version", "0"])), 0);
    assert_eq!(code(&operator.apply(&for_caller("reports"), &["--expect-version", "1"])), 0);
    let late = operator.apply(&for_caller("stock"), &["--expect-version", "1"]);
    assert!(code(&late) == 1 && said(&late).contains("version 2 is in force, not 1"), "{late:?}");
    let late = operator.apply(&for_caller("stock"), &["--expect-version", "1", "--format", "json"]);
    assert_eq!(read(&late), json!({ "outcome": "conflict", "current": 2, "expected": 1 }));
    assert_eq!(operator.in_force(), (2, for_caller("reports")));
    let refused = operator.audited().into_iter().filter(|(decision, ..)| decision == "refused").count();
    assert!(refused > 0, "a refused change is on record");
}

#[test]
fn a_policy_with_errors_failing_expectations_or_another_trust_domain_leaves_the_old_one_in_force() {
    let operator = Operator::new();
    operator.apply(POLICY, &[]);
    let both_wrong = POLICY.replace("from = [\"orders\"]", "from = [\"oders\"]\ncals = []");
    for (text, parts) in [
        (both_wrong, &["policy.toml:6:", "oders", "policy.toml:7:", "cals"][..]),
        (POLICY.replace("\"allow\"", "\"deny\""), &["policy.toml:10: ", "expected to deny", "found allow"]),
        (POLICY.replace("shop.example", "other.example"), &["other.example", "shop.example"]),
        ("x".repeat(1024 * 1024 + 1), &["policy.toml"]),
    ] {
        let output = operator.apply(&text, &[]);
        assert_eq!(code(&output), 1, "{output:?}");
        for part in parts {
            assert!(said(&output).contains(part), "{part} is missing in {}", said(&output));
        }
        let answer = read(&operator.apply(&text, &["--format", "json"]));
        assert!(answer["outcome"] == "refused" && !answer["problems"][0].is_null(), "{answer}");
    }
    assert_eq!(operator.in_force(), (1, POLICY.to_owned()));
}

#[test]
fn the_text_in_force_makes_no_new_version_and_that_is_said() {
    let operator = Operator::new();
    operator.apply(POLICY, &[]);
    let again = operator.apply(POLICY, &["--comment", "again"]);
    assert_eq!(code(&again), 0);
    assert!(String::from_utf8_lossy(&again.stdout).contains("nothing has changed"), "{again:?}");
    let again = read(&operator.apply(POLICY, &["--format", "json"]));
    assert_eq!((&again["outcome"], &again["version"]["number"]), (&json!("unchanged"), &json!(1)));
    assert_eq!(operator.audited().len(), 1);
}

#[test]
fn a_rollback_is_a_new_version_with_the_old_text() {
    let operator = Operator::new();
    operator.apply(POLICY, &[]);
    operator.apply(&for_caller("reports"), &[]);
    let back = |more: &[&str]| operator.ca.ask(&[&["policy", "rollback"], more].concat());
    assert_eq!(code(&back(&["1", "--expect-version", "1"])), 1);
    let none = back(&["3"]);
    assert!(code(&none) == 1 && said(&none).contains("no policy version 3"), "{none:?}");
    assert_eq!(operator.in_force().0, 2);
    assert_eq!(code(&back(&["1", "--expect-version", "2", "--author", "bo"])), 0);
    assert_eq!(operator.in_force(), (3, POLICY.to_owned()));
    let old = operator.ca.ask(&["policy", "show", "2"]);
    assert_eq!(String::from_utf8(old.stdout).unwrap(), for_caller("reports"));
    let history = String::from_utf8(operator.ca.ask(&["policy", "history"]).stdout).unwrap();
    let lines: Vec<_> = history.lines().collect();
    assert_eq!(lines.len(), 4, "{history}");
    assert!(lines[1].starts_with('3') && lines[1].contains("bo"), "{history}");
    assert!(lines[1].contains("rolled back to version 1"), "{history}");
    let newest = operator.ca.ask(&["policy", "history", "--limit", "1"]).stdout;
    assert_eq!(String::from_utf8(newest).unwrap().lines().count(), 2);
}

#[test]
fn more_versions_than_a_page_are_listed_whole_and_once() {
    let operator = Operator::new();
    let store = rusqlite::Connection::open(operator.ca.data_dir.join("store.sqlite")).unwrap();
    let insert = "WITH RECURSIVE n (at) AS (SELECT 1 UNION ALL SELECT at + 1 FROM n WHERE at < 250)
        INSERT INTO policy_versions SELECT at, 'text', 'sha256:00', 'f', 'ana', 0, '' FROM n";
    store.execute(insert, []).unwrap();
    let history = read(&operator.ca.ask(&["policy", "history", "--format", "json"]));
    let versions = history["versions"].as_array().unwrap();
    let numbers: Vec<_> = versions.iter().map(|version| version["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=250).rev().collect::<Vec<_>>());
}

#[test]
fn explain_live_asks_the_policy_in_force_and_names_its_file() {
    let operator = Operator::new();
    let ask = |from: &str| {
        let question =
            ["policy", "explain", "--live", "--from", from, "--to", "payments", "--format", "json"];
        operator.ca.ask(&question)
    };
    assert_eq!(code(&ask("/orders")), 2, "there is nothing to ask yet");
    operator.apply(POLICY, &[]);
    operator.file("this file is not asked");
    let answer = ask("orders");
    assert_eq!(code(&answer), 0, "{answer:?}");
    let answer = read(&answer);
    assert_eq!((&answer["verdict"], &answer["rule"]["line"]), (&json!("allow"), &json!(5)));
    assert!(answer["rule"]["file"].as_str().unwrap().ends_with("policy.toml"), "{answer}");
    assert_eq!(code(&ask("/stranger")), 1);
    let both = ["policy", "explain", "--live", "policy.toml", "--from", "orders", "--to", "payments"];
    assert_eq!(code(&operator.ca.ask(&both)), 2);
    let neither = ["policy", "explain", "--from", "orders", "--to", "payments"];
    assert_eq!(code(&operator.ca.ask(&neither)), 2);
}

#[test]
fn what_was_applied_is_in_force_after_a_kill() {
    let home = Home::new();
    let mut ca = home.start("");
    let path = home.path().join("policy.toml");
    for at in 0..5 {
        let text = for_caller(&format!("caller-{at}"));
        std::fs::write(&path, &text).unwrap();
        ca.told(&["policy", "apply", path.to_str().unwrap()]);
        ca.signal("-KILL");
        ca.wait();
        ca = home.start("");
        assert_eq!(ca.told(&["policy", "show"]), text);
    }
    assert!(ca.told(&["audit", "verify"]).starts_with("whole: 5 rows"));
}

#[test]
fn a_change_is_on_the_account_of_who_is_logged_in() {
    let operator = Operator::new();
    let path = operator.file(POLICY);
    let output = postern_ca()
        .args(["policy", "apply", path.to_str().unwrap(), "--format", "json", "--data-dir"])
        .arg(&operator.ca.data_dir)
        .env("USER", "bo")
        .output()
        .unwrap();
    assert_eq!(read(&output)["version"]["author"], "bo");
    let output = operator.apply(&for_caller("reports"), &["--comment", &"c".repeat(1025)]);
    assert!(code(&output) == 1 && said(&output).contains("at most 1024 bytes"), "{output:?}");
    assert_eq!(code(&operator.apply(&for_caller("reports"), &["--comment", &"c".repeat(1024)])), 0);
}

#[test]
fn a_file_that_cannot_be_read_is_exit_code_2() {
    let operator = Operator::new();
    assert_eq!(code(&operator.ca.ask(&["policy", "apply", "missing.toml"])), 2);
    let path = operator.home.path().join("latin1.toml");
    std::fs::write(&path, b"trust_domain = \"caf\xe9\"").unwrap();
    let output = operator.ca.ask(&["policy", "apply", path.to_str().unwrap()]);
    assert!(code(&output) == 2 && said(&output).contains("UTF-8"), "{output:?}");
}
