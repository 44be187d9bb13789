//! `test`: the expectations that a file carries.

use serde_json::Value;

use crate::{POLICY, run};

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
