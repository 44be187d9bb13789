//! A shop over HTTP: `payments` behind its sidecar, and the sidecars of its callers.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use postern_proto::policy::Protocol;
use postern_sidecar::observability::Direction;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::authority::Authority;
use crate::sidecar::{Sidecar, Spec};

/// `orders` may charge and look at charges, `reports` may look at charges only; nobody else may anything.
pub const POLICY: &str = r#"trust_domain = "shop.example"

[service.payments]
ports = { api = "http" }

[[service.payments.allow]]
from = ["orders"]
calls = ["POST /charge", "GET /charges/*", "GET /socket"]
owner = "team-checkout"

[[service.payments.allow]]
from = ["reports"]
calls = ["GET /charges/*"]

[service.orders]
[service.reports]
[service.visitor]
"#;

/// Tells what it was asked, as JSON.
pub struct App {
    pub address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl App {
    pub async fn telling() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let stream = listener.accept().await.unwrap().0;
                connections.spawn(async move {
                    let builder = auto::Builder::new(TokioExecutor::new());
                    // What goes wrong with a connection is the client's to see.
                    let _ended = builder.serve_connection(TokioIo::new(stream), service_fn(tell)).await;
                });
            }
        });
        Self { address, _tasks: tasks }
    }
}

async fn tell(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap();
    let told = json!({
        "method": parts.method.as_str(),
        "target": parts.uri.to_string(),
        "version": format!("{:?}", parts.version),
        "headers": all(&parts.headers),
        "trailers": body.trailers().map(all),
        "body_bytes": body.to_bytes().len(),
    });
    Ok(Response::new(Full::from(told.to_string())))
}

fn all(headers: &HeaderMap) -> Value {
    headers
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect()
}

pub struct Shop {
    pub payments: Sidecar,
    pub orders: Sidecar,
    pub reports: Sidecar,
    pub visitor: Sidecar,
    _app: App,
}

impl Shop {
    pub async fn new() -> Self {
        Self::with(|_| ()).await
    }

    /// With another sidecar of `payments`.
    pub async fn with(change: impl FnOnce(&mut Spec)) -> Self {
        Self::with_both(change, |_| ()).await
    }

    /// With another sidecar of `orders`.
    pub async fn with_orders(change: impl FnOnce(&mut Spec)) -> Self {
        Self::with_both(|_| (), change).await
    }

    async fn with_both(payments: impl FnOnce(&mut Spec), orders: impl FnOnce(&mut Spec)) -> Self {
        let (authority, app) = (Authority::new(), App::telling().await);
        let http = |mut spec: Spec| {
            (spec.policy, spec.protocol) = (Some(POLICY), Protocol::Http);
            spec
        };
        let mut spec = http(Spec::new(&authority, "payments").app(app.address));
        payments(&mut spec);
        let payments = spec.start(&authority);
        let caller = |name| http(Spec::new(&authority, name).to(&[payments.inbound.unwrap()]));
        let mut spec = caller("orders");
        orders(&mut spec);
        let orders = spec.start(&authority);
        let (reports, visitor) = (caller("reports").start(&authority), caller("visitor").start(&authority));
        Self { payments, orders, reports, visitor, _app: app }
    }
}

/// Requests under way at the addresses of its outbound.
pub fn requests_under_way(sidecar: &Sidecar) -> u64 {
    let shown = sidecar.proxy.upstreams.shown(Direction::Outbound, 0);
    shown["addresses"].as_array().unwrap().iter().map(|one| one["requests"].as_u64().unwrap()).sum()
}

/// A response, as a client sees it.
#[derive(Debug)]
pub struct Seen {
    pub head: String,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Says these bytes to a sidecar of a caller, and returns all it answers until it closes.
pub async fn say(sidecar: &Sidecar, bytes: &[u8]) -> Vec<u8> {
    say_to(sidecar.outbound.unwrap(), bytes).await
}

/// The same at this address.
pub async fn say_to(at: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // Reset or end: either way it is over.
    let _ended = stream.read_to_end(&mut answer).await;
    answer
}

/// One request on a connection of its own; `request` has no empty line at its end yet.
pub async fn ask(sidecar: &Sidecar, request: &str) -> Seen {
    let answer =
        say(sidecar, format!("{request}\r\nhost: payments\r\nconnection: close\r\n\r\n").as_bytes()).await;
    seen(&answer)
}

/// Reads the first response of an answer whose body has a length.
pub fn seen(answer: &[u8]) -> Seen {
    let end = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap_or_else(|| panic!("no head: {answer:?}"));
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    Seen { head, body: answer[end + 4..].to_vec() }
}
