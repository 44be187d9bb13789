//! Accepts the connections of workloads: TLS 1.3, a certificate where there is one, and bounds on all that is under way.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use postern_proto::mtls::{AuthorizeAny, PeerVerifier, TlsIdentity, Verdict, server_config};
use postern_server::{HandshakeLimiter, HandshakeStage, lingering_close};
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;
use tracing::{error, warn};

use crate::api::Caller;
use crate::authority::Authority;
use crate::config::Config;

/// After accept failed for want of descriptors, the next try waits this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How old a connection may be.
#[derive(Debug, Clone, Copy)]
struct Ages {
    /// Then the server asks it to end.
    most: Duration,
    /// And so much later it is cut, if no sidecar listens on it.
    grace: Duration,
}

/// Accepts workloads within the limits.
#[derive(Debug)]
pub(super) struct TlsAcceptor {
    authority: Arc<Authority>,
    own: Arc<ArcSwap<TlsIdentity>>,
    handshakes: Arc<HandshakeLimiter>,
    connections: Arc<Semaphore>,
    handshake_timeout: Duration,
    ages: Ages,
    renew_after_expiry: Duration,
}

impl TlsAcceptor {
    pub(super) fn new(config: &Config, authority: Arc<Authority>, own: Arc<ArcSwap<TlsIdentity>>) -> Self {
        Self {
            authority,
            own,
            handshakes: Arc::new(HandshakeLimiter::new(
                config.limits.handshakes_pending_max,
                Gauge::default(),
            )),
            connections: Arc::new(Semaphore::new(config.limits.connections_max)),
            handshake_timeout: config.limits.handshake_timeout,
            ages: Ages { most: config.limits.connection_age_max, grace: config.limits.request_timeout },
            renew_after_expiry: config.renew_after_expiry,
        }
    }

    /// Accepts until `stop` and passes on who has shaken hands.
    pub(super) async fn run(
        self,
        listener: TcpListener,
        established: mpsc::Sender<std::io::Result<Connection>>,
        stop: CancellationToken,
    ) {
        let acceptor = Arc::new(self);
        let mut handshakes = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(ended) = handshakes.join_next() => if let Err(error) = ended {
                    error!(%error, "a handshake's task failed");
                },
                // A caller by IPv4 has an IPv4 address also where the listener is an IPv6 one.
                accepted = listener.accept() => match accepted.map(canonical) {
                    Ok((stream, address)) => match acceptor.connections.clone().try_acquire_owned() {
                        Ok(permit) => {
                            handshakes.spawn(acceptor.clone().handshake(stream, address, permit, established.clone()));
                        }
                        Err(_) => warn!(%address, reason = "connections_max", "refused"),
                    },
                    Err(error) => {
                        warn!(%error, "cannot accept");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    async fn handshake(
        self: Arc<Self>,
        stream: TcpStream,
        address: SocketAddr,
        open: OwnedSemaphorePermit,
        established: mpsc::Sender<std::io::Result<Connection>>,
    ) {
        let permit = self.handshakes.acquire(HandshakeStage::Handshaking);
        let refused = tokio::select! {
            result = self.try_handshake(stream, address) => match result {
                Ok((tls, caller)) => {
                    drop(permit);
                    // The server is gone only when everything ends.
                    let cut = Box::pin(tokio::time::sleep(self.ages.most + self.ages.grace));
                    let connection = Connection { tls, caller, cut, grace: self.ages.grace, _open: open };
                    let _ending = established.send(Ok(connection)).await;
                    return;
                }
                Err(refused) => refused,
            },
            () = tokio::time::sleep(self.handshake_timeout) => Refused::because("handshake_timeout"),
            () = permit.evicted.cancelled() => Refused::because("handshakes_pending"),
        };
        drop(permit);
        warn!(%address, reason = refused.reason, detail = refused.detail, "refused");
        if let Some(stream) = refused.stream {
            lingering_close(stream).await;
        }
    }

    async fn try_handshake(
        &self,
        stream: TcpStream,
        address: SocketAddr,
    ) -> Result<(TlsStream<TcpStream>, Caller), Refused> {
        let failed = |error: &dyn std::error::Error| Refused {
            detail: error.to_string().escape_debug().to_string(),
            ..Refused::because("handshake_failed")
        };
        stream.set_nodelay(true).map_err(|error| failed(&error))?;
        let judge = PeerVerifier::new(self.authority.bundles().clone(), Arc::new(AuthorizeAny))
            .certificate_optional()
            .expired_for_at_most(self.renew_after_expiry);
        let judge = Arc::new(judge);
        let config =
            server_config(&self.own.load(), judge.clone(), &[b"h2"]).map_err(|error| failed(&error))?;
        match tokio_rustls::TlsAcceptor::from(config).accept(stream).into_fallible().await {
            Ok(tls) => {
                Ok((tls, Caller { address, svid: judge.admitted().cloned(), active_streams: Arc::default() }))
            }
            Err((error, stream)) => {
                let mut refused = failed(&error);
                if let Some(Verdict::Unverified(why)) = judge.verdict() {
                    refused.reason = why.code();
                    refused.detail = why.to_string().escape_debug().to_string();
                }
                refused.stream = Some(stream);
                Err(refused)
            }
        }
    }
}

fn canonical((stream, from): (TcpStream, SocketAddr)) -> (TcpStream, SocketAddr) {
    (stream, SocketAddr::new(from.ip().to_canonical(), from.port()))
}

/// A client that is not let in.
#[derive(Debug)]
struct Refused {
    reason: &'static str,
    detail: String,
    /// Where the client can still be told.
    stream: Option<TcpStream>,
}

impl Refused {
    fn because(reason: &'static str) -> Self {
        Self { reason, detail: String::new(), stream: None }
    }
}

/// An established connection; it counts until it is dropped.
#[derive(Debug)]
pub(super) struct Connection {
    tls: TlsStream<TcpStream>,
    caller: Caller,
    /// When it is too old.
    cut: Pin<Box<Sleep>>,
    grace: Duration,
    _open: OwnedSemaphorePermit,
}

impl Connection {
    /// A subscription lives as long as a certificate; all else must be over by now.
    fn poll_cut(&mut self, cx: &mut Context<'_>) -> std::io::Result<()> {
        while self.cut.as_mut().poll(cx).is_ready() {
            if !self.caller.active_streams.any() {
                return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "the connection is too old"));
            }
            let later = Instant::now() + self.grace;
            self.cut.as_mut().reset(later);
        }
        Ok(())
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.poll_cut(cx)?;
        Pin::new(&mut self.tls).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}
