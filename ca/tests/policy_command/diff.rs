//! `diff`: a gate for access that is gained.

use serde_json::Value;

use crate::{POLICY, run, run_with};

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
