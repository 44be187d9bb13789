//! mTLS from peers to the own app.

mod greeting;
mod refused;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use postern_proto::identity::VerifiedSvid;
use postern_proto::mtls::{Admission, Denial, Judge, server_config};
use postern_proto::policy::Decision;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::config::Inbound;
use crate::credentials::Credentials;
use crate::ending::{close_cleanly, farewell, reset_on_close};
use crate::listen::Serve;
use crate::live::{Facts, Registration};
use crate::metrics::Direction;
use crate::pending::{Pending, Place};
use crate::plane::Plane;
use crate::refusals::Called;
use crate::relay::relay;
use crate::upstream::connect_any;
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

    fn called(&self) -> Called {
        Self::called(self)
    }

    fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        from: SocketAddr,
        abort: &CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<> {
        let facts = Facts {
            direction: Direction::Inbound,
            listener: self.index,
            service: self.inbound.name.clone(),
            peer: None,
            since: self.plane.clock.now(),
        };
        let registration = Arc::new(self.plane.register.enter(facts, abort));
        let place = self.pending.enter();
        async move {
            tokio::select! {
                biased;
                () = registration.cut.cancelled() => {}
                () = self.carry(stream, from, place, &registration) => {}
            }
        }
    }
}

impl InboundServer {
    async fn carry(
        &self,
        stream: TcpStream,
        from: SocketAddr,
        place: Place,
        registration: &Arc<Registration>,
    ) {
        // Boxed, so that the handshake's state is gone while bytes are relayed.
        let admitted = Box::pin(self.handshake(stream, place, registration)).await;
        let mut tls = match admitted {
            Ok(tls) => tls,
            Err(stopped) => {
                self.tell(from, None, &stopped);
                if let Some(stream) = stopped.stream {
                    farewell(stream).await;
                }
                return;
            }
        };
        reset_on_close(tls.get_ref().0);
        let limit = self.plane.config.limits.connect_timeout;
        let mut app = match Box::pin(connect_any(&self.inbound.app, limit)).await {
            Ok(app) => app,
            Err(error) => {
                return self.tell(from, registration.peer(), &Stopped::at(Stage::AppUnreachable(error)));
            }
        };
        reset_on_close(&app);
        match relay(&mut app, &mut tls, &registration.bytes).await {
            Ok(()) => {
                close_cleanly(&app);
                close_cleanly(tls.get_ref().0);
            }
            Err(error) => debug!(%error, "a connection broke"),
        }
    }

    /// Handshakes within the limits.
    async fn handshake(
        &self,
        stream: TcpStream,
        place: Place,
        registration: &Arc<Registration>,
    ) -> Result<TlsStream<TcpStream>, Stopped> {
        let started = Instant::now();
        let limit = self.plane.config.limits.handshake_timeout;
        let tls = tokio::select! {
            admitted = self.admit(stream, &place, registration) => admitted?,
            () = tokio::time::sleep(limit) => return Err(Stopped::at(Stage::TimedOut { limit })),
            () = place.evicted.cancelled() => return Err(Stopped::at(Stage::Evicted)),
        };
        self.plane.metrics.handshake(Direction::Inbound, started.elapsed());
        Ok(tls)
    }

    /// The handshake itself; nothing is prepared for it before the peer has sent its ClientHello.
    async fn admit(
        &self,
        stream: TcpStream,
        place: &Place,
        registration: &Arc<Registration>,
    ) -> Result<TlsStream<TcpStream>, Stopped> {
        let stream = greeting::expect_tls(stream).await?;
        let hello = greeting::client_hello(stream).await?;
        place.greeted();
        let credentials = match self.plane.valid_credentials() {
            Ok(credentials) => credentials,
            Err(denial) => {
                let stream = greeting::cannot_serve(hello.io).await;
                return Err(Stopped { stage: Stage::Denied(denial), stream: Some(stream) });
            }
        };
        let door = Door {
            plane: self.plane.clone(),
            inbound: self.inbound.clone(),
            credentials: credentials.clone(),
            registration: registration.clone(),
        };
        let judge = Arc::new(Judge::new(credentials.bundles.clone(), Arc::new(door)));
        let config = match server_config(&credentials.tls, judge.clone(), &[]) {
            Ok(config) => config,
            Err(error) => return Err(Stopped { stage: Stage::Config(error), stream: Some(hello.io) }),
        };
        hello.into_stream(config).into_fallible().await.map_err(|(error, stream)| Stopped {
            stage: Stage::Handshake { error, verdict: judge.verdict().cloned() },
            stream: Some(stream),
        })
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
        // First known to the register, then decided: a policy or trust that comes between is seen by one of the two.
        self.registration.identify(peer);
        self.plane.still_believes(peer)?;
        let (peer, own) = (peer.id(), self.credentials.svid.id());
        let decision = self.plane.admit(peer, own, &self.inbound)?;
        if let Decision::Observed { .. } = &decision {
            let (port, reason) = (self.inbound.name.as_str(), decision.reason());
            tracing::info!(%peer, service = %own, port, reason, "observed");
        }
        Ok(())
    }
}
