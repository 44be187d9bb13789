//! `check`: problems, warnings and exit codes.

use crate::{POLICY, run};

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
