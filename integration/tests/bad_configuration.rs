//! A configuration that cannot be is refused with file, line, key, value and rule in one message, and exit code 2.

use std::path::Path;
use std::process::Output;

use postern_integration::{ca_binary, sidecar_binary};

fn run(binary: &Path, args: &[&str]) -> Output {
    std::process::Command::new(binary).args(args).output().unwrap()
}

fn refused(binary: &Path, args: &[&str], file: &str, text: &str, needles: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(file);
    std::fs::write(&path, text).unwrap();
    let mut args = args.to_vec();
    args.extend(["--config", path.to_str().unwrap()]);
    let output = run(binary, &args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    for needle in needles {
        assert!(stderr.contains(needle), "{needle:?} is missing in:\n{stderr}");
    }
}

const SIDECAR: &str = r#"[identity]
ca = "https://127.0.0.1:7443"
join_token_file = "token"

[[inbound]]
name = "api"
listen = "127.0.0.1:8443"
app = "127.0.0.1:8080"
protocol = "tcp"
"#;

#[test]
fn a_sidecar_value_of_the_wrong_kind() {
    let text = SIDECAR.replace("\"127.0.0.1:8443\"", "\"127.0.0.1:99999\"");
    for command in ["run", "check"] {
        let needles = ["sidecar.toml:7", "listen", "127.0.0.1:99999"];
        refused(&sidecar_binary(), &[command], "sidecar.toml", &text, &needles);
    }
}

#[test]
fn an_unknown_sidecar_key_is_named_with_the_nearest_known_one() {
    let text = SIDECAR.replace("protocol", "protocoll");
    let needles = ["sidecar.toml:9", "protocoll", "protocol"];
    refused(&sidecar_binary(), &["run"], "sidecar.toml", &text, &needles);
}

#[test]
fn toml_that_does_not_parse() {
    refused(&sidecar_binary(), &["run"], "sidecar.toml", "[identity\n", &["sidecar.toml:1"]);
    refused(&ca_binary(), &["serve"], "ca.toml", "trust_domain = \n", &["ca.toml:1"]);
}

#[test]
fn a_trust_domain_that_is_none() {
    let text = "trust_domain = \"Shop.example\"\ndata_dir = \"ca\"\n";
    let needles = ["ca.toml:1", "trust_domain", "Shop.example", "shop.example"];
    refused(&ca_binary(), &["serve"], "ca.toml", text, &needles);
}

#[test]
fn a_lifetime_out_of_bounds() {
    let text = "trust_domain = \"shop.example\"\ndata_dir = \"ca\"\nsvid_ttl = \"5s\"\n";
    refused(&ca_binary(), &["serve"], "ca.toml", text, &["ca.toml:3", "svid_ttl", "5s", "10s"]);
}

#[test]
fn a_missing_file_and_missing_arguments() {
    for (binary, args) in [
        (sidecar_binary(), &["run", "--config", "/nonexistent/sidecar.toml"][..]),
        (ca_binary(), &["serve", "--config", "/nonexistent/ca.toml"]),
        (sidecar_binary(), &["run"]),
        (ca_binary(), &["serve"]),
        (sidecar_binary(), &["nonsense"]),
    ] {
        let output = run(&binary, args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn a_number_of_worker_threads_that_is_none_is_told_with_variable_value_and_rule() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("sidecar.toml");
    std::fs::write(&config, SIDECAR).unwrap();
    let (config, data) = (config.to_str().unwrap(), dir.path().join("ca"));
    for value in ["0", "", " 2", "2\n", "abc", "-1", "99999999999999999999"] {
        for (binary, args) in [
            (sidecar_binary(), &["run", "--config", config][..]),
            (sidecar_binary(), &["check", "--config", config]),
            (ca_binary(), &["serve", "--trust-domain", "shop.example", "--data-dir", data.to_str().unwrap()]),
        ] {
            let mut command = std::process::Command::new(binary);
            let output = command.args(args).env("TOKIO_WORKER_THREADS", value).output().unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!((output.status.code(), stderr.lines().count()), (Some(2), 1), "{args:?}: {stderr}");
            assert!(stderr.contains(&format!("TOKIO_WORKER_THREADS = {value:?}")), "{stderr}");
            assert!(stderr.contains("from 1 to 512"), "{stderr}");
        }
    }
}
