//! Upgraded connections (RFC 9110 §7.8): bytes are relayed for as long as the request is allowed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{CONNECTION, HeaderMap, HeaderValue, UPGRADE};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use postern_proto::mtls::Denial;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::body::Destination;
use super::call::OpenCall;
use super::duplex::Duplex;
use super::end_cause;
use super::handler::RequestHandler;
use super::instrumented_io::InstrumentedIo;
use crate::config::Limits;
use crate::network::socket::close_cleanly;
use crate::observability::{EndedBy, EndedWith};
use crate::proxy::connections::RelayError;
use crate::proxy::connections::Traffic;
use crate::proxy::relay::{AppStream, Over, relay};
use crate::proxy::tls::TlsStream;

/// Sets the fields that name the new protocol.
pub(super) fn name_protocol(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Longest interval between checks of both sides.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// One side of an upgrade.
pub(super) enum UpgradeSide {
    /// An HTTP/1.1 connection.
    Connection(OnUpgrade),
    /// A stream of an HTTP/2 connection.
    Stream(Duplex),
}

/// Relays between the two sides of an upgrade.
pub(super) struct UpgradeRelay {
    client: UpgradeSide,
    called: UpgradeSide,
    call: Arc<OpenCall>,
    client_side: Destination,
    limits: Limits,
    /// Cancelled when the client or server connection is terminated.
    termination: [CancellationToken; 2],
}

impl UpgradeRelay {
    /// `termination` belongs to the server connection.
    pub(super) fn new<S: RequestHandler>(
        handler: &S,
        call: &Arc<OpenCall>,
        [client, called]: [UpgradeSide; 2],
        termination: CancellationToken,
    ) -> Self {
        let (limits, termination) =
            (handler.proxy().control.config.limits, [handler.termination(), termination]);
        Self { client, called, call: call.clone(), client_side: S::CLIENT_SIDE, limits, termination }
    }

    /// Relays once both sides have switched, until both have ended, one fails, or the request is terminated. `C` and
    /// `D` are the I/O types of the client and server connections.
    pub(super) async fn relay<C: UpgradedIo, D: UpgradedIo>(self) {
        let Self { client, called, call, client_side, limits, termination: [one, other] } = self;
        let is_counted = matches!(client, UpgradeSide::Stream(_)) || matches!(called, UpgradeSide::Stream(_));
        let (mut client, called) = match tokio::try_join!(client.switched::<C>(), called.switched::<D>()) {
            Ok(both) => both,
            Err(error) => return debug!(%error, "a connection did not switch"),
        };
        let (bytes, mut called) = (Traffic::default(), Over::new(called));
        let mut has_ended = false;
        tokio::select! {
            relayed = relay(&mut client, &mut called, &bytes) => match relayed {
                Ok(()) => {
                    has_ended = true;
                    client.close();
                    called.stream().close();
                    let client_first = bytes.app_ended_first.load(Ordering::Relaxed);
                    call.ended(if client_first { EndedBy::Caller } else { EndedBy::Called }, EndedWith::Fin);
                }
                Err(RelayError::App(error)) => call.ended(EndedBy::Caller, end_cause::of(&error)),
                Err(RelayError::Peer(error)) => call.ended(EndedBy::Called, end_cause::of(&error)),
            },
            denial = outlived(&bytes, &limits) => call.terminate_upgraded(denial),
            _ = call.terminated() => {}
            () = one.cancelled() => call.ended(EndedBy::Sidecar, EndedWith::Cut),
            () = other.cancelled() => call.ended(EndedBy::Sidecar, EndedWith::Cut),
        }
        // A body that waits for flow-control capacity has no relay any more.
        if !has_ended {
            call.abandon();
        }
        if !is_counted {
            let [to_client, to_called] =
                [&bytes.to_app, &bytes.to_peer].map(|all| all.load(Ordering::Relaxed));
            call.bytes(client_side).fetch_add(to_client, Ordering::Relaxed);
            call.bytes(client_side.other()).fetch_add(to_called, Ordering::Relaxed);
        }
    }
}

impl UpgradeSide {
    async fn switched<S: UpgradedIo>(self) -> io::Result<UpgradedStream<S>> {
        match self {
            Self::Connection(switching) => {
                let below = S::of(switching.await.map_err(io::Error::other)?);
                let stream = below.ok_or_else(|| io::Error::other("the connection is of another kind"))?;
                Ok(UpgradedStream::Connection(stream))
            }
            Self::Stream(stream) => Ok(UpgradedStream::Stream(stream)),
        }
    }
}

/// An upgraded byte stream.
enum UpgradedStream<S> {
    Connection(S),
    Stream(Duplex),
}

impl<S: UpgradedIo> UpgradedStream<S> {
    /// Closes a stream that has ended cleanly in both directions.
    fn close(&self) {
        if let Self::Connection(stream) = self {
            close_cleanly(stream.tcp());
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for UpgradedStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Connection(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Stream(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for UpgradedStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Connection(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Stream(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Connection(stream) => Pin::new(stream).poll_flush(cx),
            Self::Stream(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Connection(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Stream(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl<S: AppStream> AppStream for UpgradedStream<S> {
    fn take_error(&self) -> Option<io::Error> {
        match self {
            Self::Connection(stream) => stream.take_error(),
            Self::Stream(stream) => stream.take_error(),
        }
    }
}

/// Waits until an upgraded connection exceeds its idle or half-closed timeout. It is checked at least twice within
/// each.
async fn outlived(bytes: &Traffic, limits: &Limits) -> Denial {
    let shortest = limits.idle_timeout.min(limits.half_closed_timeout) / 2;
    let mut look = tokio::time::interval(shortest.min(LOOK_INTERVAL));
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut forwarded, mut moved) = (0, Instant::now());
    loop {
        let now = look.tick().await;
        let both = bytes.to_app.load(Ordering::Relaxed) + bytes.to_peer.load(Ordering::Relaxed);
        if both != forwarded {
            (forwarded, moved) = (both, now);
        }
        if let Err(denial) = limits.still_moves(bytes.half_closed.load(Ordering::Relaxed), now - moved) {
            return denial;
        }
        // A side that is not read, because the other accepts nothing, may have been reset meanwhile.
        bytes.look.store(true, Ordering::Relaxed);
        bytes.waker.wake();
    }
}

/// An I/O type that hyper returns after an upgrade.
pub(super) trait UpgradedIo: AppStream + Send + Sized + 'static {
    /// Restores the stream, with the bytes that hyper has read and not used. Unless both directions end cleanly, the
    /// connection is reset.
    fn of(upgraded: Upgraded) -> Option<Self>;
    fn tcp(&self) -> &TcpStream;
}

impl<S: AsyncRead + AsyncWrite + HasTcp + Unpin + Send + 'static> UpgradedIo for InstrumentedIo<S> {
    fn of(upgraded: Upgraded) -> Option<Self> {
        let parts = upgraded.downcast::<TokioIo<Self>>().ok()?;
        Some(parts.io.into_inner().relayed().after(parts.read_buf.to_vec()))
    }

    fn tcp(&self) -> &TcpStream {
        self.stream().tcp()
    }
}

impl<S: AsyncRead + AsyncWrite + HasTcp + Unpin> AppStream for InstrumentedIo<S> {
    fn take_error(&self) -> Option<io::Error> {
        self.stream().tcp().take_error().unwrap_or_else(Some)
    }
}

/// A stream over TCP.
pub(super) trait HasTcp {
    fn tcp(&self) -> &TcpStream;
}

impl HasTcp for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl HasTcp for TlsStream {
    fn tcp(&self) -> &TcpStream {
        self.tcp()
    }
}
