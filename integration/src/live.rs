//! Live connections of all five kinds between real sidecars, to see them cut or left alone.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::client::TlsStream;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_tungstenite::tungstenite::Message;

use crate::apps::App;
use crate::websocket::Socket;
use crate::{Ca, CaOptions, Mesh, Sidecar, SidecarSpec, grpc, tls, web, websocket};

/// The inbounds of `payments`: bytes, a web service, WebSockets and gRPC.
const PORTS: &str = r#"{ bulk = "tcp", web = "http", socket = "http", grpc = "http" }"#;

/// A policy by which these callers may do everything.
pub fn allowing(callers: &[&str]) -> String {
    let rule = |name: &&str| format!("[[service.payments.allow]]\nfrom = [\"{name}\"]\n");
    let rules: String = callers.iter().map(rule).collect();
    format!(
        "trust_domain = \"shop.example\"\n[service.payments]\nports = {PORTS}\n{rules}[service.orders]\n[service.reports]\n"
    )
}

/// `payments` with an inbound for each kind of connection, and two callers who may do everything.
#[derive(Debug)]
pub struct Wide {
    pub payments: Sidecar,
    pub orders: Sidecar,
    pub reports: Sidecar,
    pub policy: PathBuf,
    pub ca: Ca,
    pub mesh: Mesh,
    _apps: [App; 4],
}

impl Wide {
    pub async fn start() -> Self {
        let mesh = Mesh::default();
        let ca = mesh.ca(CaOptions::default()).await;
        let policy = mesh.write("policy.toml", &allowing(&["orders", "reports"]));
        let apps = [App::echo().await, web::app().await, websocket::app().await, grpc::app().await];
        let [bulk, web, socket, grpc] = [0, 1, 2, 3].map(|at: usize| apps[at].address);
        let spec = |name| SidecarSpec::new(name).policy(&policy);
        let served = spec("payments").inbound("bulk", bulk).http().inbound("web", web);
        let payments = mesh.sidecar(&ca, &served.inbound("socket", socket).inbound("grpc", grpc));
        let to = |at: usize| payments.inbounds[at];
        let caller = |name| {
            let spec = spec(name).outbound("payments", to(0)).http().outbound("payments", to(1));
            mesh.sidecar(&ca, &spec.outbound("payments", to(2)).outbound("payments", to(3)))
        };
        let (orders, reports) = (caller("orders"), caller("reports"));
        for sidecar in [&payments, &orders, &reports] {
            sidecar.ready().await;
        }
        Self { payments, orders, reports, policy, ca, mesh, _apps: apps }
    }
}

/// One live connection of each kind, all of one caller.
#[derive(Debug)]
pub struct Five {
    tcp: TcpStream,
    /// Without a sidecar of its own: what the caller's sidecar keeps is not the caller's.
    idle: TlsStream<TcpStream>,
    stream: EchoStream,
    socket: Socket,
    chat: grpc::Chat,
}

pub const KINDS: [&str; 5] =
    ["TCP stream", "idle HTTP/1 keep-alive", "HTTP/2 stream", "WebSocket", "gRPC bidirectional stream"];

impl Five {
    pub async fn open(wide: &Wide, caller: &Sidecar) -> Self {
        let svid = tls::enrol(&wide.ca, &caller.name).await;
        let idle = tls::connect(wide.payments.inbounds[1], Some(&svid), wide.ca.bundles()).await.unwrap();
        let mut five = Self {
            tcp: TcpStream::connect(caller.outbounds[0]).await.unwrap(),
            idle,
            stream: EchoStream::open(caller.outbounds[1]).await,
            socket: Socket::greeted(caller.outbounds[2]).await,
            chat: grpc::Client::new(caller.outbounds[3]).chat().await.unwrap(),
        };
        five.all_alive().await;
        five
    }

    /// Each carries something and its echo.
    pub async fn all_alive(&mut self) {
        self.tcp.write_u8(7).await.unwrap();
        assert_eq!(self.tcp.read_u8().await.unwrap(), 7);
        self.idle.write_all(b"GET /charges/status/204 HTTP/1.1\r\nhost: payments\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(self.idle.read_u8().await.unwrap());
        }
        assert!(answer.starts_with(b"HTTP/1.1 204"), "{}", String::from_utf8_lossy(&answer));
        self.stream.echo().await.unwrap();
        self.socket.echo(Message::text("word")).await.unwrap();
        self.chat.echo("word").await.unwrap();
    }

    /// Waits until each is cut, and says when that was, in the order of [`KINDS`]. None may end cleanly.
    pub async fn cut(mut self) -> [Instant; 5] {
        let tcp = async {
            self.tcp.read(&mut [0; 1]).await.expect_err("not a clean end");
            Instant::now()
        };
        let idle = async {
            // An end without close_notify is an error, too.
            self.idle.read(&mut [0; 1]).await.expect_err("not a clean end");
            Instant::now()
        };
        let stream = async {
            self.stream.next().await.expect("not a clean end").unwrap_err();
            Instant::now()
        };
        let socket = async {
            self.socket.next().await.expect("not a clean end").unwrap_err();
            Instant::now()
        };
        let chat = async {
            self.chat.next().await.expect("not a clean end").unwrap_err();
            Instant::now()
        };
        let (tcp, idle, stream, socket, chat) = tokio::join!(tcp, idle, stream, socket, chat);
        [tcp, idle, stream, socket, chat]
    }
}

/// An HTTP/2 request under way, whose body comes back as it goes.
#[derive(Debug)]
pub struct EchoStream {
    say: mpsc::Sender<Bytes>,
    body: Incoming,
}

impl EchoStream {
    pub async fn open(address: SocketAddr) -> Self {
        let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
        let (mut sender, connection) =
            http2::Builder::new(TokioExecutor::new()).handshake(stream).await.unwrap();
        // It ends with its request.
        tokio::spawn(connection);
        let (say, said) = mpsc::channel(1);
        let frames = ReceiverStream::new(said).map(|data| Ok::<_, hyper::Error>(Frame::data(data)));
        let url = "http://payments/charges/echo";
        let request = Request::post(url).body(StreamBody::new(frames).boxed()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        Self { say, body: response.into_body() }
    }

    /// Sends a word and expects it back.
    pub async fn echo(&mut self) -> hyper::Result<()> {
        // If it is cut, what is read says so.
        let _cut = self.say.send(Bytes::from_static(b"word")).await;
        let frame = self.next().await.expect("not a clean end")?;
        assert_eq!(frame.into_data().unwrap(), "word");
        Ok(())
    }

    /// Has nothing more to say, and waits for a clean end, with nothing before.
    pub async fn end(self) {
        let Self { say, body } = self;
        drop(say);
        assert!(body.collect().await.unwrap().to_bytes().is_empty());
    }

    async fn next(&mut self) -> Option<hyper::Result<Frame<Bytes>>> {
        self.body.frame().await
    }
}
