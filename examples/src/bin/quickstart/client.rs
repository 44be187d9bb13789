//! Plain HTTP/1.1 requests: what an app, an operator's curl and the load have in common.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// For one request with its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// One connection, good for many requests.
#[derive(Debug)]
pub(crate) struct Connection {
    address: SocketAddr,
    sender: SendRequest<Empty<Bytes>>,
    /// Moves the bytes; ends with us.
    _driver: JoinSet<Result<(), hyper::Error>>,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        Ok(Self { address, sender, _driver: driver })
    }

    pub(crate) async fn get(&mut self, path: &str) -> io::Result<(StatusCode, String)> {
        self.request(&Method::GET, path).await
    }

    pub(crate) async fn request(&mut self, method: &Method, path: &str) -> io::Result<(StatusCode, String)> {
        let answered = tokio::time::timeout(REQUEST_TIMEOUT, self.ask(method, path)).await;
        answered.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))?
    }

    async fn ask(&mut self, method: &Method, path: &str) -> io::Result<(StatusCode, String)> {
        let answer = self.send(method, path).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(io::Error::other)?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    /// An answer whose body is still to come, for as long as this connection is there.
    pub(crate) async fn send(&mut self, method: &Method, path: &str) -> io::Result<Response<Incoming>> {
        let host = self.address.to_string();
        let request = Request::builder().method(method).uri(path).header(header::HOST, host);
        let request = request.body(Empty::new()).map_err(io::Error::other)?;
        self.sender.send_request(request).await.map_err(innermost)
    }
}

/// hyper says "connection error" and keeps the reason underneath.
pub(crate) fn innermost(error: hyper::Error) -> io::Error {
    let cause = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<io::Error>());
    match cause {
        Some(cause) => io::Error::new(cause.kind(), cause.to_string()),
        None => io::Error::other(error),
    }
}

/// One request on a connection of its own.
pub(crate) async fn request(
    address: SocketAddr,
    method: &Method,
    path: &str,
) -> io::Result<(StatusCode, String)> {
    Connection::open(address).await?.request(method, path).await
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> io::Result<(StatusCode, String)> {
    request(address, &Method::GET, path).await
}
