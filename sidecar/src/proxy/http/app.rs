//! The own app, reached over HTTP: connections to it are kept for the next request.
//!
//! With `app_http = "auto"` the first connection to an address carries no request before the app has answered the client's
//! preface of HTTP/2 (RFC 9113 §3.4). An app that answers with SETTINGS speaks HTTP/2, and the connection is kept, unless
//! the app turns out to speak HTTP/1.1 too. Any other app, and one that does not answer in time, is taken to speak HTTP/1.1:
//! the connection is closed, and requests go on others. Servers of HTTP/1.1 can refuse the preface, because it was made to
//! be no request of theirs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

use super::client::{Http1Sender, http1_builder, http2_builder, pings};
use super::exchange::{ConnectionSource, VersionMismatch};
use super::failure::Failure;
use super::frames::Frames;
use super::http2::client::handshake;
use super::instrumented_io::InstrumentedIo;
use super::pool::{
    self, Bounds, ConnectionLease, ConnectionType, DialError, DialFailure, Dialed, Kind, Pool, ServerEnd,
};
use super::preface::Preface;
use super::tasks::ConnectionTasks;
use super::{APP_CONNECTION_WINDOW_BYTES, APP_STREAM_WINDOW_BYTES};
use crate::config::{AppHttp, Config, Http};
use crate::error_text::one_line;
use crate::network::ConnectError;
use crate::network::dial;
use crate::observability::refusals::Refusal;
use crate::proxy::upstream::load_balancer::{AddressHandle, HttpVersion};
use crate::proxy::upstream::{self, Upstreams};

/// An app that has not answered the HTTP/2 preface within this time is taken to speak HTTP/1.1.
const VERSION_PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// Statuses with which a server that does not speak HTTP/1.1 may respond in it: Bad Request, Forbidden, Upgrade
/// Required, and HTTP Version Not Supported.
const NO_HTTP1: [&[u8]; 4] = [b"400", b"403", b"426", b"505"];

/// The own app and its connection pool.
#[derive(Debug)]
pub(super) struct App {
    target: AppTarget,
    pool: Arc<Pool<AppTarget>>,
}

/// The dial target of the app's pool.
#[derive(Debug, Clone)]
pub(super) struct AppTarget {
    at: Arc<Upstreams>,
    /// The configured HTTP version.
    app_http: AppHttp,
    http: Http,
    dead_after: Duration,
    connect_timeout: Duration,
    connections: TaskTracker,
    /// Closes all connections.
    over: CancellationToken,
}

impl App {
    pub(super) fn new(at: Arc<Upstreams>, app_http: AppHttp, config: &Config) -> Self {
        let (http, limits) = (config.http, config.limits);
        let (connections, over) = (TaskTracker::new(), CancellationToken::new());
        let bounds = Bounds { idle_timeout: http.idle_timeout, shared_max: http.http2_connections_max };
        let pool = Pool::new(at.clone(), bounds, ConnectionTasks::new(&connections, &over));
        let (dead_after, connect_timeout) = (limits.dead_after, limits.connect_timeout);
        let target = AppTarget { at, app_http, http, dead_after, connect_timeout, connections, over };
        Self { target, pool }
    }

    /// The kind of connection for a request; gRPC requires HTTP/2 (gRPC over HTTP/2).
    pub(super) fn kind(&self, is_grpc: bool) -> Result<Kind, Failure> {
        match (self.target.app_http, is_grpc) {
            (AppHttp::Http1, true) => {
                Err(no_grpc("app_http = \"1.1\" says that the app speaks HTTP/1.1".to_owned()))
            }
            (AppHttp::Http1, false) => Ok(Kind::Single),
            (AppHttp::Http2, _) | (AppHttp::Auto, true) => Ok(Kind::Shared),
            (AppHttp::Auto, false) => Ok(Kind::Any),
        }
    }

    /// Closes unusable connections.
    pub(super) fn maintain(&self) {
        self.pool.clean(OffsetDateTime::UNIX_EPOCH);
    }

    /// Closes all pooled connections.
    pub(super) async fn end(&self) {
        self.pool.retire();
        self.target.over.cancel();
        self.target.connections.close();
        self.target.connections.wait().await;
    }
}

fn no_grpc(why: String) -> Failure {
    let detail = format!(
        "gRPC needs HTTP/2, and {why}: have the app serve HTTP/2 without TLS (h2c, prior knowledge) here, \
         or give its gRPC port an inbound of its own"
    );
    let status = StatusCode::BAD_GATEWAY;
    Failure { status, reason: "app_http", detail, explain: None, is_unreachable: false }
}

impl AppTarget {
    fn tasks(&self) -> ConnectionTasks {
        ConnectionTasks::new(&self.connections, &self.over)
    }

    async fn single(&self, stream: InstrumentedIo<TcpStream>, end: ServerEnd) -> hyper::Result<Dialed> {
        let mut builder = http1_builder(&self.http);
        // Leniencies for old apps that a proxy may correct (RFC 9112 §5.1, §5.2).
        builder
            .allow_spaces_after_header_name_in_responses(true)
            .allow_obsolete_multiline_headers_in_responses(true);
        Ok(Dialed::Single(Http1Sender::begin(&builder, stream, &self.tasks()).await?, end))
    }

    async fn shared(
        &self,
        stream: InstrumentedIo<TcpStream>,
        end: ServerEnd,
        kind: Kind,
    ) -> Result<Dialed, DialError> {
        let (address, server_state) = (end.address, end.server_state.clone());
        let mut builder = http2_builder(&self.http);
        builder
            .initial_window_size(APP_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(APP_CONNECTION_WINDOW_BYTES);
        let pings = pings(address.ip(), self.dead_after);
        let tasks = self.tasks();
        let (sender, connection) = handshake(stream, &builder, pings, &tasks).await.map_err(unreachable)?;
        let mut connection = Box::pin(connection);
        let preface = tokio::select! {
            preface = server_state.begun() => preface,
            // A server that closes at once has not accepted the connection.
            () = &mut connection => match server_state.preface() {
                Preface::Http2 => {
                    let detail = format!("{address} began HTTP/2 and ended it at once");
                    return Err(failed(Failure::unreachable("app_unreachable", detail)));
                }
                preface => preface,
            },
            () = sleep(self.answers_within(kind, &end.handle)) => Preface::Awaited,
        };
        let answered = match preface {
            Preface::Http2 => {
                if server_state.streams_max() == 0 {
                    return Err(failed(no_streams(&address.to_string())));
                }
                if kind == Kind::Any && end.handle.http_version() != Some(HttpVersion::Http2) {
                    if self.takes_http1(address).await {
                        self.learn(HttpVersion::Http1, "speaks both versions", &end);
                        return Err(DialError::Http1 { refused: None, is_guess: false });
                    }
                    self.learn(HttpVersion::Http2, "answered with SETTINGS", &end);
                }
                tasks.spawn(connection);
                return Ok(Dialed::Shared(sender, end));
            }
            Preface::Other => "answered with something else",
            Preface::Ended => "closed the connection",
            Preface::Awaited => "did not answer",
        };
        // Closed first, because the app may serve one connection at a time.
        drop(connection);
        let why = format!("the app at {address} was greeted in HTTP/2 without TLS and {answered}");
        match self.app_http {
            AppHttp::Http2 => {
                let detail = format!(
                    "app_http = \"2\" says that the app speaks HTTP/2, but {why}: set \"auto\" or \"1.1\""
                );
                let status = StatusCode::BAD_GATEWAY;
                let failure =
                    Failure { status, reason: "app_http", detail, explain: None, is_unreachable: false };
                Err(failed(failure))
            }
            AppHttp::Auto | AppHttp::Http1 => {
                self.learn(HttpVersion::Http1, answered, &end);
                let refused = (kind == Kind::Shared).then(|| DialFailure::new(no_grpc(why), None));
                Err(DialError::Http1 { refused, is_guess: preface != Preface::Other })
            }
        }
    }

    /// A wrong guess is cheap for a request that can be sent in either version, if nothing else is known.
    fn answers_within(&self, kind: Kind, handle: &AddressHandle) -> Duration {
        match handle.http_version() {
            None | Some(HttpVersion::Http1) if kind == Kind::Any => VERSION_PROBE_TIMEOUT,
            _ => self.connect_timeout,
        }
    }

    /// Whether an app that speaks HTTP/2 speaks HTTP/1.1 too: probed on a separate connection with a request that has
    /// no effect (RFC 9110 §9.3.7). An HTTP/2-only server may refuse it with an HTTP/1.1 response.
    async fn takes_http1(&self, address: SocketAddr) -> bool {
        let asked = async {
            let Self { connect_timeout, dead_after, .. } = *self;
            let bounds = dial::Bounds { connect_timeout, dead_after, purpose: dial::Purpose::Traffic };
            let mut stream = dial::connect_any(&[address], bounds).await.ok()?;
            stream
                .write_all(b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                .await
                .ok()?;
            let mut status_line = [0; "HTTP/1.1 200".len()];
            stream.read_exact(&mut status_line).await.ok()?;
            Some(status_line)
        };
        let answer = timeout(VERSION_PROBE_TIMEOUT, asked).await.ok().flatten();
        answer.is_some_and(|status_line| {
            let status = status_line.strip_prefix(b"HTTP/1.1 ").or(status_line.strip_prefix(b"HTTP/1.0 "));
            status.is_some_and(|status| !NO_HTTP1.contains(&status))
        })
    }

    fn learn(&self, http_version: HttpVersion, answered: &'static str, end: &ServerEnd) {
        if self.app_http == AppHttp::Auto && end.handle.learn(Some(http_version)) {
            let (app, http) = (end.address, http_version.as_str());
            info!(%app, http, reason = answered, "learned which HTTP the app speaks");
        }
    }
}

fn failed(failure: Failure) -> DialError {
    DialError::Failed(DialFailure::new(failure, None))
}

fn unconnected(error: &ConnectError) -> DialError {
    let failure = Failure::unreachable("app_unreachable", one_line(error));
    DialError::Failed(DialFailure::new(failure, None).counted_as(error.dial_result()))
}

fn unreachable(error: impl std::error::Error) -> DialError {
    failed(Failure::unreachable("app_unreachable", one_line(&error)))
}

/// The server accepts no requests at all.
pub(super) fn no_streams(who: &str) -> Failure {
    let detail =
        format!("{who} allows no request on its HTTP/2 connections: SETTINGS_MAX_CONCURRENT_STREAMS is 0");
    let status = StatusCode::SERVICE_UNAVAILABLE;
    Failure { status, reason: "no_streams", detail, explain: None, is_unreachable: false }
}

impl pool::PoolTarget for AppTarget {
    /// The own app has no identity.
    type Epoch = ();

    fn upstreams(&self) -> &Arc<Upstreams> {
        &self.at
    }

    async fn dial(
        &self,
        mut leased: upstream::SelectedAddress,
        kind: Kind,
        path: ConnectionType,
    ) -> Result<Dialed, DialError> {
        let stream = leased.connect().await.map_err(|error| unconnected(&error))?;
        leased.succeeded();
        let mut end = ServerEnd::new(&leased, self.over.clone());
        let mut stream = InstrumentedIo::new(stream).server_state(end.server_state.clone()).lease(leased);
        if path == ConnectionType::Shared {
            let streams = end.streams.insert(Arc::default());
            stream = stream.frames(Frames::for_responses(self.http, streams.clone()));
        }
        match path {
            ConnectionType::Shared => self.shared(stream, end, kind).await,
            ConnectionType::Single => self.single(stream, end).await.map_err(unreachable),
        }
    }

    fn is_exchangeable(&self) -> bool {
        true
    }

    /// The app refuses no connection before a request.
    fn report(&self, _: Refusal) {}

    fn unreached(&self, detail: String) -> Failure {
        Failure::unreachable("app_unreachable", detail)
    }
}

/// Leases connections to the app.
#[derive(Debug)]
pub(super) struct AppConnections<'a>(pub(super) &'a App, pub(super) Kind);

impl ConnectionSource for AppConnections<'_> {
    async fn lease(&self) -> Result<ConnectionLease, Failure> {
        let Self(app, kind) = self;
        // The time does not matter, because no certificate is involved.
        app.pool.lease(&(), *kind, OffsetDateTime::UNIX_EPOCH, &app.target).await
    }

    /// The app may have been replaced since its version was detected. Then the version is detected again.
    fn version_mismatch(&self, leased: &ConnectionLease) -> VersionMismatch {
        let Some(end) = leased.end().filter(|_| self.may_have_changed_version(leased)) else {
            return VersionMismatch::No;
        };
        let version_mismatch = match end.server_state.preface() {
            Preface::Http2 => VersionMismatch::Certain,
            Preface::Ended => VersionMismatch::Possible,
            Preface::Awaited | Preface::Other => return VersionMismatch::No,
        };
        end.handle.learn(None);
        version_mismatch
    }

    /// For connections that carried a request before HTTP/1.1 was confirmed.
    fn may_have_changed_version(&self, leased: &ConnectionLease) -> bool {
        self.1 == Kind::Any && !leased.is_shared() && !leased.was_used()
    }
}
