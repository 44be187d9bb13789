//! Connections that stop being HTTP (RFC 9110 §7.8): from then on bytes are relayed, as long as the call is allowed.

use std::sync::Arc;

use http::header::{CONNECTION, HeaderMap, HeaderValue, UPGRADE};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::call::OpenCall;
use super::watched::Watched;
use crate::ending::close_cleanly;
use crate::live::Traffic;
use crate::relay::{Over, relay};
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
    /// Of both connections.
    pub(super) cut: [CancellationToken; 2],
}

impl Switching {
    /// Relays once both have switched, until both have ended, one breaks, or the call is cut. `A` and `P` are the
    /// streams below both connections.
    pub(super) async fn carry<A: Below, P: Below>(self) {
        let (app, peer) = match tokio::try_join!(self.app, self.peer) {
            Ok((app, peer)) => (A::of(app), P::of(peer)),
            Err(error) => return debug!(%error, "a connection did not switch"),
        };
        let (Some(mut app), Some(peer)) = (app, peer) else {
            return debug!("a connection is of another kind");
        };
        let (bytes, mut peer) = (Traffic::default(), Over::new(peer));
        let [one, other] = &self.cut;
        tokio::select! {
            relayed = relay(&mut app, &mut peer, &bytes) => match relayed {
                Ok(()) => {
                    close_cleanly(app.tcp());
                    close_cleanly(peer.stream().tcp());
                }
                Err(error) => debug!(%error, "a connection broke"),
            },
            _ = self.call.cut_while_answering() => {}
            () = one.cancelled() => {}
            () = other.cancelled() => {}
        }
    }
}

/// A stream that hyper was given, and gives back.
pub(super) trait Below: AsyncRead + AsyncWrite + Unpin + Send + Sized + 'static {
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
