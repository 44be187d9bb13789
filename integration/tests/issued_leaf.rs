//! What the CA issues is what the profile says, whatever the request asked for; other tools accept it.

use std::process::Command;

use postern_integration::certs::pem;
use postern_integration::tools::has;
use postern_integration::{CaOptions, Mesh, tls};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, SanType};

/// Everything a greedy client could ask for.
fn greedy_csr(key: &KeyPair) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "admin");
    params.subject_alt_names = vec![
        SanType::URI("spiffe://shop.example/admin".try_into().unwrap()),
        SanType::DnsName("admin.shop.example".try_into().unwrap()),
    ];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.serialize_request(key).unwrap().der().to_vec()
}

fn openssl(args: &[&str]) -> String {
    let output = Command::new("openssl").args(args).output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{args:?}: {text}");
    text
}

#[tokio::test]
async fn nothing_of_a_greedy_request_appears_and_all_of_it_is_reported() {
    if !has("openssl") {
        return;
    }
    let mesh = Mesh::default();
    let ca = mesh.ca(CaOptions::default()).await;
    let key = KeyPair::generate().unwrap();
    let response = tls::issue(&ca, &ca.token("orders"), greedy_csr(&key)).await.unwrap();

    let leaf = mesh.write("leaf.pem", &pem("CERTIFICATE", &response.chain[0]));
    let issuer = mesh.write("issuer.pem", &pem("CERTIFICATE", &response.chain[1]));
    let bundle = mesh.write("bundle.pem", &ca.run(&["bundle", "show"]));
    let paths = [&bundle, &issuer, &leaf].map(|path| path.to_str().unwrap());
    let [bundle, issuer, leaf] = paths;
    let verdict = openssl(&["verify", "-x509_strict", "-CAfile", bundle, "-untrusted", issuer, leaf]);
    assert!(verdict.contains("OK"), "{verdict}");
    for purpose in ["sslserver", "sslclient"] {
        openssl(&["verify", "-purpose", purpose, "-CAfile", bundle, "-untrusted", issuer, leaf]);
    }

    let text = openssl(&["x509", "-in", leaf, "-noout", "-text"]);
    let extensions =
        text.split("X509v3 extensions:").nth(1).unwrap().split("Signature Algorithm").next().unwrap();
    let lines: Vec<_> = extensions.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let identifier = lines[1];
    assert_eq!(
        lines,
        [
            "X509v3 Authority Key Identifier:",
            identifier,
            "X509v3 Subject Alternative Name: critical",
            "URI:spiffe://shop.example/orders",
            "X509v3 Key Usage: critical",
            "Digital Signature",
            "X509v3 Extended Key Usage:",
            "TLS Web Server Authentication, TLS Web Client Authentication",
        ]
    );
    assert!(text.contains("Subject: \n") || text.contains("Subject:\n"), "an empty subject: {text}");
    assert!(!text.contains("admin"), "{text}");

    let ignored = response.ignored.join("; ");
    for asked in ["CN=admin", "spiffe://shop.example/admin", "admin.shop.example", "CA true"] {
        assert!(ignored.contains(asked), "{asked} is not reported in {ignored}");
    }
}

#[tokio::test]
async fn a_certificate_lives_as_configured_backdated_by_a_minute_with_a_random_serial() {
    let mesh = Mesh::default();
    let ca = mesh.ca(CaOptions { svid_ttl: "2h", ..CaOptions::default() }).await;
    let (one, two) = (tls::enrol(&ca, "orders").await, tls::enrol(&ca, "orders").await);
    let life = one.verified().not_after() - one.verified().not_before();
    assert_eq!(life, time::Duration::hours(2) + time::Duration::minutes(1));
    assert_ne!(one.verified().serial(), two.verified().serial());
    assert!((16..=17).contains(&one.verified().serial().len()));
}

#[tokio::test]
async fn requests_with_other_keys_or_broken_signatures_are_refused() {
    let mesh = Mesh::default();
    let ca = mesh.ca(CaOptions::default()).await;
    let token = ca.run(&["token", "create", "--id", "orders", "--uses", "10"]);
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        tls::issue(&ca, &token, tls::csr(&key)).await.unwrap();
    }
    let mut tampered = tls::csr(&KeyPair::generate().unwrap());
    let last = tampered.len() - 1;
    tampered[last] ^= 1;
    if has("openssl") {
        let status = tls::issue(&ca, &token, openssl_rsa_csr()).await.unwrap_err();
        assert!(status.message().contains("a key that is not accepted"), "an RSA key: {status}");
    }
    for (what, csr, reason) in [
        ("a broken signature", tampered, "signed by its own key"),
        ("rubbish", vec![0x30, 0x03, 1, 2, 3], "not PKCS#10"),
        ("too large", vec![0; 9 * 1024], "9216 bytes"),
        ("nothing", Vec::new(), "not PKCS#10"),
    ] {
        let status = tls::issue(&ca, &token, csr).await.unwrap_err();
        assert!(status.message().contains(reason), "{what}: {status}");
    }
    let huge = tls::issue(&ca, &token, vec![0; 64 * 1024]).await.unwrap_err();
    assert_eq!(huge.code(), tonic::Code::OutOfRange, "{huge}");
}

fn openssl_rsa_csr() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (key, csr) = (dir.path().join("key"), dir.path().join("csr"));
    let (key, csr) = (key.to_str().unwrap(), csr.to_str().unwrap());
    openssl(&[
        "req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-subj", "/", "-outform", "DER",
        "-out", csr,
    ]);
    std::fs::read(csr).unwrap()
}
