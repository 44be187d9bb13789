//! A web service that tells what it was asked, and takes and gives bodies of any size.

use std::convert::Infallible;
use std::io;

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use ring::digest::{Context, SHA256};
use serde_json::json;

use crate::apps::App;

/// Speaks HTTP/1.1 and HTTP/2. Below `/charges/`: `digest` tells of a body, `echo` returns it, `bytes/N` sends so
/// many, `status/N` answers with that status; everything else tells what it was asked.
pub async fn app() -> App {
    App::serve(|stream| async move {
        let builder = auto::Builder::new(TokioExecutor::new());
        let served = builder.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
        served.map_err(io::Error::other)
    })
    .await
}

type Body = BoxBody<Bytes, hyper::Error>;

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    let path = request.uri().path().to_owned();
    let words: Vec<_> = path.split('/').skip(2).collect();
    Ok(match *words {
        ["digest"] => digest(request).await?,
        ["echo"] => Response::new(request.into_body().boxed()),
        ["bytes", count] => Response::new(zeros(count.parse().unwrap())),
        ["status", status] => with_status(status.parse().unwrap()),
        _ => tell(request).await?,
    })
}

async fn digest(request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    let (mut body, mut sum, mut bytes) = (request.into_body(), Context::new(&SHA256), 0);
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            bytes += data.len();
            sum.update(&data);
        }
    }
    Ok(told(&json!({ "bytes": bytes, "sha256": format!("{:?}", sum.finish()) })))
}

async fn tell(request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let header = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let headers: std::collections::BTreeMap<_, _> = parts.headers.iter().map(header).collect();
    Ok(told(&json!({
        "method": parts.method.as_str(),
        "target": parts.uri.to_string(),
        "version": format!("{:?}", parts.version),
        "headers": headers,
        "body_bytes": body.len(),
    })))
}

fn told(what: &serde_json::Value) -> Response<Body> {
    Response::new(whole(what.to_string()))
}

fn with_status(status: u16) -> Response<Body> {
    let mut response = Response::new(whole(String::new()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response.headers_mut().insert("etag", http::HeaderValue::from_static("\"7\""));
    response
}

/// So many zeros, piece by piece as they are taken.
fn zeros(count: usize) -> Body {
    const PIECE: Bytes = Bytes::from_static(&[0; 16 * 1024]);
    let pieces = stream::unfold(count, |left| async move {
        let piece = PIECE.slice(..left.min(PIECE.len()));
        (left > 0).then(|| (Ok(Frame::data(piece.clone())), left - piece.len()))
    });
    StreamBody::new(pieces).boxed()
}

fn whole(text: String) -> Body {
    Full::from(text).map_err(|never: Infallible| match never {}).boxed()
}
