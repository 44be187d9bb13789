//! `postern-ca policy` answers offline with the code that enforces.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test says no by a panic")]

mod check;
mod diff;
mod documented;
mod explain;
mod graph;
mod recorded;
mod test;

use std::process::{Command, Output};

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
    run_with(&[("policy.toml", policy)], args)
}

fn run_with(files: &[(&str, &str)], args: &[&str]) -> (i32, String, String) {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_postern-ca"));
    let Output { status, stdout, stderr } =
        command.current_dir(dir.path()).arg("policy").args(args).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}
