//! What operators ask on the admin socket: above all the audit chain, in which tampering is found.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says no by a panic"
)]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Output, Stdio};

use ring::digest;
use serde_json::Value;
use tempfile::TempDir;

/// A running CA; killed when dropped.
struct Ca {
    dir: TempDir,
    child: Child,
    /// Kept open, as a terminal would be.
    _stdout: Box<dyn std::io::BufRead>,
}

impl Ca {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut child = program()
            .args(["serve", "--trust-domain", "shop.example", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(dir.path().join("ca"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        while !said.contains("listening on") {
            assert!(stdout.read_line(&mut said).unwrap() > 0, "the CA does not start: {said}");
        }
        Self { dir, child, _stdout: Box::new(stdout) }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = program();
        command.args(args).arg("--data-dir").arg(self.dir.path().join("ca"));
        command
    }

    fn ask(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// What a command that must succeed printed.
    fn told(&self, args: &[&str]) -> String {
        let output = self.ask(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Each makes one row.
    fn make_tokens(&self, count: usize) {
        for number in 0..count {
            self.told(&["token", "create", "--id", &format!("service-{number}")]);
        }
    }

    fn exported(&self, after: &str) -> Vec<Value> {
        let lines = self.told(&["audit", "export", "--after", after]);
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for Ca {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_postern-ca"))
}

/// A row's hash, made anew as the help text says it.
fn hash_of(before: &str, row: &Value) -> String {
    let bytes = |hex: &str| -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    };
    let mut hashed = bytes(before);
    hashed.extend(row["number"].as_i64().unwrap().to_be_bytes());
    hashed.extend(row["unix"].as_i64().unwrap().to_be_bytes());
    for text in ["decision", "subject", "detail"].map(|key| row[key].as_str().unwrap()) {
        hashed.extend((text.len() as u64).to_be_bytes());
        hashed.extend(text.as_bytes());
    }
    let hash = digest::digest(&digest::SHA256, &hashed);
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn an_export_is_a_chain_that_others_can_check_and_verify_names_its_end() {
    let ca = Ca::start();
    ca.make_tokens(3);
    let rows = ca.exported("0");
    assert_eq!(rows.len(), 3);
    let mut hash = "00".repeat(32);
    for row in &rows {
        assert_eq!(row["decision"], "token_created");
        hash = hash_of(&hash, row);
        assert_eq!(row["hash"], hash.as_str());
    }
    assert_eq!(ca.exported("2"), rows[2..]);
    let verdict: Value = serde_json::from_str(&ca.told(&["audit", "verify", "--format", "json"])).unwrap();
    assert_eq!(verdict, serde_json::json!({ "verdict": "whole", "rows": 3, "last_hash": hash }));
    assert!(ca.told(&["audit", "verify"]).starts_with("whole: 3 rows"));
}

#[test]
fn tail_shows_the_newest_rows_oldest_first() {
    let ca = Ca::start();
    assert_eq!(ca.told(&["audit", "tail"]).lines().count(), 1, "a heading and no rows");
    ca.make_tokens(3);
    let shown = ca.told(&["audit", "tail", "--limit", "2"]);
    let lines: Vec<_> = shown.lines().collect();
    assert_eq!(lines.len(), 3, "{shown}");
    assert!(lines[1].contains("spiffe://shop.example/service-1"), "{shown}");
    assert!(lines[2].contains("spiffe://shop.example/service-2"), "{shown}");
    let all: Value = serde_json::from_str(&ca.told(&["audit", "tail", "--format", "json"])).unwrap();
    assert_eq!(all["entries"].as_array().unwrap().len(), 3);
}

#[test]
fn more_rows_than_a_page_come_whole_and_once() {
    let ca = Ca::start();
    ca.make_tokens(1);
    insert_rows(&ca, 249);
    let numbers: Vec<_> = ca.exported("0").iter().map(|row| row["number"].as_i64().unwrap()).collect();
    assert_eq!(numbers, (1..=250).collect::<Vec<_>>());
    let tail: Value =
        serde_json::from_str(&ca.told(&["audit", "tail", "--limit", "200", "--format", "json"])).unwrap();
    assert_eq!(tail["entries"].as_array().unwrap().len(), 200);
}

#[test]
fn a_changed_row_is_named_with_exit_code_1() {
    let ca = Ca::start();
    ca.make_tokens(3);
    tamper(&ca, "UPDATE audit SET subject = 'spiffe://shop.example/nobody' WHERE number = 2");
    for args in [&["audit", "verify"][..], &["audit", "verify", "--format", "json"]] {
        let output = ca.ask(args);
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("broken at row 2"), "{output:?}");
    }
}

#[test]
fn text_of_callers_does_not_reach_the_terminal_as_it_is() {
    let ca = Ca::start();
    ca.make_tokens(1);
    tamper(&ca, "UPDATE audit SET detail = 'a' || char(27) || '[31m' || char(10) || '\"b\"'");
    let shown = ca.told(&["audit", "tail"]);
    assert!(shown.contains("a\\u{1b}[31m\\n\"b\""), "{shown}");
    assert_eq!(shown.lines().count(), 2);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure_and_a_full_disk_is() {
    let ca = Ca::start();
    ca.make_tokens(1);
    insert_rows(&ca, 999);
    let mut export = ca.command(&["audit", "export"]);
    let mut child = export.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");

    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = ca.command(&["token", "create", "--id", "lost"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

fn tamper(ca: &Ca, statement: &str) {
    let store = rusqlite::Connection::open(ca.dir.path().join("ca/store.sqlite")).unwrap();
    store.execute(statement, []).unwrap();
}

/// Rows after the first, whose hashes do not matter here.
fn insert_rows(ca: &Ca, count: i64) {
    tamper(
        ca,
        &format!(
            "WITH RECURSIVE new (number) AS (SELECT 2 UNION ALL SELECT number + 1 FROM new WHERE number <= {count})
             INSERT INTO audit SELECT new.number, at, decision, subject, detail, hash FROM audit, new
             WHERE audit.number = 1"
        ),
    );
}

#[test]
fn a_refusal_is_read_as_it_was_written() {
    let ca = Ca::start();
    let output = ca.ask(&["cert", "show", "zz"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said, "postern-ca: no certificate \"zz\" is on record\n");
    for ttl in ["500ms", "1500ms", "ten", "0"] {
        let output = ca.ask(&["token", "create", "--id", "orders", "--ttl", ttl]);
        assert_eq!(output.status.code(), Some(2), "{ttl}: {output:?}");
        assert!(output.stdout.is_empty());
    }
}
