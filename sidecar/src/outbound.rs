//! The own app's way to one service, whose exact identity must answer.

mod refused;
mod tunnel;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use postern_proto::identity::VerifiedSvid;
use postern_proto::mtls::{
    Admission, Denial, Exactly, ExporterSecret, HandshakeExporter, Judge, client_config_exporting,
};
use postern_proto::policy::Protocol;
use tokio::net::TcpStream;

use crate::config::{Outbound, Target};
use crate::connection_line::ConnectionLine;
use crate::credentials::Credentials;
use crate::ending::{close_cleanly, farewell, reset_on_close};
use crate::http::HttpOutbound;
use crate::listen::{Serve, Until};
use crate::live::{Facts, Registration};
use crate::metrics::Direction;
use crate::plane::Plane;
use crate::refusals::{Called, Refusal};
use crate::relay::{RelayError, relay};
use crate::tls::{self, BrokenHandshake, TlsStream};
use crate::tunnel::Pool;
use crate::upstream::{connect, resolve};
use refused::Failure;

/// Serves the app's connections to one service.
#[derive(Debug)]
pub struct OutboundServer {
    pub(crate) plane: Arc<Plane>,
    index: usize,
    pub(crate) outbound: Outbound,
    /// Where the outbound speaks HTTP.
    http: Option<HttpOutbound>,
    /// Tunnels between two connections of the app.
    pool: Pool,
}

impl OutboundServer {
    pub fn new(plane: Arc<Plane>, index: usize, outbound: Outbound) -> Self {
        let http = (outbound.protocol == Protocol::Http).then(|| HttpOutbound::new(&plane.config.http));
        let pool = Pool::new(plane.config.tunnels);
        Self { plane, index, outbound, http, pool }
    }

    /// What the register knows of a connection before its peer is known.
    pub(crate) fn facts(&self) -> Facts {
        Facts {
            direction: Direction::Outbound,
            listener: self.index,
            service: self.outbound.target.to_string(),
            peer: None,
            since: self.plane.clock.now(),
            is_tunnel: false,
            calls: None,
        }
    }
}

impl Serve for OutboundServer {
    fn direction(&self) -> Direction {
        Direction::Outbound
    }

    fn called(&self) -> Called {
        Self::called(self, None)
    }

    fn serve(
        self: Arc<Self>,
        app: TcpStream,
        from: SocketAddr,
        until: &Until,
    ) -> impl Future<Output = ()> + Send + use<> {
        let until = until.clone();
        // Only what goes to a peer is registered; over HTTP that is shared by many connections of the app.
        let registration =
            self.http.is_none().then(|| Arc::new(self.plane.register.enter(self.facts(), &until.abort)));
        async move {
            match (&self.http, registration) {
                (Some(http), _) => http.serve(&self, app, until).await,
                (None, Some(registration)) => {
                    let _told_at_the_end = ConnectionLine::new(self.clone(), registration.clone(), from);
                    reset_on_close(&app);
                    self.carry(app, &registration).await;
                }
                (None, None) => {}
            }
        }
    }

    fn plane(&self) -> &Plane {
        &self.plane
    }

    fn speaks_http(&self) -> bool {
        self.http.is_some()
    }

    fn look(&self) {
        self.look_after_pool();
    }

    async fn end(&self) {
        self.pool.retire(|_| false);
        if let Some(http) = &self.http {
            http.end().await;
        }
    }
}

impl OutboundServer {
    /// Carries one connection of the app in plain mTLS.
    async fn carry_direct(
        &self,
        mut app: TcpStream,
        mut tls: TlsStream,
        address: SocketAddr,
        registration: &Arc<Registration>,
    ) {
        registration.tell(|story| story.address = Some(address.to_string()));
        reset_on_close(tls.tcp());
        match relay(&mut app, &mut tls, &registration.traffic).await {
            Ok(()) => {
                close_cleanly(&app);
                close_cleanly(tls.tcp());
            }
            // In TLS 1.3 a server's refusal comes when the client's handshake is done: while bytes are relayed.
            Err(RelayError::Peer(error)) => {
                if let Some(refusal) = self.last_word(&mut tls, error, address).await {
                    registration.tell(|story| story.refused(refusal.reason, &refusal.detail));
                    self.plane.refusals.tell(refusal);
                }
            }
            Err(RelayError::App(_)) => {}
        }
    }

    /// Reaches the service and demands its identity, address by address while nothing of the app's has been sent. Else
    /// all that went wrong, at least one thing.
    pub(crate) async fn dial(
        &self,
        registration: &Arc<Registration>,
        alpn: &[&[u8]],
    ) -> Result<Reached, Vec<Refusal>> {
        let ready = self.plane.valid_credentials();
        let ready = ready.and_then(|own| self.plane.expected(&self.outbound.target).map(|_| own));
        let credentials = ready.map_err(|denial| vec![self.of_denial(denial)])?;
        let limits = &self.plane.config.limits;
        let (mut unreachable, mut refused) = (Vec::new(), Vec::new());
        for at in &self.outbound.to {
            let addresses = match resolve(at, limits.connect_timeout).await {
                Ok(addresses) => addresses,
                Err(error) => {
                    unreachable.push(error);
                    continue;
                }
            };
            for address in addresses {
                match connect(address, limits).await {
                    Ok(stream) => match self.reach(stream, address, &credentials, registration, alpn).await {
                        Ok((tls, exporter)) => {
                            self.tell_all(refused);
                            let generation = credentials.generation;
                            return Ok(Reached { tls, address, generation, exporter });
                        }
                        Err(failure) => refused.push(self.of_failure(failure, address).await),
                    },
                    Err(error) => unreachable.push(error),
                }
            }
        }
        refused.extend(self.of_unreachable(&unreachable));
        Err(refused)
    }

    /// Shakes hands; with a server that insists on protocols of its own choice once more, without naming ours.
    async fn reach(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        credentials: &Arc<Credentials>,
        registration: &Arc<Registration>,
        alpn: &[&[u8]],
    ) -> Result<(TlsStream, Option<ExporterSecret>), Failure> {
        match self.handshake(stream, credentials, registration, alpn).await {
            Err(failure) if self.http.is_none() && failure.is_about_alpn() => {
                let again = connect(address, &self.plane.config.limits).await.map_err(Failure::Gone)?;
                self.handshake(again, credentials, registration, &[]).await
            }
            shaken => shaken,
        }
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        credentials: &Arc<Credentials>,
        registration: &Arc<Registration>,
        alpn: &[&[u8]],
    ) -> Result<(TlsStream, Option<ExporterSecret>), Failure> {
        let door = Arc::new(self.door(registration));
        let judge = Arc::new(Judge::new(credentials.bundles.clone(), door));
        let exporter = Arc::<HandshakeExporter>::default();
        let config = client_config_exporting(Some(&credentials.tls), judge.clone(), alpn, exporter.clone());
        let config = config.map_err(Failure::Config)?;
        let limit = self.plane.config.limits.handshake_timeout;
        let started = Instant::now();
        let connecting = tls::connect(stream, config);
        match tokio::time::timeout(limit, connecting).await {
            Ok(Ok(tls)) => {
                self.plane.metrics.handshake(Direction::Outbound, started.elapsed());
                let exporter = tls.session().negotiated_cipher_suite().and_then(|suite| exporter.take(suite));
                Ok((tls, exporter))
            }
            Ok(Err(BrokenHandshake { error, tcp })) => match judge.verdict().cloned() {
                Some(verdict) => Err(Failure::Judged { verdict, stream: tcp }),
                None => Err(Failure::Handshake(error)),
            },
            Err(_) => Err(Failure::TooLate(limit)),
        }
    }
}

/// A service that has answered and proved who it is.
#[derive(Debug)]
pub(crate) struct Reached {
    pub(crate) tls: TlsStream,
    pub(crate) address: SocketAddr,
    /// Of the own credentials shown.
    generation: u64,
    exporter: Option<ExporterSecret>,
}

/// Lets in exactly the service that was called.
#[derive(Debug)]
struct Door {
    plane: Arc<Plane>,
    target: Target,
    registration: Arc<Registration>,
}

impl Admission for Door {
    fn admit(&self, peer: &VerifiedSvid) -> Result<(), Denial> {
        // First known to the register, then asked again whom the policy names now.
        self.registration.identify(peer);
        self.plane.still_believes(peer)?;
        Exactly(self.plane.expected(&self.target)?).admit(peer)
    }
}
