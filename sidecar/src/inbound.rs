//! mTLS from peers to the own app.

mod greeting;
mod refused;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use postern_proto::identity::VerifiedSvid;
use postern_proto::mtls::{Admission, Denial, Judge, server_config};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::config::Inbound;
use crate::credentials::Credentials;
use crate::ending::{farewell, reset_on_close};
use crate::listen::Serve;
use crate::live::{Facts, Registration};
use crate::metrics::Direction;
use crate::pending::Pending;
use crate::plane::Plane;
use crate::relay::relay;
use crate::upstream::connect;
use refused::{Stage, Stopped};

/// Serves the connections of one inbound.
#[derive(Debug)]
pub struct InboundServer {
    plane: Arc<Plane>,
    index: usize,
    inbound: Arc<Inbound>,
    pending: Arc<Pending>,
}

impl InboundServer {
    pub fn new(plane: Arc<Plane>, index: usize, inbound: Inbound) -> Self {
        let pending = Arc::new(Pending::new(plane.config.limits.handshakes_pending_max));
        Self { plane, index, inbound: Arc::new(inbound), pending }
    }
}

impl Serve for InboundServer {
    fn direction(&self) -> Direction {
        Direction::Inbound
    }

    fn name(&self) -> &str {
        &self.inbound.name
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, from: SocketAddr, abort: CancellationToken) {
        let registration = Arc::new(self.plane.register.enter(Facts {
            direction: Direction::Inbound,
            listener: self.index,
            service: self.inbound.name.clone(),
            peer: None,
            since: self.plane.clock.now(),
        }));
        // Boxed, so that the handshake's state is gone while bytes are relayed.
        let handshake = Box::pin(self.handshake(stream, from, registration.clone(), &abort));
        let Some(mut tls) = handshake.await else { return };
        let Some(mut app) = Box::pin(self.connect_app(&tls)).await else {
            return reset_on_close(tls.get_ref().0);
        };
        let ended = tokio::select! {
            ended = relay(&mut app, &mut tls, &registration.bytes) => ended.is_ok(),
            () = registration.cut.cancelled() => false,
            () = abort.cancelled() => false,
        };
        if !ended {
            reset_on_close(&app);
            reset_on_close(tls.get_ref().0);
        }
    }
}

impl InboundServer {
    /// Handshakes within the limits; a refusal is told, to the peer by alert and to the operator.
    async fn handshake(
        &self,
        stream: TcpStream,
        from: SocketAddr,
        registration: Arc<Registration>,
        abort: &CancellationToken,
    ) -> Option<TlsStream<TcpStream>> {
        let place = self.pending.enter();
        let started = Instant::now();
        let limit = self.plane.config.limits.handshake_timeout;
        let stopped = tokio::select! {
            outcome = self.admit(stream, registration) => match outcome {
                Ok(tls) => {
                    self.plane.metrics.handshake(started.elapsed());
                    return Some(tls);
                }
                Err(stopped) => stopped,
            },
            () = tokio::time::sleep(limit) => Stopped::at(Stage::TimedOut { limit }),
            () = place.evicted.cancelled() => Stopped::at(Stage::Evicted),
            () = abort.cancelled() => return None,
        };
        drop(place);
        self.tell(from, &stopped);
        if let Some(stream) = stopped.stream {
            farewell(stream).await;
        }
        None
    }

    async fn admit(
        &self,
        stream: TcpStream,
        registration: Arc<Registration>,
    ) -> Result<TlsStream<TcpStream>, Stopped> {
        let stream = greeting::expect_tls(stream).await?;
        let credentials = match self.plane.valid_credentials() {
            Ok(credentials) => credentials,
            Err(denial) => return Err(Stopped { stage: Stage::Denied(denial), stream: Some(stream) }),
        };
        let door = Door {
            plane: self.plane.clone(),
            inbound: self.inbound.clone(),
            credentials: credentials.clone(),
            registration,
        };
        let judge = Arc::new(Judge::new(credentials.bundles.clone(), Arc::new(door)));
        let config = match server_config(&credentials.tls, judge.clone(), &[]) {
            Ok(config) => config,
            Err(error) => return Err(Stopped { stage: Stage::Config(error), stream: Some(stream) }),
        };
        let accepted = TlsAcceptor::from(config).accept(stream).into_fallible().await;
        accepted.map_err(|(error, stream)| Stopped {
            stage: Stage::Handshake { error, verdict: judge.verdict().cloned() },
            stream: Some(stream),
        })
    }

    async fn connect_app(&self, tls: &TlsStream<TcpStream>) -> Option<TcpStream> {
        match connect(std::slice::from_ref(&self.inbound.app), self.plane.config.limits.connect_timeout).await
        {
            Ok(app) => Some(app),
            Err(error) => {
                let from = tls.get_ref().0.peer_addr();
                let stage = Stage::AppUnreachable(error);
                match from {
                    Ok(from) => self.tell(from, &Stopped::at(stage)),
                    Err(error) => debug!(%error, "the peer left before its app could be reached"),
                }
                None
            }
        }
    }
}

/// Lets in whom the policy allows, at the moment the peer has proved its name.
#[derive(Debug)]
struct Door {
    plane: Arc<Plane>,
    inbound: Arc<Inbound>,
    credentials: Arc<Credentials>,
    registration: Arc<Registration>,
}

impl Admission for Door {
    fn admit(&self, peer: &VerifiedSvid) -> Result<(), Denial> {
        // First known to the register, then decided: a policy that comes between is seen by one of the two.
        self.registration.identify(peer);
        self.plane.admit(peer.id(), self.credentials.svid.id(), &self.inbound)
    }
}
