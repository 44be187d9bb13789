//! Clients without a sidecar, which hold an SVID of their own, are served and refused like any other.

use postern_integration::certs::pem;
use postern_integration::shop::Shop;
use postern_integration::{CaOptions, tls, tools, web};
use serde_json::Value;
use tokio::process::Command;

/// curl with the SVID of `id`: whether it succeeded, and what it printed with the status and version at the end.
async fn curl(shop: &Shop, id: &str, version: &str, path: &str) -> (bool, String) {
    let svid = tls::enrol(&shop.ca, id).await;
    let chain: String = svid.chain().iter().map(|one| pem("CERTIFICATE", one)).collect();
    let chain = shop.mesh.write("client.pem", &chain);
    let key = shop.mesh.write("client.key", &pem("PRIVATE KEY", svid.key().der().secret_der()));
    let output = Command::new("curl")
        // Whether the server is who it should be is not asked here: curl knows host names, not SPIFFE IDs.
        .args(["--silent", "--show-error", "--insecure", "--tlsv1.3", "--noproxy", "*", version])
        .args(["--write-out", "\n%{http_code} %{http_version}", "--data", "12 EUR", "--cert"])
        .arg(&chain)
        .arg("--key")
        .arg(&key)
        .arg(format!("https://{}{path}", shop.payments_inbound()))
        .output()
        .await
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

const VERSIONS: [(&str, &str); 2] = [("--http1.1", "1.1"), ("--http2", "2")];

#[tokio::test]
async fn curl_with_an_svid_is_served_over_tls_1_3_in_both_versions() {
    if !tools::has("curl") {
        return;
    }
    let shop = Shop::start_http(CaOptions::default(), web::app().await, "").await;
    for (option, version) in VERSIONS {
        let (_, answer) = curl(&shop, "orders", option, "/charge").await;
        let (body, facts) = answer.rsplit_once('\n').unwrap();
        assert_eq!(facts, format!("200 {version}"), "{answer}");
        let told: Value = serde_json::from_str(body).unwrap();
        let caller = told["headers"]["x-forwarded-client-cert"].as_str().unwrap();
        assert!(caller.ends_with("URI=spiffe://shop.example/orders"), "{caller}");
    }
}

#[tokio::test]
async fn curl_with_an_svid_that_may_do_something_else_gets_a_403_that_explains_itself() {
    if !tools::has("curl") {
        return;
    }
    let shop = Shop::start_http(CaOptions::default(), web::app().await, "").await;
    for (option, version) in VERSIONS {
        let (_, answer) = curl(&shop, "reports", option, "/charge").await;
        let (body, facts) = answer.rsplit_once('\n').unwrap();
        assert_eq!(facts, format!("403 {version}"), "{answer}");
        let problem: Value = serde_json::from_str(body).unwrap();
        assert_eq!(problem["caller"], "spiffe://shop.example/reports");
        assert!(problem["explain"].as_str().unwrap().ends_with("--call 'POST /charge'"), "{problem}");
    }
}

#[tokio::test]
async fn curl_with_an_svid_that_may_do_nothing_is_refused_in_the_handshake() {
    if !tools::has("curl") {
        return;
    }
    let shop = Shop::start_http(CaOptions::default(), web::app().await, "").await;
    for (option, _) in VERSIONS {
        let (succeeded, answer) = curl(&shop, "stranger", option, "/charge").await;
        assert!(!succeeded && answer.contains("access denied"), "{answer}");
    }
    shop.payments.program.line_with(&["refused", "spiffe://shop.example/stranger", "no rule matches"]).await;
}
