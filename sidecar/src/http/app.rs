//! The own app, reached over HTTP: connections to it are kept for the next request.

use std::sync::Arc;
use std::time::Duration;

use http::{StatusCode, Version};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use time::OffsetDateTime;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::call::CutBy;
use super::exchange::{ExchangeError, Lend};
use super::pool::{Dial, Dialed, End, Kind, Leased, Pool};
use super::tasks::ConnectionTasks;
use super::watched::Watched;
use super::{
    APP_CONNECTION_WINDOW_BYTES, APP_STREAM_WINDOW_BYTES, BUFFER_BYTES_MAX, CONNECTION_WINDOW_BYTES,
    FRAME_BYTES_MAX, STREAM_WINDOW_BYTES,
};
use crate::config::Http;
use crate::holder::in_one_line;
use crate::upstream::Upstreams;

/// One app.
#[derive(Debug)]
pub(super) struct App {
    at: Arc<Upstreams>,
    dead_after: Duration,
    http: Http,
    pool: Arc<Pool<(), Failure>>,
    connections: TaskTracker,
    /// Ends all connections at once.
    over: CancellationToken,
}

/// Why the app, or a peer, cannot be asked.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    /// A stable word.
    pub(super) reason: &'static str,
    pub(super) detail: String,
    /// What to type to learn more.
    pub(super) explain: Option<String>,
}

impl Failure {
    /// An answer that broke off, or never came.
    pub(super) fn broken(detail: String) -> Self {
        Self { status: StatusCode::BAD_GATEWAY, reason: "broke_off", detail, explain: None }
    }

    /// One identity has all under way that it may.
    pub(super) fn busy(max: usize) -> Self {
        let detail =
            format!("{max} requests of this identity are under way, as many as it may have here at once");
        let status = StatusCode::TOO_MANY_REQUESTS;
        Self { status, reason: "requests_per_peer_max", detail, explain: None }
    }

    /// A tunnel is asked for, which no policy can see into.
    pub(super) fn connect() -> Self {
        let detail = "CONNECT is not supported: no rule could say what passes through it".to_owned();
        Self { status: StatusCode::NOT_IMPLEMENTED, reason: "connect", detail, explain: None }
    }
}

impl From<CutBy> for Failure {
    fn from(by: CutBy) -> Self {
        let (status, detail) = match by {
            CutBy::Policy => (StatusCode::FORBIDDEN, "the call is no longer allowed"),
            CutBy::Idle => (StatusCode::GATEWAY_TIMEOUT, "nothing of the call moved for too long"),
        };
        Self { status, reason: by.code(), detail: detail.to_owned(), explain: None }
    }
}

impl From<ExchangeError> for Failure {
    fn from(error: ExchangeError) -> Self {
        match error {
            ExchangeError::Unreached(failure) => failure,
            ExchangeError::Broken(error, _) => Self::broken(in_one_line(&error)),
        }
    }
}

impl App {
    pub(super) fn new(at: Arc<Upstreams>, dead_after: Duration, http: Http) -> Self {
        let pool = Arc::new(Pool::new(http.idle_timeout));
        let (connections, over) = (TaskTracker::new(), CancellationToken::new());
        Self { at, dead_after, http, pool, connections, over }
    }

    async fn single(&self, stream: TokioIo<Watched<TcpStream>>, end: End) -> hyper::Result<Dialed> {
        let (sender, connection) = http1_builder(&self.http).handshake(stream).await?;
        self.drive(connection.with_upgrades());
        Ok(Dialed::Single(sender, end))
    }

    async fn shared(&self, stream: TokioIo<Watched<TcpStream>>, end: End) -> hyper::Result<Dialed> {
        let mut builder = http2_builder(&self.http, self.dead_after, self.tasks());
        builder
            .initial_stream_window_size(APP_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(APP_CONNECTION_WINDOW_BYTES);
        let (sender, connection) = builder.handshake(stream).await?;
        self.drive(connection);
        Ok(Dialed::Shared(sender, end))
    }

    fn drive(&self, connection: impl Future<Output = hyper::Result<()>> + Send + 'static) {
        self.tasks().spawn(async move {
            if let Err(error) = connection.await {
                debug!(error = in_one_line(&error), "a connection to the app broke");
            }
        });
    }

    fn tasks(&self) -> ConnectionTasks {
        ConnectionTasks::new(&self.connections, &self.over)
    }

    /// Closes what is kept.
    pub(super) async fn end(&self) {
        self.pool.retire();
        self.over.cancel();
        self.connections.close();
        self.connections.wait().await;
    }
}

impl Dial<Failure> for App {
    fn spread(&self) -> usize {
        self.at.spread()
    }

    async fn dial(&self, kind: Kind) -> Result<Dialed, Failure> {
        let unreachable = |detail| Failure {
            status: StatusCode::SERVICE_UNAVAILABLE,
            reason: "app_unreachable",
            detail,
            explain: None,
        };
        let (stream, leased) = self.at.connect().await.map_err(|error| unreachable(error.to_string()))?;
        let end = End { listing: leased.listing(), ..End::default() };
        let stream = TokioIo::new(Watched::new(stream).lease(leased));
        let broken = |error: hyper::Error| unreachable(in_one_line(&error));
        match kind {
            Kind::Shared => self.shared(stream, end).await.map_err(broken),
            Kind::Single | Kind::Any => self.single(stream, end).await.map_err(broken),
        }
    }
}

/// Lends connections to the app, of the version that a request needs.
#[derive(Debug)]
pub(super) struct ToApp<'a>(pub(super) &'a App, pub(super) Version);

impl Lend for ToApp<'_> {
    async fn lease(&self) -> Result<Leased, Failure> {
        let Self(app, version) = self;
        let kind = if *version == Version::HTTP_2 { Kind::Shared } else { Kind::Single };
        // Nobody vouches for the own app, so the time does not matter.
        app.pool.lease(&(), kind, OffsetDateTime::UNIX_EPOCH, *app).await
    }
}

/// Lends connections to the app that no other request uses, before or after.
#[derive(Debug)]
pub(super) struct ToAppAlone<'a>(pub(super) &'a App);

impl Lend for ToAppAlone<'_> {
    async fn lease(&self) -> Result<Leased, Failure> {
        self.0.dial(Kind::Single).await.map(Leased::fresh)
    }
}

/// How HTTP/1.1 is spoken to whoever answers.
pub(super) fn http1_builder(limits: &Http) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .max_headers(limits.headers_max)
        .max_header_size(limits.header_bytes_max)
        .max_buf_size(BUFFER_BYTES_MAX.max(limits.header_bytes_max));
    builder
}

/// How HTTP/2 is spoken to whoever answers.
pub(super) fn http2_builder(
    limits: &Http,
    dead_after: Duration,
    tasks: ConnectionTasks,
) -> http2::Builder<ConnectionTasks> {
    let mut builder = http2::Builder::new(tasks);
    builder
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX))
        // Asked only while requests are under way: an idle connection that is dead shows when it is used.
        .keep_alive_interval(dead_after / 2)
        .keep_alive_timeout(dead_after / 2)
        .max_frame_size(FRAME_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    builder
}
