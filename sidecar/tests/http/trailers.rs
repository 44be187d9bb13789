//! What concerns one hop goes no further in trailers either (RFC 9110 §7.6.1), whichever version each side speaks.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use postern_sidecar::config::AppHttp;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::apps::App;
use crate::live::Live;

/// What concerns one hop and may be in a message of HTTP/2.
const HOP: [(&str, &str); 4] = [
    ("te", "trailers"),
    ("http2-settings", "AAMAAABk"),
    ("proxy-authenticate", "Basic"),
    ("proxy-authorization", "Basic eDp5"),
];
/// What may be in one of HTTP/1 only (RFC 9113 §8.2.2), the last nominated by the first.
const HOP_OF_HTTP1: [(&str, &str); 6] = [
    ("connection", "x-hop"),
    ("keep-alive", "timeout=5"),
    ("proxy-connection", "keep-alive"),
    ("transfer-encoding", "chunked"),
    ("upgrade", "websocket"),
    ("x-hop", "1"),
];
const STAYS: (&str, &str) = ("x-sum", "4");

type Fields = Vec<(String, String)>;

/// A chunked body with these trailers, all of them announced, behind this head.
fn chunked(head: &str) -> String {
    let all = || HOP.iter().chain(&HOP_OF_HTTP1).chain([&STAYS]);
    let names: Vec<_> = all().map(|(name, _)| *name).collect();
    let trailers: String = all().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let announced = names.join(", ");
    format!(
        "{head}\r\ntrailer: {announced}\r\ntransfer-encoding: chunked\r\n\r\n4\r\nword\r\n0\r\n{trailers}\r\n"
    )
}

/// Reads a message to the end of its trailers, and returns these.
async fn read_chunked(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Fields> {
    let mut read = Vec::new();
    let text = loop {
        read.push(stream.read_u8().await?);
        let text = String::from_utf8_lossy(&read);
        if text.ends_with("\r\n\r\n") && text.contains("word\r\n0\r\n") {
            break text.into_owned();
        }
    };
    let trailers = text.rsplit_once("word\r\n0\r\n").unwrap().1;
    let fields = trailers.lines().filter_map(|line| line.split_once(": "));
    Ok(fields.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect())
}

fn of_http2() -> HeaderMap {
    let field = |(name, value): &(&'static str, &'static str)| {
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    };
    HOP.iter().chain([&STAYS]).map(field).collect()
}

/// A message of HTTP/1.1 has no others.
fn announced() -> String {
    of_http2().keys().map(HeaderName::as_str).collect::<Vec<_>>().join(", ")
}

/// Reads a body to its end, and returns its trailers.
async fn read_frames(body: &mut h2::RecvStream) -> Fields {
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data.unwrap().len()).unwrap();
    }
    let trailers = body.trailers().await.unwrap().unwrap_or_default();
    trailers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect()
}

/// An app that answers with trailers, and reports those of each request.
async fn app(http: AppHttp, report: mpsc::Sender<Fields>) -> App {
    App::serve(move |mut stream: TcpStream| {
        let report = report.clone();
        async move {
            if http == AppHttp::Http1 {
                while let Ok(trailers) = read_chunked(&mut stream).await {
                    report.send(trailers).await.unwrap();
                    stream.write_all(chunked("HTTP/1.1 200 OK").as_bytes()).await?;
                }
                return Ok(());
            }
            let mut connection = h2::server::handshake(stream).await.map_err(std::io::Error::other)?;
            while let Some(accepted) = connection.accept().await {
                let (request, mut respond) = accepted.map_err(std::io::Error::other)?;
                let report = report.clone();
                tokio::spawn(async move {
                    report.send(read_frames(&mut request.into_body()).await).await.unwrap();
                    let response = Response::builder().header("trailer", announced());
                    let mut body = respond.send_response(response.body(()).unwrap(), false).unwrap();
                    body.send_data(Bytes::from_static(b"word"), false).unwrap();
                    body.send_trailers(of_http2()).unwrap();
                });
            }
            Ok(())
        }
    })
    .await
}

/// Sends a request with trailers over HTTP/1.1, and returns those of its answer.
async fn ask_http1(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Fields {
    let request = chunked("POST /charge HTTP/1.1\r\nhost: payments\r\nte: trailers\r\nconnection: te");
    stream.write_all(request.as_bytes()).await.unwrap();
    read_chunked(&mut stream).await.unwrap()
}

/// The same over HTTP/2.
async fn ask_http2(stream: impl AsyncRead + AsyncWrite + Unpin) -> Fields {
    let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
    let asked = async {
        let request = Request::post("http://payments/charge").header("te", "trailers");
        let request = request.header("trailer", announced()).body(()).unwrap();
        let (response, mut body) = send.send_request(request, false).unwrap();
        body.send_data(Bytes::from_static(b"word"), false).unwrap();
        body.send_trailers(of_http2()).unwrap();
        read_frames(&mut response.await.unwrap().into_body()).await
    };
    tokio::select! {
        biased;
        trailers = asked => trailers,
        ended = connection => panic!("{ended:?}"),
    }
}

#[tokio::test]
async fn what_concerns_one_hop_stays_there_in_trailers_of_requests_and_answers() {
    for http in [AppHttp::Http1, AppHttp::Http2] {
        let (report, mut reported) = mpsc::channel(4);
        let live = Live::with_payments(app(http, report).await, |payments| payments.app_http = http).await;
        let through = async || TcpStream::connect(live.orders.outbound.unwrap()).await.unwrap();
        let answered = [
            ("HTTP/1.1 through both", ask_http1(through().await).await),
            ("HTTP/2 through both", ask_http2(through().await).await),
            ("HTTP/1.1 at the inbound", ask_http1(live.direct("orders", b"http/1.1").await).await),
            ("HTTP/2 at the inbound", ask_http2(live.direct("orders", b"h2").await).await),
        ];
        let stays = [(STAYS.0.to_owned(), STAYS.1.to_owned())];
        for (way, answered) in answered {
            assert_eq!(reported.recv().await.unwrap(), stays, "of the request: {way}, the app {http:?}");
            assert_eq!(answered, stays, "of the answer: {way}, the app {http:?}");
        }
    }
}
