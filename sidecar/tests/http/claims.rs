//! What a peer says of its own identity reaches the app in no spelling, place or version: only the handshake says it.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::apps::App;
use crate::live::Live;
use crate::shop::seen;

/// Names that some backend takes for one of ours, and what is claimed under them.
const CLAIMS: [(&str, &str); 16] = [
    ("x-forwarded-client-cert", "URI=spiffe://shop.example/forged"),
    ("X-Forwarded-Client-Cert", "URI=spiffe://shop.example/forged"),
    ("X-FORWARDED-CLIENT-CERT", "By=a;Hash=b;URI=spiffe://shop.example/forged"),
    ("x_forwarded_client_cert", "forged"),
    ("X_Forwarded-Client_Cert", "forged"),
    ("x.forwarded.client.cert", "forged"),
    ("client-cert", ":forged:"),
    ("Client-Cert", ":forged:"),
    ("client_cert", ":forged:"),
    ("CLIENT.CERT", ":forged:"),
    ("client-cert-chain", ":forged:"),
    ("Client_Cert_Chain", ":forged:"),
    ("forwarded", "for=\"spiffe://shop.example/forged\""),
    ("Forwarded", "by=spiffe%3A%2F%2Fshop.example%2Fforged;for=192.0.2.1"),
    ("FORWARDED", "for=192.0.2.1;x-identity=\"spiffe:\\/\\/shop.example/forged\""),
    ("forwarded", "for=\"a/forged\""),
];

/// The end of a chunked body whose trailers have this field alone.
const SUM: &[u8] = b"\r\n0\r\nx-sum: 4\r\n\r\n";

/// Answers with the very bytes of each request, its trailers included.
async fn mirror() -> App {
    App::serve(async |mut stream: TcpStream| {
        loop {
            let mut read = Vec::new();
            let ended = |read: &[u8]| {
                let text = String::from_utf8_lossy(read).to_ascii_lowercase();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
                let chunked = head.contains("transfer-encoding: chunked");
                !chunked
                    || (body.starts_with("0\r\n") || body.contains("\r\n0\r\n")) && body.ends_with("\r\n\r\n")
            };
            while !ended(&read) {
                read.push(stream.read_u8().await?);
            }
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", read.len());
            stream.write_all(&[head.as_bytes(), &read].concat()).await?;
        }
    })
    .await
}

/// What the app read: one claim, which is ours, and nothing of a forged one.
fn only_ours(what: &str, read: &[u8]) {
    let read = String::from_utf8_lossy(read).to_ascii_lowercase();
    assert!(read.starts_with("post /charge http/1.1\r\n"), "{what}: {read}");
    assert!(!read.contains("forged"), "{what}: {read}");
    let ours = read
        .lines()
        .filter(|line| line.starts_with("x-forwarded-client-cert: by=spiffe://shop.example/payments;"));
    assert_eq!(ours.count(), 1, "{what}: {read}");
    assert!(read.contains(";uri=spiffe://shop.example/orders\r\n"), "{what}: {read}");
}

/// Directly at the inbound, over HTTP/1.1.
async fn http1(live: &Live, request: &str) -> Vec<u8> {
    let mut stream = live.direct("orders", b"http/1.1").await;
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = seen(&answer);
    assert_eq!(answer.status(), 200, "{answer:?}");
    answer.body
}

fn fields(claims: &[(&str, &str)]) -> HeaderMap {
    claims
        .iter()
        .map(|(name, value)| {
            (HeaderName::try_from(name.to_lowercase()).unwrap(), HeaderValue::from_str(value).unwrap())
        })
        .collect()
}

#[tokio::test]
async fn no_claim_in_a_header_of_http_1_reaches_the_app() {
    let live = Live::with(mirror().await).await;
    for (name, value) in CLAIMS {
        for nominated in ["close", &format!("close, {name}"), "close, x-forwarded-client-cert"] {
            let head = format!(
                "host: payments\r\nconnection: {nominated}\r\ncontent-length: 0\r\n{name}: {value}\r\n"
            );
            let read = http1(&live, &format!("POST /charge HTTP/1.1\r\n{head}\r\n")).await;
            only_ours(&format!("{name}: {value}, nominated {nominated}"), &read);
        }
    }
}

#[tokio::test]
async fn no_claim_in_a_trailer_of_http_1_reaches_the_app() {
    let live = Live::with(mirror().await).await;
    for (name, value) in CLAIMS {
        let head = format!(
            "host: payments\r\nconnection: close\r\ntrailer: {name}, x-sum\r\ntransfer-encoding: chunked\r\n"
        );
        let body = format!("4\r\nword\r\n0\r\n{name}: {value}\r\nx-sum: 4\r\n\r\n");
        let read = http1(&live, &format!("POST /charge HTTP/1.1\r\n{head}\r\n{body}")).await;
        only_ours(&format!("the trailer {name}: {value}"), &read);
        assert!(read.ends_with(SUM), "what claims nothing stays");
    }
}

#[tokio::test]
async fn no_claim_over_http_2_reaches_the_app_in_headers_or_trailers() {
    let live = Live::with(mirror().await).await;
    let stream = TokioIo::new(live.direct("orders", b"h2").await);
    let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (mut sender, connection) = builder.handshake(stream).await.unwrap();
    let asking = async {
        for claim in CLAIMS {
            let body = Full::new(Bytes::new()).boxed();
            let mut in_headers = Request::post("http://payments/charge").body(body).unwrap();
            in_headers.headers_mut().extend(fields(&[claim]));
            let frames =
                [Frame::data(Bytes::from("word")), Frame::trailers(fields(&[claim, ("x-sum", "4")]))];
            let body = StreamBody::new(tokio_stream::iter(frames.map(Ok))).boxed();
            let announced = format!("{}, x-sum", claim.0);
            let request = Request::post("http://payments/charge").header("trailer", announced);
            let in_trailers = request.body(body).unwrap();
            for (place, request) in [("header", in_headers), ("trailer", in_trailers)] {
                let response = sender.send_request(request).await.unwrap();
                assert_eq!(response.status(), 200);
                let read = response.into_body().collect().await.unwrap().to_bytes();
                only_ours(&format!("{place} {claim:?}"), &read);
                assert_eq!(place == "trailer", read.ends_with(SUM), "what claims nothing stays");
            }
        }
    };
    tokio::select! {
        () = asking => {}
        ended = connection => panic!("the connection ended: {ended:?}"),
    }
}

#[tokio::test]
async fn forwarded_addresses_and_the_trace_stay() {
    let live = Live::with(mirror().await).await;
    let trace = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let forwarded = "forwarded: for=192.0.2.43;proto=https";
    let head = "POST /charge HTTP/1.1\r\nhost: payments\r\nconnection: close\r\ncontent-length: 0";
    let read = http1(&live, &format!("{head}\r\n{forwarded}\r\n{trace}\r\n\r\n")).await;
    let read = String::from_utf8(read).unwrap().to_ascii_lowercase();
    assert!(read.contains(forwarded) && read.contains(trace), "{read}");
}
