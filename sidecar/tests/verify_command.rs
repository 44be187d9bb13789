//! `postern-sidecar verify` says yes on stdout or no on stderr, and its exit code says it, too.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test says no by a panic")]

use std::path::PathBuf;
use std::process::{Command, Output};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use serde_json::Value;
use time::macros::datetime;

struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    /// A root and a leaf for `id`, good in June 2026.
    fn new(id: &str) -> Self {
        let validity = |params: &mut CertificateParams| {
            params.not_before = datetime!(2026-06-01 0:00 UTC);
            params.not_after = datetime!(2026-06-30 0:00 UTC);
        };
        let (root_key, leaf_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut root = CertificateParams::default();
        root.distinguished_name.push(DnType::CommonName, "root");
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        validity(&mut root);
        let root_pem = root.self_signed(&root_key).unwrap().pem();
        let mut leaf = CertificateParams::default();
        leaf.distinguished_name = DistinguishedName::new();
        leaf.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        validity(&mut leaf);
        let leaf_pem = leaf.signed_by(&leaf_key, &Issuer::new(root, root_key)).unwrap().pem();
        let files = Self { dir: tempfile::tempdir().unwrap() };
        files.write("bundle.pem", &root_pem);
        files.write("chain.pem", &leaf_pem);
        files
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap()
    }

    fn verify(&self, more: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_postern-sidecar"))
            .current_dir(self.dir.path())
            .args([
                "verify",
                "--bundle",
                "bundle.pem",
                "--chain",
                "chain.pem",
                "--at",
                "2026-06-15T12:00:00Z",
            ])
            .args(more)
            .output()
            .unwrap()
    }

    fn refused(&self, more: &[&str], reason: &str) {
        let output = self.verify(more);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(output.stdout.is_empty() && stderr.contains(reason), "{reason} is missing in {stderr}");
    }
}

const ID: &str = "spiffe://shop.example/orders";

#[test]
fn accepted_prints_the_id_alone() {
    let output = Files::new(ID).verify(&[]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{ID}\n"));
    assert!(output.stderr.is_empty());
}

#[test]
fn refused_prints_the_reason_to_stderr_alone() {
    let files = Files::new(ID);
    files.refused(&["--trust-domain", "other.example"], "unknown_trust_domain");
    files.write("bundle.pem", &Files::new(ID).read("bundle.pem"));
    files.refused(&[], "bad_signature");
}

#[test]
fn a_file_is_taken_whole_or_not_at_all() {
    let files = Files::new(ID);
    let (bundle, chain) = (files.read("bundle.pem"), files.read("chain.pem"));
    let key = KeyPair::generate().unwrap().serialize_pem();
    let broken = bundle.replacen('M', "!", 1);
    let truncated = bundle.get(..bundle.len() - 30).unwrap().to_owned();
    for bad in
        [format!("{bundle}{key}"), format!("{bundle}{broken}"), format!("{bundle}{truncated}"), String::new()]
    {
        files.write("bundle.pem", &bad);
        files.refused(&[], "bundle.pem");
    }
    files.write("bundle.pem", &format!("a root of ours\n{}\nthe end\n", bundle.replace('\n', "\r\n")));
    assert_eq!(files.verify(&[]).status.code(), Some(0), "text around and CRLF do no harm");
    files.write("chain.pem", &format!("{chain}{key}"));
    files.refused(&[], "chain.pem");
    std::fs::remove_file(files.dir.path().join("chain.pem")).unwrap();
    files.refused(&[], "chain.pem");
}

#[test]
fn json_has_the_same_verdict() {
    let files = Files::new(ID);
    let json = |more: &[&str]| {
        let output = files.verify(&[&["--format", "json"], more].concat());
        (output.status.code(), serde_json::from_slice::<Value>(&output.stdout).unwrap())
    };
    let (code, accepted) = json(&[]);
    assert_eq!((code, &accepted["verdict"], &accepted["id"]), (Some(0), &"accepted".into(), &ID.into()));
    assert_eq!(accepted["not_after"], "2026-06-30T00:00:00Z");
    assert_eq!(accepted["issuer_path"], serde_json::json!(["CN=root"]));
    assert_eq!(accepted["reason"], Value::Null);
    let (code, refused) = json(&["--trust-domain", "other.example"]);
    assert_eq!((code, &refused["verdict"], &refused["id"]), (Some(1), &"refused".into(), &Value::Null));
    assert_eq!(refused["reason"]["code"], "unknown_trust_domain");
}

#[test]
fn bad_usage_is_exit_code_2() {
    let files = Files::new(ID);
    for more in [&["--at", "yesterday"][..], &["--trust-domain", "Shop.example"], &["--nonsense"]] {
        let run = Command::new(env!("CARGO_BIN_EXE_postern-sidecar"))
            .current_dir(files.dir.path())
            .args(["verify", "--bundle", "bundle.pem", "--chain", "chain.pem"])
            .args(more)
            .output()
            .unwrap();
        assert_eq!(run.status.code(), Some(2), "{more:?}");
        assert!(run.stdout.is_empty() && !run.stderr.is_empty());
    }
}
