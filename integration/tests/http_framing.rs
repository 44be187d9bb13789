//! Whatever bytes a client sends, the app behind the pair reads requests that another parser, Node's llhttp, would have
//! read from these bytes in the same order, or fewer: nothing is smuggled past the sidecars.

use std::net::SocketAddr;
use std::time::Duration;

use postern_integration::tools::has;
use postern_integration::{CaOptions, Mesh, Program, SidecarSpec};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// `orders` may do anything, so that only framing stands in the way.
const POLICY: &str = r#"trust_domain = "shop.example"
[service.payments]
ports = { api = "http" }
[[service.payments.allow]]
from = ["orders"]
[service.orders]
"#;

/// What comes after each input; whoever reads it in the input's body instead shows that in the list of requests.
const LAST: &str = "GET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
/// An input that waits for more is left after this.
const PATIENCE: Duration = Duration::from_millis(500);

struct Oracle {
    address: SocketAddr,
    teller: SocketAddr,
    _program: Program,
}

impl Oracle {
    async fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/oracle/llhttp.mjs");
        let program = Program::start("llhttp", "node".as_ref(), [script]);
        let line = program.line_with(&["listening on"]).await;
        let mut words = line.split(' ');
        let address = words.nth(2).unwrap().parse().unwrap();
        let teller = words.nth(2).unwrap().parse().unwrap();
        Self { address, teller, _program: program }
    }

    /// Each whole request since the last time.
    async fn requests(&self) -> Vec<Request> {
        let mut told = String::new();
        TcpStream::connect(self.teller).await.unwrap().read_to_string(&mut told).await.unwrap();
        let told: Vec<Value> = serde_json::from_str(&told).unwrap();
        let word = |request: &Value, key: &str| request[key].as_str().unwrap().to_owned();
        // Absolute-form and origin-form are one target (RFC 9112 §3.2.2); behind us it is always origin-form.
        let target = |one: &Value| word(one, "url").trim_start_matches("http://a").to_owned();
        let request = |one: &Value| Request {
            line: [word(one, "method"), target(one)],
            fields: fields(one),
            body: word(one, "body"),
        };
        told.iter().map(request).collect()
    }
}

/// What the app acts on: not how its body was framed on this hop.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    line: [String; 2],
    /// Sorted, names in lower case.
    fields: Vec<[String; 2]>,
    body: String,
}

/// Fields that are of one hop, or set by the sidecar.
const NOT_COMPARED: [&str; 8] = [
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "x-forwarded-client-cert",
];

fn fields(request: &Value) -> Vec<[String; 2]> {
    let raw: Vec<_> =
        request["headers"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    let pairs = raw.chunks(2).map(|pair| [pair[0].to_lowercase(), pair[1].to_owned()]);
    let mut fields: Vec<_> = pairs.filter(|[name, _]| !NOT_COMPARED.contains(&name.as_str())).collect();
    fields.sort();
    fields
}

/// Sends all at once, and reads until the other side closes or waits for more.
async fn say(to: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    // A refusal may come before all is sent.
    let _refused = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _waits = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
}

#[tokio::test]
async fn the_app_reads_what_another_parser_reads_or_less() {
    if !has("node") {
        return;
    }
    let (behind, control) = (Oracle::start().await, Oracle::start().await);
    let mesh = Mesh::default();
    let ca = mesh.ca(CaOptions::default()).await;
    let policy = mesh.write("policy.toml", POLICY);
    let spec = |name| SidecarSpec::new(name).policy(&policy).http();
    let payments = mesh.sidecar(&ca, &spec("payments").inbound("api", behind.address));
    let orders = mesh.sidecar(&ca, &spec("orders").outbound("payments", payments.inbounds[0]));
    payments.ready().await;
    orders.ready().await;

    let (mut passed, mut wrong, count) = (0, Vec::new(), inputs().len());
    for input in inputs() {
        let bytes = [input.as_bytes(), LAST.as_bytes()].concat();
        let bytes: Vec<u8> = bytes.iter().map(|byte| if *byte == b'\x1f' { 0x80 } else { *byte }).collect();
        tokio::join!(say(orders.outbounds[0], &bytes), say(control.address, &bytes));
        let (read, expected) = (behind.requests().await, control.requests().await);
        passed += read.len();
        if !expected.starts_with(&read) {
            wrong.push(format!("{input:?}\n  behind the pair: {read:?}\n  llhttp: {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} inputs are read in two ways:\n{}", wrong.len(), wrong.join("\n"));
    println!("{passed} requests of {count} inputs passed");
    assert!(passed > 50, "only {passed} requests passed: the comparison says nothing");
}

/// The inputs: every framing with every body that could go with it. `\x1f` stands for the byte 0x80.
fn inputs() -> Vec<String> {
    let framings = [
        "",
        "content-length: 0\r\n",
        "content-length: 5\r\n",
        "Content-Length:5\r\n",
        "content-length: 5 \r\n",
        "content-length:\t5\r\n",
        "content-length: 05\r\n",
        "content-length: +5\r\n",
        "content-length: 5,5\r\n",
        "content-length: 5 , 5\r\n",
        "content-length: 5;5\r\n",
        "content-length: 0x5\r\n",
        "content-length: 5.0\r\n",
        "content-length: -5\r\n",
        "content-length: \r\n",
        "content-length: 18446744073709551616\r\n",
        "content-length: 5\r\ncontent-length: 5\r\n",
        "content-length: 5\r\ncontent-length: 6\r\n",
        "content-length : 5\r\n",
        " content-length: 5\r\n",
        "content-length: 5\r\n 5\r\n",
        "content_length: 5\r\n",
        "content-length\0: 5\r\n",
        "transfer-encoding: chunked\r\n",
        "Transfer-Encoding: Chunked\r\n",
        "transfer-encoding: chunked \r\n",
        "transfer-encoding:chunked\r\n",
        "transfer-encoding:\tchunked\r\n",
        "transfer-encoding: \x0bchunked\r\n",
        "transfer-encoding: chunked\x1f\r\n",
        "transfer-encoding: \"chunked\"\r\n",
        "transfer-encoding: chunked, identity\r\n",
        "transfer-encoding: identity, chunked\r\n",
        "transfer-encoding: identity\r\n",
        "transfer-encoding: xchunked\r\n",
        "transfer-encoding: chunked;q=1\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
        "transfer-encoding : chunked\r\n",
        "transfer_encoding: chunked\r\n",
        "transfer-encoding: chu\r\n nked\r\n",
        "x: y\rtransfer-encoding: chunked\r\n",
        "x: y\ntransfer-encoding: chunked\n",
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        "content-length: 5\r\ntransfer-encoding: identity\r\n",
        "connection: transfer-encoding\r\ntransfer-encoding: chunked\r\n",
        "connection: content-length\r\ncontent-length: 5\r\n",
        "te: chunked\r\ncontent-length: 5\r\n",
        "expect: 100-continue\r\ncontent-length: 5\r\n",
    ];
    let bodies = [
        "",
        "hello",
        "0\r\n\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        "5;ext=\"1\"\r\nhello\r\n0\r\nx: y\r\n\r\n",
        "0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n",
    ];
    let chunks = [
        "5 \r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "05\r\nhello\r\n00\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5\nhello\n0\n\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "5;\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "g\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nbad trailer\r\n\r\n",
        "0\r\n\n",
        "0\r\n\nGET /swallowed HTTP/1.1\r\nhost: a\r\ncontent-length: 58\r\n\r\n",
        "0\r\nx: y\n\r\n",
        "0\r\nx: y\r\n\n",
        "0\nx: y\r\n\r\n",
        "5\r\nhello\r\n0\r\n x: y\r\n\r\n",
    ];
    let heads = [
        "GET / HTTP/1.1\nhost: a\n\n",
        "\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
        "\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET  / HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET\t/ HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.1 \r\nhost: a\r\n\r\n",
        "GET / http/1.1\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.2\r\nhost: a\r\n\r\n",
        "GET / HTTP/01.1\r\nhost: a\r\n\r\n",
        "GET / HTTP/2.0\r\nhost: a\r\n\r\n",
        "GET /\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\n: b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nno colon\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx\x1f: b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: \x1f\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\rx: b\r\n\r\n",
        "GET / HTTP/1.1\r\n host: a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\n\tx: b\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nhost: a\r\n\r\n",
        "HEAD / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello",
        "GET / HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n",
        "POST / HTTP/1.0\r\nhost: a\r\n\r\nhello",
        "GET / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\nconnection: keep-alive\r\n\r\n0\r\n\r\n",
    ];
    let post = |framing: &str, body: &str| format!("POST /one HTTP/1.1\r\nhost: a\r\n{framing}\r\n{body}");
    let framed = framings.iter().flat_map(|framing| bodies.iter().map(|body| post(framing, body)));
    let chunked = chunks.iter().map(|body| post("transfer-encoding: chunked\r\n", body));
    framed.chain(chunked).chain(heads.iter().map(|head| (*head).to_owned())).collect()
}
