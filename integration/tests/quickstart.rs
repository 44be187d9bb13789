//! The quickstart shows what it says, and leaves nothing behind, also when it is interrupted.

use std::collections::HashSet;
use std::path::PathBuf;

use postern_integration::{Program, eventually, quickstart_binary};

/// Processes whose command line names this directory.
fn processes_in(dir: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(dir)).collect()
}

fn start(temporary: &std::path::Path, args: &[&str]) -> Program {
    let mut command = tokio::process::Command::new(quickstart_binary());
    command.args(args).env("TMPDIR", temporary).env_remove("CARGO");
    Program::start_command("quickstart", command)
}

fn left_in(dir: &std::path::Path) -> HashSet<PathBuf> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn every_line_is_as_expected_and_nothing_is_left() {
    let temporary = tempfile::tempdir().unwrap();
    let mut quickstart = start(temporary.path(), &["--format", "json"]);
    let status = quickstart.exit().await;
    let output = quickstart.output();
    assert_eq!(status.code(), Some(0), "{output}");
    let lines: Vec<serde_json::Value> =
        output.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!(lines.iter().filter(|line| line["good"] == true).count(), 8, "{output}");
    let under_load = lines.iter().filter(|line| line["happened"].to_string().contains("; 0 of "));
    assert_eq!(under_load.count(), 2, "{output}");
    assert_eq!(left_in(temporary.path()), HashSet::new());
    assert_eq!(processes_in(temporary.path().to_str().unwrap()), Vec::<String>::new());
}

#[tokio::test]
async fn an_interrupted_quickstart_leaves_nothing_either() {
    for signal in ["INT", "TERM", "KILL"] {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().to_str().unwrap().to_owned();
        let mut quickstart = start(temporary.path(), &["--keep"]);
        quickstart.line_with(&["orders → payments"]).await;
        assert!(processes_in(&dir).len() >= 4, "a CA and three sidecars: {:?}", processes_in(&dir));
        quickstart.signal(signal);
        quickstart.exit().await;
        eventually("all processes gone", async || processes_in(&dir).is_empty().then_some(())).await;
        if signal != "KILL" {
            assert_eq!(left_in(temporary.path()), HashSet::new(), "after SIG{signal}");
        }
    }
}
