//! Programs of the machine that some tests need.

use std::path::Path;
use std::process::Command;

/// Whether a tool is here. Without it a test has nothing to say on a developer's machine; in CI that is a failure.
pub fn has(tool: &str) -> bool {
    told(tool, is_here(tool))
}

/// Whether a tool is here, for who reports a missing one himself.
pub fn is_here(tool: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {tool}")]).output();
    found.is_ok_and(|output| output.status.success())
}

/// Whether a test without its tool fails.
pub fn nothing_is_skipped() -> bool {
    std::env::var_os("CI").is_some()
}

/// The same for a file that a tool needs.
pub fn has_file(file: &Path) -> bool {
    told(&file.display().to_string(), file.exists())
}

fn told(what: &str, found: bool) -> bool {
    assert!(found || !nothing_is_skipped(), "{what} is missing, and in CI nothing is skipped");
    if !found {
        eprintln!("not tested: {what} is not on this machine");
    }
    found
}
