//! The admin endpoint's connections: few, short-lived, and ended with it.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use postern_server::{HandshakeLimiter, HandshakePermit, HandshakeStage};
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use tracing::{debug, error, warn};

use crate::proxy::listener::ShutdownTokens;

/// So many connections are open at once; when one more comes, the oldest that has asked nothing gives way.
pub const CONNECTIONS_MAX: usize = 64;
/// A request's headers have come within this time; so long a connection may idle, too.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection takes no more requests after this time...
pub const CONNECTION_LIFE_MAX: Duration = Duration::from_secs(5 * 60);
/// ...and an answer that is not read by then is given up after this.
const LAST_ANSWER: Duration = Duration::from_secs(10);
/// A request's line and headers together.
pub const HEADER_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
/// After accept failed for want of descriptors or memory, the next try waits this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts until `until.stop`; what is open then gets its last answer, unless `until.abort` comes first. All
/// connections have ended then.
pub(super) async fn serve(listener: TcpListener, routes: Router, until: ShutdownTokens) {
    let places = Arc::new(HandshakeLimiter::new(CONNECTIONS_MAX, Gauge::default()));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = until.abort.cancelled() => break,
            () = until.stop.cancelled() => break,
            Some(ended) = connections.join_next() => report(ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(one(stream, places.acquire(HandshakeStage::AwaitingClientHello), routes.clone(), until.stop.clone()));
                }
                Err(error) => {
                    warn!(%error, "the admin endpoint cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let answered = async {
        while let Some(ended) = connections.join_next().await {
            report(ended)
        }
    };
    until.abort.run_until_cancelled(answered).await;
    connections.shutdown().await;
}

async fn one(stream: TcpStream, place: HandshakePermit, routes: Router, stop: CancellationToken) {
    let greeted = CancellationToken::new();
    let asked = service_fn(|request| {
        place.advance(HandshakeStage::Handshaking);
        greeted.cancel();
        routes.clone().oneshot(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), asked);
    let mut connection = std::pin::pin!(connection);
    // Of a connection that was accepted just before the end, a request is awaited; there is a limit to that already.
    let stopped = async {
        stop.cancelled().await;
        greeted.cancelled().await;
    };
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = place.evicted.cancelled() => return,
        _life_over_or_stopped = timeout(CONNECTION_LIFE_MAX, stopped) => {
            connection.as_mut().graceful_shutdown();
            timeout(LAST_ANSWER, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        debug!(%error, "an admin connection broke");
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        error!(%error, "an admin connection's task failed");
    }
}
