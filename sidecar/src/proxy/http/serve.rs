//! Serves one client connection until it ends, is idle too long, or is stopped.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::call::Calls;
use super::client::{header_list_max, pings};
use super::frames::{Frames, PREFACE, Streams, Unfinished};
use super::framing::RawHeadCheck;
use super::handler::{HandlerService, RequestHandler};
use super::http2::server::Connection;
use super::instrumented_io::{InstrumentedIo, ResetProbe};
use super::target::InvalidMessage;
use super::tasks::ConnectionTasks;
use super::upgrade::HasTcp;
use super::{BUFFER_BYTES_MAX, CONNECTION_WINDOW_BYTES, FRAME_BYTES_MAX, STREAM_WINDOW_BYTES};
use crate::config::Http;
use crate::proxy::connections::Requests as _;
use crate::proxy::connections::Traffic;
use crate::proxy::state::ProxyState;

/// Longest interval of timeout checks; each timeout is checked at least twice within it.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Streams that we may reset because of a client's protocol violations (MadeYouReset, CVE-2025-8671).
const RESETS_CAUSED_MAX: usize = 100;
/// Bytes of one response buffered for the client's window.
const SEND_BYTES_MAX: usize = 64 * 1024;

/// The state of one connection, besides its bytes.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) proxy: Arc<ProxyState>,
    /// Set for a peer's connection: signals when it is too old.
    pub(super) traffic: Option<Arc<Traffic>>,
    pub(super) calls: Arc<Calls>,
    pub(super) heads: Arc<RawHeadCheck>,
    pub(super) streams: Arc<Streams>,
    /// Tasks that hyper spawns for it.
    pub(super) tasks: ConnectionTasks,
    /// Cancelled when no further requests are accepted.
    pub(super) stop: CancellationToken,
}

/// The HTTP version of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DetectedVersion {
    Http1,
    Http2,
}

/// Reads only as many bytes of a plaintext connection as show its HTTP version.
pub(super) async fn first_bytes<S: AsyncRead + Unpin>(
    stream: &mut S,
) -> std::io::Result<(Vec<u8>, DetectedVersion)> {
    let mut first = Vec::with_capacity(PREFACE.len());
    while first.len() < PREFACE.len() && PREFACE.starts_with(&first) {
        let missing = (PREFACE.len() - first.len()) as u64;
        if (&mut *stream).take(missing).read_buf(&mut first).await? == 0 {
            break;
        }
    }
    let speaks = if first == PREFACE { DetectedVersion::Http2 } else { DetectedVersion::Http1 };
    Ok((first, speaks))
}

/// Serves a connection until it ends.
pub(super) async fn serve<S, D>(
    stream: InstrumentedIo<S>,
    speaks: DetectedVersion,
    service: HandlerService<D>,
    session: &Session,
) where
    S: AsyncRead + AsyncWrite + HasTcp + Unpin + Send + 'static,
    D: RequestHandler,
{
    let begun = CancellationToken::new();
    let least = if speaks == DetectedVersion::Http2 { PREFACE.len() } else { 1 };
    let limits = &session.proxy.control.config.http;
    let stream = stream.reset_unless_ended().begins(begun.clone(), least);
    match speaks {
        DetectedVersion::Http1 => {
            let probe = Arc::<ResetProbe>::default();
            let stream = stream.heads(session.heads.clone()).probed(probe.clone());
            let stream = TokioIo::new(stream.interim(session.calls.interim().clone()));
            let connection = http1_builder(limits).serve_connection(stream, service).with_upgrades();
            let stalled = |limit, now| {
                if session.calls.count() > 0 {
                    probe.ask();
                }
                session.heads.is_stalled(limit, now)
            };
            drive(connection, http1::UpgradeableConnection::graceful_shutdown, stalled, &begun, session)
                .await;
        }
        DetectedVersion::Http2 => {
            // A closed connection needs no PING.
            let config = &session.proxy.control.config;
            let peer = stream.stream().tcp().peer_addr().ok();
            let pings = peer.and_then(|peer| pings(peer.ip(), config.limits.dead_after));
            let unfinished = Arc::<Unfinished>::default();
            let calls = session.calls.clone();
            let report = Arc::new(move |bad: &InvalidMessage| calls.report_invalid(bad));
            let (streams, unfinished_here) = (session.streams.clone(), unfinished.clone());
            let stream = stream.frames(Frames::for_requests(*limits, streams, unfinished_here, report));
            let builder = http2_builder(limits);
            let connection = Connection::new(stream, &builder, pings, service, session.tasks.clone());
            let stalled = |limit, now| unfinished.is_stalled(limit, now);
            drive(connection, Connection::graceful_shutdown, stalled, &begun, session).await;
        }
    }
}

fn http1_builder(limits: &Http) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // A client may end its direction after its last request, and still receives its responses (RFC 9112 §9.6).
        .half_close(true)
        // The head timeout is checked here, with the parse state: hyper's own limit also ends idle connections.
        .header_read_timeout(None)
        // Requests over our limits do not reach hyper, which refuses without a reason.
        .max_headers(limits.headers_max + 1)
        .max_header_size(limits.header_bytes_max + 1)
        .max_buf_size(BUFFER_BYTES_MAX.max(limits.header_bytes_max + 1));
    builder
}

fn http2_builder(limits: &Http) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(u32::try_from(limits.streams_max).unwrap_or(u32::MAX))
        .enable_connect_protocol()
        // Our limit is applied first; h2 refuses without a reason.
        .max_header_list_size(header_list_max(limits))
        // Streams that a client may reset before they were handled (rapid reset, CVE-2023-44487): as many as it may
        // have open, because all clients that share the connection may cancel their requests.
        .max_pending_accept_reset_streams(limits.streams_max)
        .max_local_error_reset_streams(Some(RESETS_CAUSED_MAX))
        .max_send_buffer_size(SEND_BYTES_MAX)
        .max_frame_size(FRAME_BYTES_MAX)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    builder
}

/// Drives a connection and checks its timeouts. `stalled` returns whether a head has exceeded its timeout.
async fn drive<C, E>(
    connection: C,
    finish: fn(Pin<&mut C>),
    stalled: impl Fn(Duration, Instant) -> bool,
    begun: &CancellationToken,
    session: &Session,
) where
    C: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    let Session { proxy, traffic, calls, stop, .. } = session;
    let limits = &proxy.control.config.http;
    let mut connection = pin!(connection);
    let shortest = limits.header_timeout.min(limits.idle_timeout).min(limits.stream_idle_timeout) / 2;
    let mut look = tokio::time::interval(LOOK_INTERVAL.min(shortest.max(Duration::from_millis(1))));
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // hyper would close a connection without a request, although its admitted client is about to send one.
    let mut stopped = pin!(async {
        stop.cancelled().await;
        timeout(limits.header_timeout, begun.cancelled()).await
    });
    // A client with a newer certificate reconnects with it.
    let mut retired =
        pin!(poll_fn(|cx| traffic.as_ref().map_or(Poll::Pending, |traffic| poll_retired(traffic, cx))));
    let mut finishing = false;
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    debug!(%error, "a connection broke");
                }
                return;
            }
            _begun_or_late = stopped.as_mut(), if !finishing => {
                finishing = true;
                finish(connection.as_mut());
            }
            () = retired.as_mut(), if !finishing => {
                finishing = true;
                finish(connection.as_mut());
            }
            _ = look.tick() => {
                let now = Instant::now();
                if stalled(limits.header_timeout, now) {
                    debug!(limit = ?limits.header_timeout, "a request's head did not end");
                    return;
                }
                calls.terminate_idle(limits.stream_idle_timeout, proxy.control.config.limits.idle_timeout);
                let idle = calls.quiet_for(now).is_some_and(|quiet| quiet > limits.idle_timeout);
                if idle && finishing {
                    return;
                }
                if idle && !finishing {
                    finishing = true;
                    finish(connection.as_mut());
                }
            }
        }
    }
}

fn poll_retired(traffic: &Traffic, cx: &Context<'_>) -> Poll<()> {
    traffic.waker.register(cx.waker());
    if traffic.retired.load(Ordering::Relaxed) { Poll::Ready(()) } else { Poll::Pending }
}
