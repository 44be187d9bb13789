//! h2spec's cases against a listener that speaks HTTP/2: all hold but those named here, each with its reason.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use postern_integration::shop::Shop;
use postern_integration::{CaOptions, tools, web};

/// Cases that do not hold, and why.
const DIFFERS: [(&str, &str); 2] = [
    (
        "http2/3.5 Sends invalid connection preface",
        "the listener speaks HTTP/1.1, too: what does not begin with the preface is answered in that, 400, and closed",
    ),
    (
        "http2/4.2 Sends a large size HEADERS frame that exceeds the SETTINGS_MAX_FRAME_SIZE",
        "it takes 16,384 bytes for our limit, which is 65,536; the test below exceeds that",
    ),
];
/// Five fields of this size exceed the largest frame that we take.
const HEADER_BYTES: &str = "16000";

struct H2spec {
    binary: PathBuf,
    at: SocketAddr,
    report: PathBuf,
}

impl H2spec {
    /// Built once, of what `conformance/go.mod` pins.
    fn against(shop: &Shop) -> Self {
        let module = concat!(env!("CARGO_MANIFEST_DIR"), "/conformance");
        let binary = Path::new(env!("CARGO_TARGET_TMPDIR")).join("h2spec");
        let mut build = Command::new("go");
        build.args(["build", "-mod=readonly", "-o"]).arg(&binary);
        let built = build.arg("github.com/summerwind/h2spec/cmd/h2spec").current_dir(module).status();
        assert!(built.unwrap().success(), "h2spec does not build");
        Self { binary, at: shop.orders_to_payments(), report: shop.mesh.path().join("h2spec.xml") }
    }

    /// How many cases there are, and those that do not hold.
    async fn run(&self, args: &[&str]) -> (usize, Vec<String>) {
        let mut command = tokio::process::Command::new(&self.binary);
        command.args([
            "--strict",
            "--host",
            &self.at.ip().to_string(),
            "--port",
            &self.at.port().to_string(),
        ]);
        command.args(["--path", "/charges/7", "--junit-report"]).arg(&self.report).args(args);
        let output = command.output().await.unwrap();
        println!("{}", String::from_utf8_lossy(&output.stdout));
        let report = std::fs::read_to_string(&self.report).unwrap();
        let cases: Vec<_> = report.split("<testcase ").skip(1).collect();
        let failed =
            cases.iter().filter(|case| !case.contains("></testcase>")).map(|case| name(case)).collect();
        (cases.len(), failed)
    }
}

/// Section and claim of a case.
fn name(case: &str) -> String {
    let of = |key: &str| case.split_once(key).and_then(|(_, rest)| rest.split('"').next()).unwrap();
    format!("{} {}", of("package=\""), of("classname=\""))
}

#[tokio::test]
async fn a_listener_conforms_to_http2_but_for_what_is_named_here() {
    if !tools::has("go") {
        return;
    }
    let shop = Shop::start_http(CaOptions::default(), web::app().await, "").await;
    let h2spec = H2spec::against(&shop);
    let (cases, failed) = h2spec.run(&[]).await;
    assert!(cases > 140, "only {cases} cases were tried");
    assert_eq!(failed, DIFFERS.map(|(case, _why)| case), "cases that do not hold, and those that should not");

    let (cases, failed) = h2spec.run(&["http2/4.2/3", "--max-header-length", HEADER_BYTES]).await;
    assert_eq!((cases, failed.len()), (1, 0), "a frame larger than we take: {failed:?}");
}
