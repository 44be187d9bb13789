//! What Prometheus reads of a real sidecar is what docs/METRICS.md says, and counts what happened.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use postern_integration::shop::{HTTP_POLICY_WITHOUT_ORDERS, POLICY_NOBODY, Shop};
use postern_integration::{CaOptions, Sidecar, eventually, tools, web};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// A metric as its document, or its exposition, describes it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Family {
    kind: String,
    labels: BTreeSet<String>,
}

async fn get(at: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nhost: payments\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split(' ').nth(1).unwrap().to_owned()
}

async fn echo(stream: &mut TcpStream) {
    stream.write_all(b"hello").await.unwrap();
    stream.read_exact(&mut [0; 5]).await.unwrap();
}

async fn text(sidecar: &Sidecar) -> String {
    sidecar.get("/metrics").await.unwrap().1
}

/// Of two meshes, `tcp` and `http`, after each kind of thing has happened.
async fn expositions() -> Vec<String> {
    let tcp = Shop::start(CaOptions::default()).await;
    let mut open = TcpStream::connect(tcp.orders_to_payments()).await.unwrap();
    echo(&mut open).await;
    let mut refused = TcpStream::connect(tcp.reports_to_payments()).await.unwrap();
    let _refused = refused.read(&mut [0; 1]).await;
    tcp.apply(POLICY_NOBODY).await;
    let _cut = open.read(&mut [0; 1]).await;
    let http = Shop::start_http(CaOptions::default(), web::app().await, "").await;
    assert_eq!(get(http.orders_to_payments(), "/charges/status/200").await, "200");
    http.apply(HTTP_POLICY_WITHOUT_ORDERS).await;
    assert_eq!(get(http.orders_to_payments(), "/charges/status/200").await, "403");
    let sidecars = [&tcp.payments, &tcp.orders, &http.payments, &http.orders];
    let terminated = async || tcp.payments.metric("postern_connections_terminated_total", &["denied"]).await;
    eventually("the cut is counted", async || (terminated().await > 0.0).then_some(())).await;
    let mut all = Vec::new();
    for sidecar in sidecars {
        all.push(text(sidecar).await);
    }
    all
}

fn exposed(text: &str, all: &mut BTreeMap<String, Family>) {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    for (name, kind) in types {
        let (suffix, of_samples) = match kind {
            "counter" => ("_total", "_total"),
            "info" => ("_info", "_info"),
            "histogram" => ("", "_count"),
            _ => ("", ""),
        };
        let sample = format!("{name}{of_samples}");
        let samples = text.lines().filter_map(|line| line.strip_prefix(&sample));
        let labels =
            samples.filter_map(|rest| rest.strip_prefix('{')?.split_once('}')).flat_map(|(set, _)| {
                set.split("\",")
                    .filter_map(|label| Some(label.split_once('=')?.0.to_owned()))
                    .collect::<Vec<_>>()
            });
        let family = Family { kind: kind.to_owned(), labels: labels.collect() };
        let known = all
            .entry(format!("{name}{suffix}"))
            .or_insert_with(|| Family { kind: family.kind.clone(), labels: BTreeSet::new() });
        assert_eq!(known.kind, family.kind, "{name}");
        known.labels.extend(family.labels);
    }
}

fn documented() -> BTreeMap<String, Family> {
    let text = std::fs::read_to_string(Path::new(ROOT).join("docs/METRICS.md")).unwrap();
    let row = |line: &str| {
        let cells: Vec<_> = line.strip_prefix("| `")?.split('|').map(str::trim).collect();
        let names = cells.get(2)?.split(',').map(|label| label.trim().trim_matches('`').to_owned());
        let labels = names.filter(|label| !label.is_empty()).collect();
        Some((cells[0].trim_matches('`').to_owned(), Family { kind: cells[1].to_owned(), labels }))
    };
    text.lines().filter_map(row).collect()
}

/// Prometheus's own reader in Python, which is strict about OpenMetrics.
fn strictly_read(text: &str) {
    let python = Path::new(ROOT).join("target/prometheus/bin/python");
    if !tools::has_file(&python) {
        return;
    }
    let program = "import sys; from prometheus_client.openmetrics.parser import text_string_to_metric_families as read\n\
                   print(sum(len(family.samples) for family in read(sys.stdin.read())))";
    let mut reader = Command::new(python)
        .args(["-c", program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    reader.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = reader.wait_with_output().unwrap();
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn every_metric_is_in_its_document_with_type_and_labels_and_no_other() {
    let expositions = expositions().await;
    let mut found = BTreeMap::new();
    for text in &expositions {
        strictly_read(text);
        exposed(text, &mut found);
    }
    let documented = documented();
    for (name, family) in &found {
        assert_eq!(Some(family), documented.get(name), "{name} as it is, and as it is documented");
    }
    for name in documented.keys() {
        assert!(found.contains_key(name), "{name} is documented, and not there");
    }
}

#[tokio::test]
async fn bytes_are_counted_while_a_connection_is_open_and_each_connection_once() {
    let shop = Shop::start(CaOptions::default()).await;
    let mut open = TcpStream::connect(shop.orders_to_payments()).await.unwrap();
    echo(&mut open).await;
    let peers = ["peer=\"spiffe://shop.example/orders\"", "peer=\"spiffe://shop.example/payments\""];
    for (sidecar, peer) in [&shop.payments, &shop.orders].into_iter().zip(peers) {
        for flow in ["flow=\"to_app\"", "flow=\"to_peer\""] {
            let carried = sidecar.metric("postern_bytes_total", &[peer, flow]).await;
            assert_eq!(carried, 5.0, "{}: {flow}", sidecar.name);
        }
        assert_eq!(sidecar.metric("postern_connections_total", &[]).await, 1.0, "{}", sidecar.name);
    }
    echo(&mut open).await;
    let carried = shop.payments.metric("postern_bytes_total", &["flow=\"to_app\""]).await;
    assert_eq!(carried, 10.0);
    // The next connection of the app rides the same tunnel.
    drop(open);
    eventually("the tunnel is idle", async || {
        (shop.orders.metric("postern_tunnels_idle", &[]).await == 1.0).then_some(())
    })
    .await;
    let mut second = TcpStream::connect(shop.orders_to_payments()).await.unwrap();
    echo(&mut second).await;
    for sidecar in [&shop.payments, &shop.orders] {
        assert_eq!(sidecar.metric("postern_connections_total", &[]).await, 2.0, "{}", sidecar.name);
        assert_eq!(sidecar.metric("postern_connections_total", &["peer=\"unknown\""]).await, 0.0);
    }
    // Who shows no identity is counted apart.
    for _ in 0..3 {
        let mut stranger = TcpStream::connect(shop.payments_inbound()).await.unwrap();
        stranger.write_all(b"SSH-2.0-stranger\r\n").await.unwrap();
        let _refused = stranger.read_to_end(&mut Vec::new()).await;
    }
    eventually("strangers", async || {
        let strangers = shop.payments.metric("postern_unidentified_connections_total", &["api"]).await;
        (strangers == 3.0).then_some(())
    })
    .await;
    assert_eq!(shop.payments.metric("postern_connections_total", &[]).await, 2.0);
}

#[tokio::test]
async fn requests_are_counted_by_peer_method_and_status_at_both_sides() {
    let shop = Shop::start_http(CaOptions::default(), web::app().await, "").await;
    for (path, status) in [("/charges/status/204", "204"), ("/charges/status/503", "503"), ("/other", "403")]
    {
        assert_eq!(get(shop.orders_to_payments(), path).await, status);
    }
    let sides = [
        (&shop.payments, "peer=\"spiffe://shop.example/orders\"", "direction=\"inbound\""),
        (&shop.orders, "peer=\"spiffe://shop.example/payments\"", "direction=\"outbound\""),
    ];
    for (sidecar, peer, direction) in sides {
        for class in ["2xx", "4xx", "5xx"] {
            let labels = [peer, direction, "service=\"payments\"", "http_request_method=\"GET\"", class];
            eventually(&format!("{}: {labels:?}", sidecar.name), async || {
                (sidecar.metric("postern_http_requests_total", &labels).await == 1.0).then_some(())
            })
            .await;
        }
        let whole = "postern_http_request_duration_seconds_count";
        let own = "postern_http_request_sidecar_duration_seconds";
        assert_eq!(sidecar.metric(whole, &[direction]).await, 3.0);
        assert_eq!(sidecar.metric(&format!("{own}_count"), &[direction]).await, 3.0);
        let sum = sidecar.metric("postern_http_request_duration_seconds_sum", &[]).await;
        assert!(sidecar.metric(&format!("{own}_sum"), &[]).await <= sum);
        assert_eq!(sidecar.metric("postern_http_active_requests", &[]).await, 0.0);
    }
}
