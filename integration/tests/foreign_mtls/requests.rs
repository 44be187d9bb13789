//! What must hold of HTTP requests to the web app of `payments`, whatever stands before it.

use std::net::SocketAddr;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::traffic::within;

const LARGE: usize = 10 * 1024 * 1024;

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// One request over HTTP/1.1 with a body of so many zeros.
pub(crate) async fn ask(address: SocketAddr, method: &str, path: &str, body: usize) -> Answer {
    let body = Full::new(Bytes::from(vec![0; body]));
    let request = Request::builder().method(method).uri(path).header("host", "payments").body(body).unwrap();
    let asked = async {
        let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
        let (mut sender, connection) = http1::handshake(stream).await.unwrap();
        // It ends with its sender.
        tokio::spawn(connection);
        let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
        Answer { status: parts.status.as_u16(), body: body.collect().await.unwrap().to_bytes() }
    };
    within("an answer", asked).await
}

/// Calls with bodies small and large, there and back; what the app was told of the first.
pub(crate) async fn are_answered(address: SocketAddr) -> Value {
    let told = ask(address, "POST", "/charge?x=1", 6).await;
    assert_eq!(told.status, 200, "{told:?}");
    let told = told.json();
    assert_eq!((&told["method"], &told["body_bytes"]), (&"POST".into(), &6.into()), "{told}");
    assert!(told["target"].as_str().unwrap().ends_with("/charge?x=1"), "{told}");
    let digest = ask(address, "POST", "/charges/digest", LARGE).await;
    assert_eq!((digest.status, &digest.json()["bytes"]), (200, &LARGE.into()));
    let large = ask(address, "GET", &format!("/charges/bytes/{LARGE}"), 0).await;
    assert_eq!((large.status, large.body.len()), (200, LARGE));
    assert_eq!(ask(address, "GET", "/charges/status/404", 0).await.status, 404);
    told
}
