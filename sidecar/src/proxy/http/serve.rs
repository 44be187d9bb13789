//! One connection of a client, served request by request until it ends, idles too long or is told to end.

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
use super::upgrade::OverTcp;
use super::{BUFFER_BYTES_MAX, CONNECTION_WINDOW_BYTES, FRAME_BYTES_MAX, STREAM_WINDOW_BYTES};
use crate::config::Http;
use crate::proxy::connections::Requests as _;
use crate::proxy::connections::Traffic;
use crate::proxy::state::ProxyState;

/// Times are looked at this often at least, and at least twice within each limit.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Streams that we may have to reset for a client's faults (MadeYouReset, CVE-2025-8671).
const RESETS_CAUSED_MAX: usize = 100;
/// Of one response so much waits for the client's window.
const SEND_BYTES_MAX: usize = 64 * 1024;

/// What belongs to one connection, beside its bytes.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) proxy: Arc<ProxyState>,
    /// Of a peer's connection: says when it is too old.
    pub(super) traffic: Option<Arc<Traffic>>,
    pub(super) calls: Arc<Calls>,
    pub(super) heads: Arc<RawHeadCheck>,
    pub(super) streams: Arc<Streams>,
    /// What hyper spawns for it.
    pub(super) tasks: ConnectionTasks,
    /// No further requests.
    pub(super) stop: CancellationToken,
}

/// Which HTTP a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaks {
    Http1,
    Http2,
}

/// Reads just so much of a plaintext connection that it shows which HTTP it speaks.
pub(super) async fn first_bytes<S: AsyncRead + Unpin>(stream: &mut S) -> std::io::Result<(Vec<u8>, Speaks)> {
    let mut first = Vec::with_capacity(PREFACE.len());
    while first.len() < PREFACE.len() && PREFACE.starts_with(&first) {
        let missing = (PREFACE.len() - first.len()) as u64;
        if (&mut *stream).take(missing).read_buf(&mut first).await? == 0 {
            break;
        }
    }
    let speaks = if first == PREFACE { Speaks::Http2 } else { Speaks::Http1 };
    Ok((first, speaks))
}

/// Serves a connection to its end.
pub(super) async fn serve<S, D>(
    stream: InstrumentedIo<S>,
    speaks: Speaks,
    service: HandlerService<D>,
    session: &Session,
) where
    S: AsyncRead + AsyncWrite + OverTcp + Unpin + Send + 'static,
    D: RequestHandler,
{
    let begun = CancellationToken::new();
    let least = if speaks == Speaks::Http2 { PREFACE.len() } else { 1 };
    let limits = &session.proxy.control.config.http;
    let stream = stream.reset_unless_ended().begins(begun.clone(), least);
    match speaks {
        Speaks::Http1 => {
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
        Speaks::Http2 => {
            // Who has gone already needs no PING.
            let config = &session.proxy.control.config;
            let peer = stream.stream().tcp().peer_addr().ok();
            let pings = peer.and_then(|peer| pings(peer.ip(), config.limits.dead_after));
            let unfinished = Arc::<Unfinished>::default();
            let calls = session.calls.clone();
            let report = Arc::new(move |bad: &InvalidMessage| calls.at_fault(bad));
            let (streams, unfinished_here) = (session.streams.clone(), unfinished.clone());
            let stream = stream.frames(Frames::of_requests(*limits, streams, unfinished_here, report));
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
        // A client may end its direction behind its last request, and has its answers all the same (RFC 9112 §9.6).
        .half_close(true)
        // The time of heads is looked at here, with what came of them: hyper's own limit also ends idle connections.
        .header_read_timeout(None)
        // What is over our limits never gets there: hyper refuses without a word.
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
        // Ours is applied before; h2's would be without a word.
        .max_header_list_size(header_list_max(limits))
        // Streams that a client may reset before they were looked at (rapid reset, CVE-2023-44487): as many as it may have
        // open, as all who share the connection may take back what they have under way.
        .max_pending_accept_reset_streams(limits.streams_max)
        .max_local_error_reset_streams(Some(RESETS_CAUSED_MAX))
        .max_send_buffer_size(SEND_BYTES_MAX)
        .max_frame_size(FRAME_BYTES_MAX)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    builder
}

/// Drives a connection, and looks at its times meanwhile; `stalled` says whether a head did not end within its own.
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
    // hyper would close one that has not begun, though its client, who was let in, is about to ask something.
    let mut stopped = pin!(async {
        stop.cancelled().await;
        timeout(limits.header_timeout, begun.cancelled()).await
    });
    // Whoever has a newer certificate comes again with it.
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
                calls.cut_idle(limits.stream_idle_timeout, proxy.control.config.limits.idle_timeout);
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
