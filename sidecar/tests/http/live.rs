//! Live connections of every kind, to see them cut or left alone.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use postern_proto::mtls::{AuthorizeAny, PeerVerifier, TlsIdentity, client_config, server_name};
use postern_proto::policy::Protocol;
use postern_sidecar::config::{AccessLogConfig, AppHttp, Http};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use time::OffsetDateTime;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use crate::apps::App;
use crate::authority::{Authority, Validity, id};
use crate::sidecar::{Sidecar, Spec};

/// What `orders` and `reports` may call, each as TOML lists of calls; `None` has no rule at all.
pub fn policy(orders: Option<&str>, reports: Option<&str>) -> String {
    let rule = |name: &str, calls: Option<&str>| match calls {
        Some(calls) => format!("[[service.payments.allow]]\nfrom = [\"{name}\"]\ncalls = [{calls}]\n"),
        None => String::new(),
    };
    let (orders, reports) = (rule("orders", orders), rule("reports", reports));
    format!(
        "trust_domain = \"shop.example\"\n[service.payments]\n{orders}{reports}[service.orders]\n[service.reports]\n"
    )
}

/// Everything these tests call.
pub const ALL: &str = r#""POST /charge", "POST /refund", "GET /socket", "POST /shop.Charges/Chat""#;

/// `payments`, whose app echoes every body as it comes and every protocol switched to, and two callers.
pub struct Live {
    pub authority: Authority,
    pub payments: Sidecar,
    pub orders: Sidecar,
    pub reports: Sidecar,
    _app: App,
}

impl Live {
    /// With everything allowed to both.
    pub async fn new() -> Self {
        Self::with(App::serve(echo::<TcpStream>).await).await
    }

    pub async fn with(app: App) -> Self {
        Self::with_limits(app, Http::default()).await
    }

    /// With the limits of `payments`.
    pub async fn with_limits(app: App, limits: Http) -> Self {
        Self::with_payments(app, |payments| payments.http = limits).await
    }

    /// With an app that takes whatever comes for a request of HTTP/1.1.
    pub async fn with_http1(app: App) -> Self {
        Self::with_payments(app, |payments| payments.app_http = AppHttp::Http1).await
    }

    /// With the access log of `payments`.
    pub async fn logging(app: App, to: AccessLogConfig) -> Self {
        Self::with_payments(app, |payments| payments.access_log = Some(to)).await
    }

    /// With another sidecar of `payments`.
    pub async fn with_payments(app: App, change: impl FnOnce(&mut Spec)) -> Self {
        Self::with_both(app, change, |_| ()).await
    }

    /// With another sidecar of `orders`.
    pub async fn with_orders(app: App, change: impl FnOnce(&mut Spec)) -> Self {
        Self::with_both(app, |_| (), change).await
    }

    async fn with_both(
        app: App,
        change: impl FnOnce(&mut Spec),
        change_orders: impl FnOnce(&mut Spec),
    ) -> Self {
        let authority = Authority::new();
        let http = |mut spec: Spec| {
            spec.protocol = Protocol::Http;
            spec
        };
        let mut payments = http(Spec::new(&authority, "payments").app(app.address));
        change(&mut payments);
        let payments = payments.start(&authority);
        let caller = |name| http(Spec::new(&authority, name).to(&[payments.inbound.unwrap()]));
        let mut orders = caller("orders");
        change_orders(&mut orders);
        let (orders, reports) = (orders.start(&authority), caller("reports").start(&authority));
        for sidecar in [&payments, &orders, &reports] {
            sidecar.apply(&policy(Some(ALL), Some(ALL)));
        }
        Self { authority, payments, orders, reports, _app: app }
    }

    /// A TLS connection to `payments` without a sidecar, with the identity of `name`.
    pub async fn direct(&self, name: &str, alpn: &[u8]) -> TlsStream<TcpStream> {
        self.direct_of(&self.authority, name, alpn).await
    }

    /// The same with a certificate of this authority.
    pub async fn direct_of(&self, authority: &Authority, name: &str, alpn: &[u8]) -> TlsStream<TcpStream> {
        let validity = Validity::of(time::Duration::hours(1), OffsetDateTime::now_utc());
        let identity = TlsIdentity::new(&authority.svid(&id(name), validity)).unwrap();
        let judge = Arc::new(PeerVerifier::new(Arc::new(self.authority.bundles()), Arc::new(AuthorizeAny)));
        let config = client_config(Some(&identity), judge, &[alpn]).unwrap();
        let stream = TcpStream::connect(self.payments.inbound.unwrap()).await.unwrap();
        TlsConnector::from(config).connect(server_name(), stream).await.unwrap()
    }
}

type Body = BoxBody<Bytes, hyper::Error>;

/// Echoes every body as it comes, and every protocol switched to.
pub async fn echo<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) -> io::Result<()> {
    let mut switched = JoinSet::new();
    let (switches, mut switch) = mpsc::unbounded_channel();
    let answer = service_fn(move |mut request: Request<Incoming>| {
        let switches = switches.clone();
        async move {
            let Some(protocol) = request.headers().get(UPGRADE).cloned() else {
                return Ok::<_, Infallible>(Response::new(request.into_body().boxed()));
            };
            // The connection's task takes it as long as there is one.
            let _taken = switches.send(hyper::upgrade::on(&mut request));
            let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert(CONNECTION, UPGRADE.as_str().parse().unwrap());
            response.headers_mut().insert(UPGRADE, protocol);
            if let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY) {
                let accept = accept_of(key.to_str().unwrap());
                response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept.parse().unwrap());
            }
            Ok(response)
        }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), answer);
    tokio::pin!(connection);
    loop {
        tokio::select! {
            ended = &mut connection => {
                ended.map_err(io::Error::other)?;
                break;
            }
            Some(upgrade) = switch.recv() => {
                switched.spawn(async move {
                    let (mut read, mut write) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        }
    }
    while let Some(upgrade) = switch.recv().await {
        let (mut read, mut write) = tokio::io::split(TokioIo::new(upgrade.await.map_err(io::Error::other)?));
        tokio::io::copy(&mut read, &mut write).await?;
    }
    while switched.join_next().await.is_some() {}
    Ok(())
}

/// An HTTP/2 connection, as an app has it to its sidecar, or a foreign client to `payments`.
pub struct Http2 {
    sender: http2::SendRequest<Body>,
    _connection: JoinSet<()>,
}

/// A request under way on it, whose body comes back as it goes.
pub struct Stream {
    say: mpsc::Sender<Bytes>,
    body: Incoming,
}

impl Http2 {
    pub async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (sender, connection) =
            http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream)).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async {
            // Whatever ends it shows in its requests.
            let _ended = connection.await;
        });
        Self { sender, _connection: tasks }
    }

    /// As the app of a caller.
    pub async fn through(sidecar: &Sidecar) -> Self {
        Self::over(TcpStream::connect(sidecar.outbound.unwrap()).await.unwrap()).await
    }

    /// Waits until the other side takes no more requests.
    pub async fn goaway(&self) {
        let refused = async { while self.post("/charge").await.is_ok() {} };
        tokio::time::timeout(crate::sidecar::PATIENCE, refused).await.unwrap();
    }

    /// Starts a request with a body; returns what answers it.
    pub async fn post(&self, path: &str) -> hyper::Result<(StatusCode, Stream)> {
        let (say, said) = mpsc::channel(1);
        let frames = ReceiverStream::new(said).map(|data| Ok(Frame::data(data)));
        let kind = if path.starts_with("/shop.") { "application/grpc" } else { "text/plain" };
        let request = Request::post(format!("http://payments{path}"))
            .header(CONTENT_TYPE, kind)
            .body(StreamBody::new(frames).boxed())
            .unwrap();
        let response = self.sender.clone().send_request(request).await?;
        Ok((response.status(), Stream { say, body: response.into_body() }))
    }

    /// The same, allowed and echoing.
    pub async fn open(&self, path: &str) -> Stream {
        let (status, mut stream) = self.post(path).await.unwrap();
        assert_eq!(status, 200);
        stream.echoed().await.unwrap();
        stream
    }
}

impl Stream {
    /// Sends a word and expects it back.
    pub async fn echoed(&mut self) -> hyper::Result<()> {
        // If it is cut, what is read says so.
        let _cut = self.say.send(Bytes::from_static(b"word")).await;
        let frame = self.body.frame().await.expect("a stream that is cut does not end cleanly")?;
        assert_eq!(frame.into_data().unwrap(), "word");
        Ok(())
    }

    /// Has nothing more to say, and waits for a clean end, with nothing before.
    pub async fn end(self) {
        let Self { say, body } = self;
        drop(say);
        assert!(body.collect().await.unwrap().to_bytes().is_empty());
    }

    /// Expects that it ends with an error, and nothing before.
    pub async fn expect_reset(&mut self) {
        let end = self.body.frame().await.expect("a stream that is cut does not end cleanly");
        assert!(end.is_err(), "{end:?}");
    }
}

/// A request on a kept HTTP/1.1 connection; returns the status.
pub async fn asked<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, request: &str) -> io::Result<u16> {
    stream
        .write_all(
            format!("{request} HTTP/1.1\r\nhost: payments\r\ncontent-length: 4\r\n\r\nword").as_bytes(),
        )
        .await?;
    let mut answer = Vec::new();
    loop {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        if body.len() == length.parse::<usize>().unwrap() {
            return Ok(head.split(' ').nth(1).unwrap().parse().unwrap());
        }
    }
}

/// What a server answers to the key of a WebSocket (RFC 6455 §4.2.2).
pub fn accept_of(key: &str) -> String {
    let digest =
        digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes());
    STANDARD.encode(digest)
}

/// How a connection of HTTP/1.1 becomes something else on its way to the called side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// By an upgrade of a connection of its own.
    Upgrade,
    /// As a stream of the connection that all share.
    WebSocket,
}

impl Switch {
    pub const BOTH: [Self; 2] = [Self::Upgrade, Self::WebSocket];

    /// A request that asks for it.
    pub fn request(self) -> String {
        let (protocol, key) = match self {
            Self::Upgrade => ("echo", ""),
            Self::WebSocket => {
                ("websocket", "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n")
            }
        };
        format!(
            "GET /socket HTTP/1.1\r\nhost: payments\r\nconnection: upgrade\r\nupgrade: {protocol}\r\n{key}\r\n"
        )
    }
}

/// An HTTP/1.1 connection that has switched to another protocol.
pub async fn switching(address: SocketAddr, switch: Switch) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(switch.request().as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
    stream
}

/// The same, echoing.
pub async fn switched(address: SocketAddr, switch: Switch) -> TcpStream {
    let mut stream = switching(address, switch).await;
    crate::apps::echoed(&mut stream).await.unwrap();
    stream
}

/// Sends a MiB and its end while it comes back, whole, with its own end.
pub async fn echoed_whole(stream: &mut TcpStream) {
    let bytes = vec![b'x'; 1024 * 1024];
    let mut back = Vec::new();
    let (mut read, mut write) = stream.split();
    let said = async {
        write.write_all(&bytes).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let (_, heard) = tokio::join!(said, read.read_to_end(&mut back));
    heard.unwrap();
    assert!(back == bytes, "{} bytes came back", back.len());
}
