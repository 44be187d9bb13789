//! Steady traffic that counts what went wrong.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Clients that send requests to an echo service, or to [`crate::web`], until told to stop.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    clients: JoinSet<Vec<String>>,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    pub served: u64,
    pub failures: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// One connection for each request.
    FreshConnections,
    /// One connection for all requests of a client.
    KeptConnections,
    /// A `GET` on a connection of its own.
    FreshHttp1,
    /// All on one connection, as long as that is kept.
    KeptHttp1,
    /// The same over HTTP/2.
    KeptHttp2,
}

#[derive(Debug)]
enum Connection {
    Echo(TcpStream),
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

impl Load {
    /// Starts `clients` of one style against `address`.
    pub fn start(address: SocketAddr, style: Style, clients: usize) -> Self {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut tasks = JoinSet::new();
        for _ in 0..clients {
            tasks.spawn(client(address, style, stop.clone(), served.clone()));
        }
        Self { stop, served, clients: tasks }
    }

    /// Requests answered so far.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Lets every client finish its request, and reports.
    pub async fn stop(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let failures = self.clients.join_all().await.concat();
        Outcome { served: self.served.load(Ordering::Relaxed), failures }
    }
}

async fn client(
    address: SocketAddr,
    style: Style,
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
) -> Vec<String> {
    let mut failures = Vec::new();
    let mut connection = None;
    while !stop.load(Ordering::Relaxed) && failures.len() < 10 {
        match request(address, style, &mut connection).await {
            Ok(()) => {
                served.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                failures.push(format!("{style:?}: {error:#}"));
                connection = None;
            }
        }
        if matches!(style, Style::FreshConnections | Style::FreshHttp1) {
            connection = None;
        }
        // A breath between requests leaves the machine to the programs under test.
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    failures
}

async fn request(address: SocketAddr, style: Style, kept: &mut Option<Connection>) -> anyhow::Result<()> {
    let over = match kept {
        Some(Connection::Http1(sender)) => sender.is_closed(),
        Some(Connection::Http2(sender)) => sender.is_closed(),
        Some(Connection::Echo(_)) | None => false,
    };
    let connection = match kept.take().filter(|_| !over) {
        Some(connection) => kept.insert(connection),
        None => kept.insert(connect(address, style).await?),
    };
    let get = Request::get("http://payments/charges/7").header("host", "payments").body(Empty::new())?;
    let response = match connection {
        Connection::Echo(stream) => return echo(stream).await,
        Connection::Http1(sender) => {
            sender.ready().await?;
            sender.send_request(get).await?
        }
        Connection::Http2(sender) => sender.send_request(get).await?,
    };
    let (status, body) = (response.status(), response.into_body().collect().await?.to_bytes());
    anyhow::ensure!(status == 200, "{status}: {}", String::from_utf8_lossy(&body));
    Ok(())
}

async fn connect(address: SocketAddr, style: Style) -> anyhow::Result<Connection> {
    let stream = TcpStream::connect(address).await?;
    Ok(match style {
        Style::FreshConnections | Style::KeptConnections => Connection::Echo(stream),
        Style::FreshHttp1 | Style::KeptHttp1 => {
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            Connection::Http1(sender)
        }
        Style::KeptHttp2 => {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            Connection::Http2(sender)
        }
    })
}

async fn echo(stream: &mut TcpStream) -> anyhow::Result<()> {
    stream.write_all(b"one request").await?;
    let mut answer = [0; 11];
    stream.read_exact(&mut answer).await?;
    anyhow::ensure!(&answer == b"one request", "wrong answer {answer:?}");
    Ok(())
}
