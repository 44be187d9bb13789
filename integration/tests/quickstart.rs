//! The quickstart shows what it says, and leaves nothing behind, however it ends.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use postern_integration::{Program, ca_binary, eventually, quickstart_binary};
use serde_json::Value;
use tempfile::TempDir;

/// What the README promises.
const AT_MOST: Duration = Duration::from_secs(60);
const LINES: [&str; 10] = [
    "orders charges payments",
    "reports charges payments",
    "what that refusal says to type is typed",
    "a permission is withdrawn under a live stream",
    "a plaintext client calls payments",
    "a client with no certificate calls payments",
    "another CA's certificate for orders is shown",
    "reports answers where payments was dialled",
    "all certificates are rotated under load",
    "the CA is stopped past a renewal, and comes back",
];

/// A quickstart in a temporary directory of its own, by which everything it starts can be found.
fn start(binary: &Path, args: &[&str], temp: &TempDir) -> Command {
    let mut command = Command::new(binary);
    command.args(args).env("TMPDIR", temp.path()).env_remove("CARGO").stdin(Stdio::null());
    command
}

#[test]
fn every_line_is_as_expected_in_less_than_a_minute_and_nothing_is_left() {
    let temp = TempDir::new().unwrap();
    let begun = Instant::now();
    let output = start(&quickstart_binary(), &["--format", "json"], &temp).output().unwrap();
    let (text, errors) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{text}\n{errors}", output.status);
    assert!(begun.elapsed() < AT_MOST, "{:?}", begun.elapsed());
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for what in LINES {
        let line = lines.iter().find(|line| line["tried"] == what).expect(what);
        assert_eq!(line["as_expected"], true, "{line}");
    }
    let summary = &lines.last().unwrap()["summary"];
    assert_eq!(
        (summary["lines"].as_u64(), summary["unexpected"].as_array().unwrap().len()),
        (Some(LINES.len() as u64), 0)
    );
    let refused = lines.iter().find(|line| line["tried"] == "reports charges payments").unwrap();
    let notes = refused["notes"].to_string();
    for needed in
        ["no rule matches", "spiffe://shop.example/reports", "postern-ca policy explain", "POST /charge"]
    {
        assert!(notes.contains(needed), "{needed} is missing in {notes}");
    }
    assert_eq!(left_behind(&temp), HashSet::new());
}

#[tokio::test]
async fn interrupted_or_killed_it_leaves_nothing_behind() {
    let binary = quickstart_binary();
    for (signal, code) in [("INT", Some(130)), ("TERM", Some(130)), ("HUP", Some(130)), ("KILL", None)] {
        let temp = TempDir::new().unwrap();
        let mut program =
            Program::start_command("quickstart", start(&binary, &["--format=json"], &temp).into());
        program.line_with(&["orders charges payments"]).await;
        let running = left_behind(&temp);
        assert!(running.len() >= 8, "a CA, three sidecars, three apps, a janitor: {running:?}");
        program.signal(signal);
        assert_eq!(program.exit().await.code(), code, "{signal}: {}", program.output());
        eventually(&format!("nothing is left after {signal}"), async || {
            left_behind(&temp).is_empty().then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn kept_it_answers_the_commands_it_prints() {
    let temp = TempDir::new().unwrap();
    let mut program =
        Program::start_command("quickstart", start(&quickstart_binary(), &["--keep"], &temp).into());
    program.line_with(&["/metrics"]).await;
    let output = program.output();
    let commands: Vec<_> = output.lines().filter(|line| line.trim_start().starts_with("curl ")).collect();
    assert_eq!(commands.len(), 5, "{output}");
    for command in commands {
        let run = Command::new("sh").args(["-c", command]).output().unwrap();
        let answer = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success() && !answer.is_empty(), "{command}: {answer}");
    }
    program.signal("INT");
    assert!(program.exit().await.success(), "{}", program.output());
    assert_eq!(left_behind(&temp), HashSet::new());
}

#[test]
fn a_program_that_fails_is_named_and_the_exit_code_says_no() {
    let temp = TempDir::new().unwrap();
    let bin = TempDir::new().unwrap();
    let here = |name: &str| bin.path().join(name);
    std::fs::copy(quickstart_binary(), here("quickstart")).unwrap();
    std::os::unix::fs::symlink(ca_binary(), here("postern-ca")).unwrap();
    std::os::unix::fs::symlink("/bin/false", here("postern-sidecar")).unwrap();
    let output = start(&here("quickstart"), &[], &temp).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("-sidecar ended"), "{errors}");
    assert_eq!(left_behind(&temp), HashSet::new());
}

/// Processes that were started with this temporary directory, and what lies in it.
fn left_behind(temp: &TempDir) -> HashSet<String> {
    let wanted = [b"TMPDIR=", temp.path().as_os_str().as_bytes()].concat();
    let ours = |process: &Path| {
        // A process may end while it is looked at; its environment is then gone, too.
        let environ = std::fs::read(process.join("environ")).ok()?;
        let command = std::fs::read(process.join("cmdline")).ok()?;
        let ours = environ.split(|byte| *byte == 0).any(|entry| entry == wanted);
        ours.then(|| format!("{}: {}", process.display(), String::from_utf8_lossy(&command)))
    };
    let entries = |dir: &Path| std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let is_pid = |path: &PathBuf| {
        path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.parse::<u32>().is_ok())
    };
    let processes = entries(Path::new("/proc")).filter(is_pid).filter_map(|process| ours(&process));
    let files = entries(temp.path()).map(|path| path.display().to_string());
    processes.chain(files).collect()
}
