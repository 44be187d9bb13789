//! SVIDs and roots as other issuers make them (with openssl): taken, or refused when they are loaded, by a word that names
//! the rule; `verify` says the same.

use std::path::Path;
use std::process::{Command, Output};

use postern_integration::{sidecar_binary, tools};
use serde_json::Value;

const CA: &str = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n";
const LEAF: &str =
    "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nsubjectAltName=critical,";
const ID: &str = "URI:spiffe://shop.example/payments";
const P256: &str = "EC -pkeyopt ec_paramgen_curve:P-256";

/// What one issuer makes. Keys are openssl's words for `genpkey -algorithm`, extensions a section of its configuration.
struct Issuer {
    root_key: &'static str,
    root: String,
    /// More words for the root's `openssl x509 -req`.
    root_args: &'static str,
    intermediate: Option<String>,
    leaf_key: &'static str,
    leaf_subject: &'static str,
    leaf: String,
    leaf_args: &'static str,
    /// The chain's file ends with the root.
    root_in_chain: bool,
    /// The key as PKCS#1.
    traditional_key: bool,
}

impl Default for Issuer {
    fn default() -> Self {
        Self {
            root_key: P256,
            root: CA.to_owned(),
            root_args: "",
            intermediate: None,
            leaf_key: P256,
            leaf_subject: "/",
            leaf: format!("{LEAF}{ID}\n"),
            leaf_args: "-set_serial 77",
            root_in_chain: false,
            traditional_key: false,
        }
    }
}

fn sh(dir: &Path, line: &str) {
    let output = Command::new("sh").arg("-ec").arg(line).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Issuer {
    fn make(&self, dir: &Path) {
        let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
        write("root.ext", &self.root);
        write("leaf.ext", &self.leaf);
        let extensions = if self.root.is_empty() { "" } else { "-extfile root.ext" };
        sh(
            dir,
            &format!(
                "openssl genpkey -algorithm {} -out root.key 2>&1
                 openssl req -new -key root.key -subj /CN=root -out root.csr
                 openssl x509 -req -in root.csr -signkey root.key -days 9 {extensions} {} -out root.crt 2>&1",
                self.root_key, self.root_args
            ),
        );
        let (mut signer, mut chain) = ("root", "leaf.crt".to_owned());
        if let Some(intermediate) = &self.intermediate {
            write("mid.ext", intermediate);
            sh(
                dir,
                &format!(
                    "openssl genpkey -algorithm {P256} -out mid.key 2>&1
                     openssl req -new -key mid.key -subj /CN=mid -out mid.csr
                     openssl x509 -req -in mid.csr -CA root.crt -CAkey root.key -set_serial 5 -days 9 -extfile mid.ext -out mid.crt 2>&1"
                ),
            );
            (signer, chain) = ("mid", "leaf.crt mid.crt".to_owned());
        }
        if self.root_in_chain {
            chain.push_str(" root.crt");
        }
        let traditional = if self.traditional_key {
            "openssl rsa -in leaf.key -traditional -out key.pem 2>&1"
        } else {
            "cp leaf.key key.pem"
        };
        sh(
            dir,
            &format!(
                "openssl genpkey -algorithm {} -out leaf.key 2>&1
                 openssl req -new -key leaf.key -subj '{}' -out leaf.csr
                 openssl x509 -req -in leaf.csr -CA {signer}.crt -CAkey {signer}.key -days 9 -extfile leaf.ext {} -out leaf.crt 2>&1
                 cat {chain} > chain.pem; {traditional}; chmod 600 key.pem; cp root.crt bundle.pem",
                self.leaf_key, self.leaf_subject, self.leaf_args
            ),
        );
    }
}

fn run(dir: &Path, args: &[&str]) -> Output {
    Command::new(sidecar_binary()).args(args).current_dir(dir).output().unwrap()
}

/// The code by which `verify` refuses, if it does; what loads the files must say the same.
fn verdict(what: &str, dir: &Path) -> Option<String> {
    let answer = run(dir, &["verify", "--bundle", "bundle.pem", "--chain", "chain.pem", "--format", "json"]);
    let answer: Value = serde_json::from_slice(&answer.stdout).unwrap();
    let config =
        "[identity]\nsvid_file = \"chain.pem\"\nkey_file = \"key.pem\"\nbundle_file = \"bundle.pem\"\n";
    std::fs::write(dir.join("sidecar.toml"), config).unwrap();
    let check = run(dir, &["check", "--config", "sidecar.toml"]);
    let said = String::from_utf8(check.stderr).unwrap() + &String::from_utf8(check.stdout).unwrap();
    let refused = answer["reason"]["detail"].as_str();
    assert_eq!(check.status.success(), refused.is_none(), "{what}: {refused:?}, and check: {said}");
    if let Some(detail) = refused {
        assert!(said.contains(detail), "{what}: verify says {detail:?}, check {said:?}");
    }
    answer["reason"]["code"].as_str().map(str::to_owned)
}

fn leaf_with(lines: &str) -> String {
    format!("{LEAF}{ID}\n{lines}")
}

#[test]
fn what_other_issuers_make_is_taken_or_refused_by_the_name_of_the_rule() {
    if !tools::has("openssl") {
        return;
    }
    let consul = "11111111-2222-3333-4444-555555555555.consul";
    let issuer = Issuer::default;
    let mid = |lines: &str| Some(format!("{CA}{lines}"));
    let cases: Vec<(&str, Issuer, Option<&str>)> = vec![
        ("as ours", issuer(), None),
        (
            "SPIRE: a subject, DNS names beside the URI, an intermediate with the domain's URI",
            Issuer {
                leaf_subject: "/C=US/O=SPIRE",
                leaf: format!(
                    "{}subjectAltName={ID},DNS:payments,DNS:payments.shop\n",
                    LEAF.replace("subjectAltName=critical,", "")
                ),
                intermediate: mid("subjectAltName=URI:spiffe://shop.example\n"),
                ..issuer()
            },
            None,
        ),
        (
            "RSA-2048 with a PKCS#1 key, and a chain that ends with the root",
            Issuer {
                leaf_key: "RSA -pkeyopt rsa_keygen_bits:2048",
                root_in_chain: true,
                traditional_key: true,
                ..issuer()
            },
            None,
        ),
        (
            "Consul: its domain and path, a root with a URI",
            Issuer {
                root: format!("{CA}subjectAltName=URI:spiffe://{consul}\n"),
                leaf: format!("{LEAF}URI:spiffe://{consul}/ns/default/dc/dc1/svc/web\n"),
                ..issuer()
            },
            None,
        ),
        (
            "keyEncipherment beside, no extended key usage",
            Issuer {
                leaf: leaf_with("").replace("digitalSignature", "digitalSignature,keyEncipherment"),
                ..issuer()
            },
            None,
        ),
        (
            "an extended key usage for clients alone",
            Issuer { leaf: leaf_with("extendedKeyUsage=clientAuth\n"), ..issuer() },
            Some("extended_key_usage"),
        ),
        (
            "a private extension, a DNS name and a common name",
            Issuer {
                leaf_subject: "/CN=payments",
                leaf: format!("{LEAF}{ID},DNS:payments\n1.2.3.4.5.6=ASN1:UTF8String:x\n"),
                ..issuer()
            },
            None,
        ),
        (
            "an intermediate that permits a URI",
            Issuer { intermediate: mid("nameConstraints=critical,permitted;URI:shop.example\n"), ..issuer() },
            Some("uri_constraints"),
        ),
        (
            "an intermediate that permits DNS names alone",
            Issuer { intermediate: mid("nameConstraints=critical,permitted;DNS:shop.example\n"), ..issuer() },
            None,
        ),
        (
            "a root without key identifiers",
            Issuer { root: format!("{CA}subjectKeyIdentifier=none\n"), ..issuer() },
            None,
        ),
        ("a root of version 1", Issuer { root: String::new(), ..issuer() }, Some("no_usable_root")),
        (
            "a serial of 20 octets",
            Issuer { leaf_args: "-set_serial 0x7fffffffffffffffffffffffffffffffffffffff", ..issuer() },
            None,
        ),
        (
            "a serial of 20 octets with the high bit, which DER makes 21",
            Issuer { leaf_args: "-set_serial 0xffffffffffffffffffffffffffffffffffffffff", ..issuer() },
            Some("serial"),
        ),
        ("serial 0", Issuer { leaf_args: "-set_serial 0", ..issuer() }, Some("serial")),
        ("an Ed25519 leaf", Issuer { leaf_key: "ED25519", ..issuer() }, None),
        ("a P-521 leaf", Issuer { leaf_key: "EC -pkeyopt ec_paramgen_curve:P-521", ..issuer() }, Some("key")),
        (
            "a P-521 root",
            Issuer {
                root_key: "EC -pkeyopt ec_paramgen_curve:P-521",
                leaf_args: "-sha512 -set_serial 7",
                ..issuer()
            },
            Some("no_usable_root"),
        ),
        (
            "an RSA-3072 root that signs with PSS",
            Issuer {
                root_key: "RSA -pkeyopt rsa_keygen_bits:3072",
                leaf_args: "-set_serial 7 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest",
                ..issuer()
            },
            None,
        ),
    ];
    for (what, issuer, code) in cases {
        let dir = tempfile::tempdir().unwrap();
        issuer.make(dir.path());
        assert_eq!(verdict(what, dir.path()).as_deref(), code, "{what}");
    }
}

#[test]
fn two_roots_of_one_subject_each_vouch_for_their_own() {
    if !tools::has("openssl") {
        return;
    }
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for dir in [&one, &other] {
        Issuer::default().make(dir.path());
    }
    let root = |dir: &tempfile::TempDir| std::fs::read_to_string(dir.path().join("root.crt")).unwrap();
    for both in [format!("{}{}", root(&one), root(&other)), format!("{}{}", root(&other), root(&one))] {
        std::fs::write(one.path().join("bundle.pem"), both).unwrap();
        assert_eq!(verdict("two roots of one subject", one.path()), None);
    }
}
