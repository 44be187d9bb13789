//! `postern-sidecar check`, as a program.

use std::path::Path;
use std::process::{Command, Output};

use postern_proto::join_token::JoinToken;
use time::{Duration, OffsetDateTime};

use crate::authority::{Authority, Validity, id, pem};

fn check(dir: &Path, config: &str, args: &[&str]) -> Output {
    let file = dir.join("sidecar.toml");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_postern-sidecar"));
    command.arg("check").arg("--config").arg(file).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

const FROM_CA: &str = "[identity]\nca = \"https://127.0.0.1:1\"\njoin_token_file = \"token\"\n";
const FROM_FILES: &str =
    "[identity]\nsvid_file = \"svid.pem\"\nkey_file = \"key.pem\"\nbundle_file = \"bundle.pem\"\n";
const INBOUND: &str =
    "[[inbound]]\nname = \"api\"\nlisten = \"127.0.0.1:8443\"\napp = \"10.0.0.1:80\"\nprotocol = \"tcp\"\n";

fn put_token(dir: &Path) -> String {
    let token = JoinToken::new(id("orders"), Authority::new().pin(), [7; 32]).reveal().to_string();
    std::fs::write(dir.join("token"), &token).unwrap();
    token
}

#[test]
fn a_bad_configuration_is_exit_2_with_file_line_key_value_and_rule() {
    let dir = tempfile::tempdir().unwrap();
    let output = check(dir.path(), &FROM_CA.replace("https", "http"), &[]);
    assert_eq!(output.status.code(), Some(2));
    let told = text(&output.stderr);
    for part in ["sidecar.toml:2:", "identity.ca", "\"http://127.0.0.1:1\"", "https://HOST:PORT"] {
        assert!(told.contains(part), "{part:?} is not in {told}");
    }
    assert!(output.stdout.is_empty());
}

#[test]
fn everything_in_order_is_exit_0_and_no_secret_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let token = put_token(dir.path());
    let output = check(dir.path(), &format!("{FROM_CA}{INBOUND}"), &[]);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert!(out.contains("spiffe://shop.example/orders") && out.contains("inbound api"), "{out}");
    assert!(out.contains("policy: from the CA") && err.contains("goes round the sidecar"), "{out}{err}");
    let secret = token.rsplit(':').next().unwrap();
    assert!(!out.contains(secret) && !err.contains(secret));
}

#[test]
fn a_missing_token_and_a_broken_policy_are_exit_1_and_all_are_told() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("policy.toml"), "nonsense").unwrap();
    let output = check(dir.path(), &format!("{FROM_CA}[policy]\nfile = \"policy.toml\"\n"), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).matches("error: ").count() >= 2, "{}", text(&output.stderr));
}

#[test]
fn identity_files_are_judged() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (leaf, key) =
        authority.leaf(&id("orders"), Validity::of(Duration::hours(1), OffsetDateTime::now_utc()));
    std::fs::write(dir.path().join("svid.pem"), pem("CERTIFICATE", &leaf)).unwrap();
    std::fs::write(dir.path().join("key.pem"), pem("PRIVATE KEY", &key.serialize_der())).unwrap();
    std::fs::write(dir.path().join("bundle.pem"), pem("CERTIFICATE", &authority.root)).unwrap();
    let good = check(dir.path(), FROM_FILES, &["--format", "json"]);
    let report: serde_json::Value = serde_json::from_slice(&good.stdout).unwrap();
    assert_eq!((good.status.code(), report["verdict"].as_str()), (Some(0), Some("good")), "{report}");
    assert!(report["facts"][0].as_str().unwrap().contains("spiffe://shop.example/orders"));

    std::fs::write(dir.path().join("bundle.pem"), pem("CERTIFICATE", &Authority::new().root)).unwrap();
    let bad = check(dir.path(), FROM_FILES, &["--format", "json"]);
    let report: serde_json::Value = serde_json::from_slice(&bad.stdout).unwrap();
    assert_eq!((bad.status.code(), report["verdict"].as_str()), (Some(1), Some("errors")), "{report}");
}

#[test]
fn wrong_usage_is_exit_2() {
    let output = Command::new(env!("CARGO_BIN_EXE_postern-sidecar")).arg("check").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
