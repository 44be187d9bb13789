//! Connections that stop being HTTP (RFC 9110 §7.8): from then on bytes are relayed, as long as the call is allowed.

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

use super::body::To;
use super::call::OpenCall;
use super::duplex::Duplex;
use super::ended;
use super::handler::RequestHandler;
use super::instrumented_io::InstrumentedIo;
use crate::config::Limits;
use crate::network::socket::close_cleanly;
use crate::observability::{EndedBy, EndedWith};
use crate::proxy::connections::RelayError;
use crate::proxy::connections::Traffic;
use crate::proxy::relay::{AppStream, Over, relay};
use crate::proxy::tls::TlsStream;

/// Names the protocol to which a message switches.
pub(super) fn name_protocol(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Both sides are looked at so often.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// What is about to become a stream of bytes.
pub(super) enum Way {
    /// A connection that switches.
    Connection(OnUpgrade),
    /// A stream of a shared connection.
    Stream(Duplex),
}

/// Two sides that both switch.
pub(super) struct Switching {
    client: Way,
    called: Way,
    call: Arc<OpenCall>,
    answers_to: To,
    limits: Limits,
    /// Of both connections.
    cut: [CancellationToken; 2],
}

impl Switching {
    /// `cut` is of the connection to whoever is called.
    pub(super) fn new<S: RequestHandler>(
        side: &S,
        call: &Arc<OpenCall>,
        [client, called]: [Way; 2],
        cut: CancellationToken,
    ) -> Self {
        let (limits, cut) = (side.proxy().control.config.limits, [side.cut(), cut]);
        Self { client, called, call: call.clone(), answers_to: S::ANSWERS_TO, limits, cut }
    }

    /// Relays once both have switched, until both have ended, one breaks, or the call is cut.
    /// `C` and `D` are the streams below the connections of whoever asks and whoever is called.
    pub(super) async fn relay<C: Below, D: Below>(self) {
        let Self { client, called, call, answers_to, limits, cut: [one, other] } = self;
        let is_counted = matches!(client, Way::Stream(_)) || matches!(called, Way::Stream(_));
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
                Err(RelayError::App(error)) => call.ended(EndedBy::Caller, ended::of(&error)),
                Err(RelayError::Peer(error)) => call.ended(EndedBy::Called, ended::of(&error)),
            },
            denial = outlived(&bytes, &limits) => call.cut_upgraded(denial),
            _ = call.cut_while_answering() => {}
            () = one.cancelled() => call.ended(EndedBy::Sidecar, EndedWith::Cut),
            () = other.cancelled() => call.ended(EndedBy::Sidecar, EndedWith::Cut),
        }
        // A body that still waits for room has no relay any more.
        if !has_ended {
            call.abandon();
        }
        if !is_counted {
            let [to_client, to_called] =
                [&bytes.to_app, &bytes.to_peer].map(|all| all.load(Ordering::Relaxed));
            call.bytes(answers_to).fetch_add(to_client, Ordering::Relaxed);
            call.bytes(answers_to.other()).fetch_add(to_called, Ordering::Relaxed);
        }
    }
}

impl Way {
    async fn switched<S: Below>(self) -> io::Result<Switched<S>> {
        match self {
            Self::Connection(switching) => {
                let below = S::of(switching.await.map_err(io::Error::other)?);
                let stream = below.ok_or_else(|| io::Error::other("the connection is of another kind"))?;
                Ok(Switched::Connection(stream))
            }
            Self::Stream(stream) => Ok(Switched::Stream(stream)),
        }
    }
}

/// A stream of bytes that was HTTP.
enum Switched<S> {
    Connection(S),
    Stream(Duplex),
}

impl<S: Below> Switched<S> {
    /// Closes what has ended cleanly in both directions.
    fn close(&self) {
        if let Self::Connection(stream) = self {
            close_cleanly(stream.tcp());
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Switched<S> {
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

impl<S: AsyncWrite + Unpin> AsyncWrite for Switched<S> {
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

impl<S: AppStream> AppStream for Switched<S> {
    fn take_error(&self) -> Option<io::Error> {
        match self {
            Self::Connection(stream) => stream.take_error(),
            Self::Stream(stream) => stream.take_error(),
        }
    }
}

/// Waits until an upgraded connection has been idle, or half closed, for too long. It is looked at at least twice within
/// each limit.
async fn outlived(bytes: &Traffic, limits: &Limits) -> Denial {
    let shortest = limits.idle_timeout.min(limits.half_closed_timeout) / 2;
    let mut look = tokio::time::interval(shortest.min(LOOK_INTERVAL));
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut carried, mut moved) = (0, Instant::now());
    loop {
        let now = look.tick().await;
        let both = bytes.to_app.load(Ordering::Relaxed) + bytes.to_peer.load(Ordering::Relaxed);
        if both != carried {
            (carried, moved) = (both, now);
        }
        if let Err(denial) = limits.still_moves(bytes.half_closed.load(Ordering::Relaxed), now - moved) {
            return denial;
        }
        // A side that is not read, because the other takes nothing, may have gone meanwhile.
        bytes.look.store(true, Ordering::Relaxed);
        bytes.waker.wake();
    }
}

/// A stream that hyper was given, and gives back.
pub(super) trait Below: AppStream + Send + Sized + 'static {
    /// With what hyper has read already and not used. Whatever ends it but a clean end of both directions resets it.
    fn of(upgraded: Upgraded) -> Option<Self>;
    fn tcp(&self) -> &TcpStream;
}

impl<S: AsyncRead + AsyncWrite + OverTcp + Unpin + Send + 'static> Below for InstrumentedIo<S> {
    fn of(upgraded: Upgraded) -> Option<Self> {
        let parts = upgraded.downcast::<TokioIo<Self>>().ok()?;
        Some(parts.io.into_inner().relayed().after(parts.read_buf.to_vec()))
    }

    fn tcp(&self) -> &TcpStream {
        self.stream().tcp()
    }
}

impl<S: AsyncRead + AsyncWrite + OverTcp + Unpin> AppStream for InstrumentedIo<S> {
    fn take_error(&self) -> Option<io::Error> {
        self.stream().tcp().take_error().unwrap_or_else(Some)
    }
}

/// A stream with TCP at its bottom.
pub(super) trait OverTcp {
    fn tcp(&self) -> &TcpStream;
}

impl OverTcp for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl OverTcp for TlsStream {
    fn tcp(&self) -> &TcpStream {
        self.tcp()
    }
}
