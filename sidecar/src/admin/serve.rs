//! The HTTP server of the admin endpoint, with limits on the number and duration of connections.

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

/// Maximum number of open connections. One more closes the oldest that has sent no request.
pub const CONNECTIONS_MAX: usize = 64;
/// Timeout of reading a request's headers, and idle timeout of a connection.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// After this time a connection accepts no more requests.
pub const CONNECTION_LIFE_MAX: Duration = Duration::from_secs(5 * 60);
/// Additional time for the last response to be read.
const LAST_RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum size of the request line and headers, in bytes.
pub const HEADER_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
/// Delay before the next accept after a failed one, as without descriptors or memory.
const ACCEPT_DELAY: Duration = Duration::from_millis(50);

/// Accepts until `until.stop`, then lets open connections finish their last response, unless `until.abort` comes first.
/// All connections have ended when this returns.
pub(super) async fn serve(listener: TcpListener, routes: Router, until: ShutdownTokens) {
    let limiter = Arc::new(HandshakeLimiter::new(CONNECTIONS_MAX, Gauge::default()));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = until.abort.cancelled() => break,
            () = until.stop.cancelled() => break,
            Some(ended) = connections.join_next() => log_failure(ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve_connection(stream, limiter.acquire(HandshakeStage::AwaitingClientHello), routes.clone(), until.stop.clone()));
                }
                Err(error) => {
                    warn!(%error, "the admin endpoint cannot accept");
                    tokio::time::sleep(ACCEPT_DELAY).await;
                }
            },
        }
    }
    drop(listener);
    let answered = async {
        while let Some(ended) = connections.join_next().await {
            log_failure(ended)
        }
    };
    until.abort.run_until_cancelled(answered).await;
    connections.shutdown().await;
}

async fn serve_connection(
    stream: TcpStream,
    permit: HandshakePermit,
    routes: Router,
    stop: CancellationToken,
) {
    let greeted = CancellationToken::new();
    let asked = service_fn(|request| {
        permit.advance(HandshakeStage::Handshaking);
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
    // A connection that was accepted just before the stop still waits for its request, limited by the header timeout.
    let stopped = async {
        stop.cancelled().await;
        greeted.cancelled().await;
    };
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = permit.evicted.cancelled() => return,
        _life_over_or_stopped = timeout(CONNECTION_LIFE_MAX, stopped) => {
            connection.as_mut().graceful_shutdown();
            timeout(LAST_RESPONSE_TIMEOUT, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        debug!(%error, "an admin connection broke");
    }
}

fn log_failure(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        error!(%error, "an admin connection's task failed");
    }
}
