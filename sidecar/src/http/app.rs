//! The own app, reached over HTTP: connections to it are kept for the next request.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use hyper_util::rt::TokioIo;
use time::OffsetDateTime;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

use super::client::{http1_builder, http2_builder, pings};
use super::exchange::{Lend, Otherwise};
use super::failure::Failure;
use super::frames::Frames;
use super::http2::client::handshake;
use super::pool::{self, Bounds, DialError, DialFailure, Dialed, End, Kind, Leased, Path, Pool};
use super::preface::Preface;
use super::tasks::ConnectionTasks;
use super::watched::Watched;
use super::{APP_CONNECTION_WINDOW_BYTES, APP_STREAM_WINDOW_BYTES};
use crate::config::{AppHttp, Config, Http};
use crate::holder::in_one_line;
use crate::refusals::Refusal;
use crate::upstream::choice::Speaks;
use crate::upstream::{self, ConnectError, Upstreams};

/// One app.
#[derive(Debug)]
pub(super) struct App {
    place: AppPlace,
    pool: Arc<Pool<AppPlace>>,
}

/// Where it is, and how it is spoken to.
#[derive(Debug, Clone)]
pub(super) struct AppPlace {
    at: Arc<Upstreams>,
    /// What the configuration says that it speaks.
    app_http: AppHttp,
    http: Http,
    dead_after: Duration,
    connect_timeout: Duration,
    connections: TaskTracker,
    /// Ends all connections at once.
    over: CancellationToken,
}

impl App {
    pub(super) fn new(at: Arc<Upstreams>, app_http: AppHttp, config: &Config) -> Self {
        let (http, limits) = (config.http, config.limits);
        let (connections, over) = (TaskTracker::new(), CancellationToken::new());
        let bounds = Bounds { idle_timeout: http.idle_timeout, shared_max: http.http2_connections_max };
        let pool = Pool::new(at.clone(), bounds, ConnectionTasks::new(&connections, &over));
        let (dead_after, connect_timeout) = (limits.dead_after, limits.connect_timeout);
        let place = AppPlace { at, app_http, http, dead_after, connect_timeout, connections, over };
        Self { place, pool }
    }

    /// On which kind of connection a request goes; gRPC is HTTP/2 (gRPC over HTTP/2).
    pub(super) fn kind(&self, is_grpc: bool) -> Result<Kind, Failure> {
        match (self.place.app_http, is_grpc) {
            (AppHttp::Http1, true) => {
                Err(no_grpc("app_http = \"1.1\" says that the app speaks HTTP/1.1".to_owned()))
            }
            (AppHttp::Http1, false) => Ok(Kind::Single),
            (AppHttp::Http2, _) | (AppHttp::Auto, true) => Ok(Kind::Shared),
            (AppHttp::Auto, false) => Ok(Kind::Any),
        }
    }

    /// Closes what is of no use any more.
    pub(super) fn look(&self) {
        self.pool.clean(OffsetDateTime::UNIX_EPOCH);
    }

    /// Closes what is kept.
    pub(super) async fn end(&self) {
        self.pool.retire();
        self.place.over.cancel();
        self.place.connections.close();
        self.place.connections.wait().await;
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

impl AppPlace {
    fn tasks(&self) -> ConnectionTasks {
        ConnectionTasks::new(&self.connections, &self.over)
    }

    async fn single(&self, stream: TokioIo<Watched<TcpStream>>, end: End) -> hyper::Result<Dialed> {
        let mut builder = http1_builder(&self.http);
        // What old apps write and a proxy may mend (RFC 9112 §5.1, §5.2).
        builder
            .allow_spaces_after_header_name_in_responses(true)
            .allow_obsolete_multiline_headers_in_responses(true);
        let (sender, connection) = builder.handshake(stream).await?;
        self.drive(connection.with_upgrades());
        Ok(Dialed::Single(sender, end))
    }

    async fn shared(&self, stream: Watched<TcpStream>, end: End, kind: Kind) -> Result<Dialed, DialError> {
        let (address, says) = (end.address, end.says.clone());
        let mut builder = http2_builder(&self.http);
        builder
            .initial_window_size(APP_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(APP_CONNECTION_WINDOW_BYTES);
        let pings = pings(address.ip(), self.dead_after);
        let sender = handshake(stream, &builder, pings, &self.tasks()).await.map_err(unreachable)?;
        let begun = tokio::time::timeout(self.connect_timeout, says.begun()).await;
        let answered = match begun.unwrap_or(Preface::Awaited) {
            Preface::Http2 if says.streams_max() == 0 => {
                return Err(failed(no_streams(&address.to_string())));
            }
            Preface::Http2 => {
                if kind == Kind::Any && end.listing.learn(Some(Speaks::Http2)) {
                    info!(app = %address, http = Speaks::Http2.as_str(), "learned which HTTP the app speaks");
                }
                return Ok(Dialed::Shared(sender, end));
            }
            _ if kind == Kind::Any => return Err(DialError::Speaks(None)),
            Preface::Other => "answered with something else",
            Preface::Ended => "closed the connection",
            Preface::Awaited => "did not answer",
        };
        let why = format!("the app at {address} was greeted in HTTP/2 without TLS and {answered}");
        Err(failed(match self.app_http {
            AppHttp::Http2 => {
                let detail = format!(
                    "app_http = \"2\" says that the app speaks HTTP/2, but {why}: set \"auto\" or \"1.1\""
                );
                let status = StatusCode::BAD_GATEWAY;
                Failure { status, reason: "app_http", detail, explain: None, is_unreachable: false }
            }
            AppHttp::Auto | AppHttp::Http1 => no_grpc(why),
        }))
    }

    fn drive(&self, connection: impl Future<Output = hyper::Result<()>> + Send + 'static) {
        self.tasks().spawn(async move {
            if let Err(error) = connection.await {
                debug!(error = in_one_line(&error), "a connection to the app broke");
            }
        });
    }
}

fn failed(failure: Failure) -> DialError {
    DialError::Failed(DialFailure::new(failure, None))
}

fn unconnected(error: &ConnectError) -> DialError {
    let failure = Failure::unreachable("app_unreachable", in_one_line(error));
    DialError::Failed(DialFailure::new(failure, None).counted_as(error.dial_result()))
}

fn unreachable(error: impl std::error::Error) -> DialError {
    failed(Failure::unreachable("app_unreachable", in_one_line(&error)))
}

/// Whoever is there takes no request at all.
pub(super) fn no_streams(who: &str) -> Failure {
    let detail =
        format!("{who} allows no request on its HTTP/2 connections: SETTINGS_MAX_CONCURRENT_STREAMS is 0");
    let status = StatusCode::SERVICE_UNAVAILABLE;
    Failure { status, reason: "no_streams", detail, explain: None, is_unreachable: false }
}

impl pool::Place for AppPlace {
    /// Nobody vouches for the own app.
    type Epoch = ();

    fn upstreams(&self) -> &Arc<Upstreams> {
        &self.at
    }

    fn unknown(&self) -> Path {
        Path::Single
    }

    async fn dial(&self, mut leased: upstream::Leased, kind: Kind, path: Path) -> Result<Dialed, DialError> {
        let connected = leased.connect().await.map_err(|error| unconnected(&error));
        if connected.is_err() {
            // When it comes back it may be another.
            leased.listing().learn(None);
        }
        let stream = connected?;
        leased.succeeded();
        let mut end = End::new(&leased, self.over.clone());
        let mut stream = Watched::new(stream).says(end.says.clone()).lease(leased);
        if path == Path::Shared {
            let streams = end.streams.insert(Arc::default());
            stream = stream.frames(Frames::of_answers(self.http, streams.clone()));
        }
        match path {
            Path::Shared => self.shared(stream, end, kind).await,
            Path::Single => self.single(TokioIo::new(stream), end).await.map_err(unreachable),
        }
    }

    /// There is none: the app refuses nobody before it is asked.
    fn tell(&self, _: Refusal) {}

    fn unreached(&self, detail: String) -> Failure {
        Failure::unreachable("app_unreachable", detail)
    }
}

/// Lends connections to the app.
#[derive(Debug)]
pub(super) struct ToApp<'a>(pub(super) &'a App, pub(super) Kind);

impl Lend for ToApp<'_> {
    async fn lease(&self) -> Result<Leased, Failure> {
        let Self(app, kind) = self;
        // The time does not matter, as nobody vouches.
        app.pool.lease(&(), *kind, OffsetDateTime::UNIX_EPOCH, &app.place).await
    }

    fn answered(&self, leased: &Leased) {
        if let Some(end) = leased.end().filter(|_| self.1 == Kind::Any && !leased.is_shared())
            && end.listing.learn(Some(Speaks::Http1))
        {
            info!(app = %end.address, http = Speaks::Http1.as_str(), "learned which HTTP the app speaks");
        }
    }

    fn otherwise(&self, leased: &Leased) -> Otherwise {
        let Some(end) = leased.end().filter(|_| self.1 == Kind::Any && !leased.is_shared()) else {
            return Otherwise::No;
        };
        match end.says.preface() {
            Preface::Http2 => {
                end.listing.try_http2();
                Otherwise::Surely
            }
            Preface::Ended if !leased.was_kept() => {
                if end.listing.speaks().is_some() {
                    end.listing.learn(None);
                    return Otherwise::No;
                }
                end.listing.try_http2();
                Otherwise::Perhaps
            }
            _ => Otherwise::No,
        }
    }

    fn is_unsure(&self, leased: &Leased) -> bool {
        let speaks = leased.end().and_then(|end| end.listing.speaks());
        self.1 == Kind::Any && speaks.is_none()
    }
}
