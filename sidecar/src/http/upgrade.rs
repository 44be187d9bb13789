//! Connections that stop being HTTP (RFC 9110 §7.8): from then on bytes are relayed, as long as the call is allowed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::header::{CONNECTION, HeaderMap, HeaderValue, UPGRADE};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use postern_proto::mtls::Denial;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::call::OpenCall;
use super::ended;
use super::watched::Watched;
use crate::access_log::{EndedBy, EndedWith};
use crate::config::Limits;
use crate::ending::close_cleanly;
use crate::live::Traffic;
use crate::metrics::Direction;
use crate::relay::{AppStream, Over, RelayError, relay};
use crate::tls::TlsStream;

/// Names the protocol to which a message switches.
pub(super) fn name_protocol(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Two connections that both switch.
pub(super) struct Switching {
    pub(super) app: OnUpgrade,
    pub(super) peer: OnUpgrade,
    pub(super) call: Arc<OpenCall>,
    /// Of the connection with the peer: which side calls.
    pub(super) direction: Direction,
    pub(super) limits: Limits,
    /// Of both connections.
    pub(super) cut: [CancellationToken; 2],
}

impl Switching {
    /// Relays once both have switched, until both have ended, one breaks, or the call is cut. `A` and `P` are the
    /// streams below both connections.
    pub(super) async fn carry<A: Below, P: Below>(self) {
        let Self { app, peer, call, direction, limits, cut: [one, other] } = self;
        let (app, peer) = match tokio::try_join!(app, peer) {
            Ok((app, peer)) => (A::of(app), P::of(peer)),
            Err(error) => return debug!(%error, "a connection did not switch"),
        };
        let (Some(mut app), Some(peer)) = (app, peer) else {
            return debug!("a connection is of another kind");
        };
        let (bytes, mut peer) = (Traffic::default(), Over::new(peer));
        let by = Sides::of(direction);
        tokio::select! {
            relayed = relay(&mut app, &mut peer, &bytes) => match relayed {
                Ok(()) => {
                    close_cleanly(app.tcp());
                    close_cleanly(peer.stream().tcp());
                    let app_first = bytes.app_ended_first.load(Ordering::Relaxed);
                    call.ended(if app_first { by.app } else { by.peer }, EndedWith::Fin);
                }
                Err(RelayError::App(error)) => call.ended(by.app, ended::of(&error)),
                Err(RelayError::Peer(error)) => call.ended(by.peer, ended::of(&error)),
            },
            denial = outlived(&bytes, &limits) => call.cut_upgraded(denial),
            _ = call.cut_while_answering() => {}
            () = one.cancelled() => call.ended(EndedBy::Sidecar, EndedWith::Cut),
            () = other.cancelled() => call.ended(EndedBy::Sidecar, EndedWith::Cut),
        }
        call.bytes_to_app.fetch_add(bytes.to_app.load(Ordering::Relaxed), Ordering::Relaxed);
        call.bytes_to_peer.fetch_add(bytes.to_peer.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// Who is who on the two connections.
struct Sides {
    app: EndedBy,
    peer: EndedBy,
}

impl Sides {
    fn of(direction: Direction) -> Self {
        match direction {
            Direction::Inbound => Self { app: EndedBy::Called, peer: EndedBy::Caller },
            Direction::Outbound => Self { app: EndedBy::Caller, peer: EndedBy::Called },
        }
    }
}

/// Waits until an upgraded connection has been idle, or half closed, for too long. It is looked at at least twice within
/// each limit.
async fn outlived(bytes: &Traffic, limits: &Limits) -> Denial {
    let mut look = tokio::time::interval(limits.idle_timeout.min(limits.half_closed_timeout) / 2);
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
    }
}

/// A stream that hyper was given, and gives back.
pub(super) trait Below: AppStream + Send + Sized + 'static {
    /// With what hyper has read already and not used. Whatever ends it but a clean end of both directions resets it.
    fn of(upgraded: Upgraded) -> Option<Self>;
    fn tcp(&self) -> &TcpStream;
}

impl<S: AsyncRead + AsyncWrite + OverTcp + Unpin + Send + 'static> Below for Watched<S> {
    fn of(upgraded: Upgraded) -> Option<Self> {
        let parts = upgraded.downcast::<TokioIo<Self>>().ok()?;
        Some(parts.io.into_inner().relayed().after(parts.read_buf.to_vec()))
    }

    fn tcp(&self) -> &TcpStream {
        self.stream().tcp()
    }
}

impl<S: AsyncRead + AsyncWrite + OverTcp + Unpin> AppStream for Watched<S> {
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
