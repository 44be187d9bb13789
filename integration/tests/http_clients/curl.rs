//! curl, in every HTTP it speaks, sees through the pair what it would see without it.

use std::ffi::OsStr;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::PathBuf;

use postern_integration::CaOptions;
use postern_integration::shop::Shop;
use postern_integration::{tools, web};
use serde_json::Value;

/// What curl printed, and what it says of the transfer.
struct Curled {
    body: String,
    /// Status, version of HTTP, connections made, bytes sent.
    facts: Vec<String>,
}

impl Curled {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }
}

async fn curl<S: AsRef<OsStr> + Debug>(args: &[S]) -> Curled {
    const FACTS: &str = "\n%{http_code} %{http_version} %{num_connects} %{size_upload}";
    let output = tokio::process::Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "60", "--noproxy", "*", "--write-out", FACTS])
        .args(args)
        .output()
        .await
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    let (body, facts) = text.rsplit_once('\n').unwrap();
    Curled { body: body.to_owned(), facts: facts.split(' ').map(str::to_owned).collect() }
}

fn url(address: SocketAddr, path: &str) -> String {
    format!("http://{address}{path}")
}

async fn shop() -> Shop {
    Shop::start_http(CaOptions::default(), web::app().await, "").await
}

/// curl's option, and the version as it then tells it.
const VERSIONS: [(&str, &str); 3] =
    [("--http1.0", "1"), ("--http1.1", "1.1"), ("--http2-prior-knowledge", "2")];

#[tokio::test]
async fn an_allowed_call_is_answered_in_the_version_it_was_asked_in() {
    if !tools::has("curl") {
        return;
    }
    let shop = shop().await;
    for (option, version) in VERSIONS {
        let answer =
            curl(&[option, "--data", "12 EUR", &url(shop.orders_to_payments(), "/charge?x=1")]).await;
        assert_eq!(answer.facts[..2], ["200", version], "{option}");
        let told = answer.json();
        assert_eq!((&told["method"], &told["target"]), (&"POST".into(), &"/charge?x=1".into()), "{option}");
        assert_eq!(told["body_bytes"], 6, "{option}");
        let caller = told["headers"]["x-forwarded-client-cert"].as_str().unwrap();
        assert!(caller.ends_with("URI=spiffe://shop.example/orders"), "{option}: {caller}");
        assert_eq!(told["headers"]["host"], shop.orders_to_payments().to_string(), "{option}");
    }
}

#[tokio::test]
async fn a_refused_call_is_a_403_in_every_version() {
    if !tools::has("curl") {
        return;
    }
    let shop = shop().await;
    for (option, _) in VERSIONS {
        let answer = curl(&[option, "--data", "12 EUR", &url(shop.reports_to_payments(), "/charge")]).await;
        assert_eq!(answer.facts[0], "403", "{option}");
        assert_eq!(answer.json()["type"], "urn:postern:denied", "{option}");
        let head = curl(&[option, "--head", &url(shop.reports_to_payments(), "/charge")]).await;
        assert!(head.body.contains("application/problem+json"), "{option}: {:?}", head.body);
    }
}

#[tokio::test]
async fn answers_without_a_body_leave_the_connection_for_the_next_request() {
    if !tools::has("curl") {
        return;
    }
    let shop = shop().await;
    let at = |path| url(shop.orders_to_payments(), path);
    for (more, path, status) in [
        (&["--head"][..], "/charges/7", "200"),
        (&[], "/charges/status/204", "204"),
        (&[], "/charges/status/304", "304"),
        (&["--head"], "/charges/bytes/1000000", "200"),
    ] {
        let url = at(path);
        let twice = curl(&[&["--http1.1"], more, &[&url, &url]].concat()).await;
        assert_eq!((twice.facts[0].as_str(), twice.facts[2].as_str()), (status, "0"), "{path}");
        // curl before 8 does not use its HTTP/2 connection twice, with any server.
        let once = curl(&[&["--http2-prior-knowledge"], more, &[&url]].concat()).await;
        assert_eq!(once.facts[0], status, "{path}");
    }
}

#[tokio::test]
async fn head_tells_the_length_that_get_has() {
    if !tools::has("curl") {
        return;
    }
    let shop = shop().await;
    let url = url(shop.orders_to_payments(), "/charges/7");
    for (option, _) in &VERSIONS[1..] {
        let head = curl(&[option, "--head", &url]).await.body;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map(str::trim);
        let got = curl(&[*option, &url]).await.body;
        let longer_by_a_letter = got.replace("GET", "HEAD").len().to_string();
        assert_eq!(length, Some(longer_by_a_letter.as_str()), "{option}: {head}");
    }
}

#[tokio::test]
async fn an_upload_waits_for_100_continue_and_a_refused_one_sends_nothing() {
    if !tools::has("curl") {
        return;
    }
    let shop = shop().await;
    let file = upload(&shop, 3_000_000);
    let expecting = ["--http1.1", "--expect100-timeout", "50", "-H", "Expect: 100-continue"];
    let put = async |address, path| {
        let url = url(address, path);
        curl(&[&expecting[..], &["--upload-file", file.to_str().unwrap(), &url]].concat()).await
    };
    let answer = put(shop.orders_to_payments(), "/charges/digest").await;
    assert_eq!((answer.facts[0].as_str(), &answer.json()["bytes"]), ("200", &3_000_000.into()));
    for (address, path, status) in [
        (shop.reports_to_payments(), "/charges/digest", "403"),
        (shop.orders_to_payments(), "/charges/status/401", "401"),
    ] {
        let answer = put(address, path).await;
        assert_eq!((answer.facts[0].as_str(), answer.facts[3].as_str()), (status, "0"), "nothing was sent");
    }
}

fn upload(shop: &Shop, bytes: usize) -> PathBuf {
    let path = shop.mesh.path().join("upload");
    std::fs::write(&path, vec![7; bytes]).unwrap();
    path
}
