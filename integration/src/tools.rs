//! Programs of the machine that some tests need.

use std::process::Command;

/// Whether a tool is here. Without it a test has nothing to say on a developer's machine; in CI that is a failure.
pub fn has(tool: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v {tool}")])
        .output()
        .is_ok_and(|output| output.status.success());
    assert!(found || std::env::var_os("CI").is_none(), "{tool} is missing, and in CI nothing is skipped");
    if !found {
        eprintln!("not tested: {tool} is not on this machine");
    }
    found
}
