//! The inbound server: mTLS from peers to the own app.

mod first_bytes;
mod proxy_protocol;
mod refusal;
mod tunnel;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use postern_proto::identity::{SpiffeId, VerifiedSvid};
use postern_proto::mtls::{
    Authorizer, Denial, HandshakeSecrets, OVER_LIMIT, PeerVerifier, server_config_with_secret_extraction,
};
use postern_proto::policy::{Decision, Protocol};
use postern_server::{HandshakeLimiter, HandshakePermit, HandshakeStage, lingering_close};
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::config::{Inbound, ProxyProtocol};
use crate::identity::credentials::Credentials;
use crate::network::socket::{close_cleanly, reset_on_close};
use crate::observability::Direction;
use crate::observability::metrics::HandshakeResult::Completed;
use crate::observability::refusals::Called;
use crate::proxy::connection_recorder::ConnectionRecorder;
use crate::proxy::connections::RelayError;
use crate::proxy::connections::{Facts, Registration, Requests};
use crate::proxy::http::{self, Calls, HttpInbound};
use crate::proxy::listener::{Serve, ShutdownTokens};
use crate::proxy::peer_limits::{PeerLimits, PeerPermit};
use crate::proxy::relay::relay;
use crate::proxy::state::ProxyState;
use crate::proxy::tls::{EstablishedTls, TlsStream, client_hello};
use crate::proxy::upstream::Upstreams;
use refusal::{RefusedConnection, Stage};

/// The fraction 1/N of a listener's connections that may be idle tunnels. When more are idle, the oldest is closed in
/// favour of a new connection.
const IDLE_TUNNELS_PART: usize = 4;

/// Serves the connections of one inbound.
#[derive(Debug)]
pub struct InboundServer {
    proxy: Arc<ProxyState>,
    index: usize,
    inbound: Arc<Inbound>,
    app: Arc<Upstreams>,
    pending: Arc<HandshakeLimiter>,
    /// Tunnels between two connections of the app.
    idle: Arc<HandshakeLimiter>,
    /// Connections per peer.
    peer_limits: Arc<PeerLimits>,
    /// Where the inbound speaks HTTP.
    http: Option<Arc<HttpInbound>>,
}

impl InboundServer {
    pub fn new(proxy: Arc<ProxyState>, index: usize, inbound: Inbound) -> Self {
        let level = proxy.control.metrics.levels.handshakes_pending.clone();
        let pending =
            Arc::new(HandshakeLimiter::new(proxy.control.config.limits.handshakes_pending_max, level));
        let idle_max = proxy.control.config.limits.connections_max.div_ceil(IDLE_TUNNELS_PART);
        let idle = Arc::new(HandshakeLimiter::new(idle_max, Gauge::default()));
        let peer_limits = proxy.peer_limits.get(index).cloned().unwrap_or_default();
        let inbound = Arc::new(inbound);
        let series = proxy.control.metrics.series.listener(Direction::Inbound, &inbound.name);
        let app = proxy.upstreams(series, index, std::slice::from_ref(&inbound.app));
        let http = (inbound.protocol == Protocol::Http)
            .then(|| Arc::new(HttpInbound::new(proxy.clone(), inbound.clone(), app.clone())));
        Self { proxy, index, inbound, app, pending, idle, peer_limits, http }
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
        until: &ShutdownTokens,
    ) -> impl Future<Output = ()> + Send + use<> {
        let calls = self.http.as_ref().map(|_| Arc::default());
        let facts = Facts {
            direction: Direction::Inbound,
            listener: self.index,
            peer: None,
            since: self.proxy.control.clock.now(),
            is_tunnel: false,
            calls: calls.clone().map(|calls: Arc<Calls>| calls as Arc<dyn Requests>),
        };
        let until = until.clone();
        let registration = Arc::new(self.proxy.register.enter(facts, &until.abort));
        let permit = self.pending.acquire(HandshakeStage::AwaitingClientHello);
        async move {
            // Boxed, so that the handshake's state is freed before bytes are relayed.
            let handshake = Box::pin(self.handshake(stream, permit, from, &registration));
            let Some(completed) = registration.termination.run_until_cancelled(handshake).await else {
                return;
            };
            let Some((accepted_peer, permit)) = completed else { return };
            if self.http.is_none() && accepted_peer.is_tunnel() {
                let generation = accepted_peer.generation;
                let Some(connection) = self.tunnel(accepted_peer, &registration) else { return };
                return self
                    .serve_tunnel(connection, (generation, permit), (from, &registration, &until))
                    .await;
            }
            drop(permit);
            let _recorder = ConnectionRecorder::new(self.clone(), registration.clone(), from);
            tokio::select! {
                biased;
                () = registration.termination.cancelled() => {}
                () = async {
                    match self.http.clone().zip(calls) {
                        Some((http, calls)) => {
                            // Boxed, so that a connection of `tcp` does not have its size.
                            Box::pin(http.serve(accepted_peer.secured, registration.clone(), calls, until)).await;
                        }
                        None => Box::pin(self.forward(accepted_peer.secured.stream, from, &registration)).await,
                    }
                } => {}
            }
        }
    }

    fn proxy(&self) -> &ProxyState {
        &self.proxy
    }

    fn speaks_http(&self) -> bool {
        self.http.is_some()
    }

    fn maintain(&self) {
        if let Some(http) = &self.http {
            http.maintain();
        }
    }

    async fn run_background(&self, over: CancellationToken) {
        self.app.run_background(over).await;
    }

    async fn end(&self) {
        if let Some(http) = &self.http {
            http.end().await;
        }
    }
}

impl InboundServer {
    /// Performs the handshake. A refused connection is reported, and closed only after the peer can have read the
    /// alert.
    async fn handshake(
        self: &Arc<Self>,
        stream: TcpStream,
        permit: HandshakePermit,
        from: SocketAddr,
        registration: &Arc<Registration>,
    ) -> Option<(Box<AcceptedPeer>, HandshakePermit)> {
        let refused = match self.try_handshake(stream, &permit, registration).await {
            Ok(accepted_peer) => return Some((accepted_peer, permit)),
            Err(refused) => refused,
        };
        let _recorder = ConnectionRecorder::new(self.clone(), registration.clone(), from);
        self.tell(from, registration, &refused);
        if let Some(stream) = refused.stream {
            permit.advance(HandshakeStage::Closing);
            permit.evicted.run_until_cancelled(lingering_close(stream)).await;
        }
        None
    }

    async fn forward(&self, mut tls: TlsStream, from: SocketAddr, registration: &Arc<Registration>) {
        reset_on_close(tls.tcp());
        let (mut app, _in_flight) = match registration.wait_for(Box::pin(self.app.connect())).await {
            Ok(connected) => connected,
            Err(error) => {
                return self.tell(from, registration, &RefusedConnection::at(Stage::AppUnreachable(error)));
            }
        };
        reset_on_close(&app);
        if let Err(error) = Box::pin(self.send_proxy_header(&mut app, tls.tcp(), registration)).await {
            return registration.failed_with(&RelayError::App(error));
        }
        registration.established();
        match relay(&mut app, &mut tls, &registration.traffic).await {
            Ok(()) => {
                registration.ended();
                close_cleanly(&app);
                close_cleanly(tls.tcp());
            }
            Err(error) => registration.failed_with(&error),
        }
    }

    /// Sends the PROXY protocol header, if the app expects it.
    async fn send_proxy_header(
        &self,
        app: &mut TcpStream,
        peer: &TcpStream,
        registration: &Registration,
    ) -> io::Result<()> {
        match (self.inbound.proxy_protocol, registration.peer()) {
            (None, _) => Ok(()),
            (Some(ProxyProtocol::V2), Some(id)) => proxy_protocol::announce(app, peer, &id).await,
            (Some(ProxyProtocol::V2), None) => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Performs the handshake within its timeout and the handshake limit.
    async fn try_handshake(
        &self,
        stream: TcpStream,
        permit: &HandshakePermit,
        registration: &Arc<Registration>,
    ) -> Result<Box<AcceptedPeer>, RefusedConnection> {
        let started = Instant::now();
        let (limit, evicted) = (self.proxy.control.config.limits.handshake_timeout, permit.evicted.clone());
        let accepted_peer = tokio::select! {
            accepted_peer = self.admit(stream, permit, registration) => Some(accepted_peer),
            () = tokio::time::sleep(limit) => Some(Err(RefusedConnection::at(Stage::TimedOut { limit }))),
            () = evicted.cancelled() => None,
        };
        let evicted =
            || RefusedConnection::at(Stage::Evicted { max: self.pending.max(), progress: permit.stage() });
        let accepted_peer = accepted_peer.unwrap_or_else(|| Err(evicted()));
        let result =
            accepted_peer.as_ref().map_or_else(|refused| refused.stage.result(), |_| Some(Completed));
        if let Some(result) = result {
            self.proxy.control.metrics.handshake(Direction::Inbound, result, started.elapsed());
        }
        accepted_peer
    }

    /// The handshake. Nothing is allocated for it before the ClientHello has arrived.
    async fn admit(
        &self,
        stream: TcpStream,
        permit: &HandshakePermit,
        registration: &Arc<Registration>,
    ) -> Result<Box<AcceptedPeer>, RefusedConnection> {
        let stream = first_bytes::expect_tls(stream).await?;
        let hello =
            client_hello(stream).await.map_err(|broken| RefusedConnection::in_handshake(broken, None))?;
        permit.advance(HandshakeStage::Handshaking);
        let credentials = match self.proxy.control.valid_credentials() {
            Ok(credentials) => credentials,
            Err(denial) => {
                let stream = first_bytes::refuse_unready(hello.tcp).await;
                return Err(RefusedConnection { stage: Stage::Denied(denial), stream: Some(stream) });
            }
        };
        let is_leased = self.http.is_none() && hello.offers(tunnel::ALPN);
        let policy_check = if is_leased { PolicyCheck::PerLease } else { PolicyCheck::Now };
        let authorizer = self.authorizer(policy_check, credentials.clone(), registration.clone());
        let verifier = Arc::new(PeerVerifier::new(credentials.bundles.clone(), Arc::new(authorizer)));
        let alpn: &[&[u8]] = match &self.http {
            Some(_) => &http::ALPN,
            None if is_leased => &[tunnel::ALPN],
            None => &[],
        };
        let secrets = Arc::<HandshakeSecrets>::default();
        let config = match server_config_with_secret_extraction(
            &credentials.tls,
            verifier.clone(),
            alpn,
            secrets.clone(),
        ) {
            Ok(config) => config,
            Err(error) => {
                return Err(RefusedConnection { stage: Stage::Config(error), stream: Some(hello.tcp) });
            }
        };
        let accepted = hello.accept(config, &secrets).await;
        let secured = accepted
            .map_err(|broken| RefusedConnection::in_handshake(broken, verifier.verdict().cloned()))?;
        permit.advance(HandshakeStage::Authenticated);
        Ok(Box::new(AcceptedPeer { secured, generation: credentials.generation }))
    }

    fn authorizer(
        &self,
        policy_check: PolicyCheck,
        credentials: Arc<Credentials>,
        registration: Arc<Registration>,
    ) -> PeerAuthorizer {
        let (proxy, inbound, peer_limits) =
            (self.proxy.clone(), self.inbound.clone(), self.peer_limits.clone());
        PeerAuthorizer { policy_check, proxy, inbound, peer_limits, credentials, registration }
    }
}

/// A connection after its handshake.
#[derive(Debug)]
struct AcceptedPeer {
    secured: EstablishedTls,
    /// Generation of the own credentials in the handshake.
    generation: u64,
}

impl AcceptedPeer {
    fn is_tunnel(&self) -> bool {
        self.secured.alpn.as_deref() == Some(tunnel::ALPN)
    }
}

/// When the policy authorizes the peer.
#[derive(Debug, PartialEq, Eq)]
enum PolicyCheck {
    Now,
    /// At each OPEN, so that a refusal can carry its reason.
    PerLease,
    /// Again, for an existing connection.
    Recheck,
}

/// Authorizes a peer by policy as soon as the handshake has verified its certificate.
#[derive(Debug)]
struct PeerAuthorizer {
    policy_check: PolicyCheck,
    proxy: Arc<ProxyState>,
    inbound: Arc<Inbound>,
    peer_limits: Arc<PeerLimits>,
    credentials: Arc<Credentials>,
    registration: Arc<Registration>,
}

impl Authorizer for PeerAuthorizer {
    fn authorize(&self, peer: &VerifiedSvid) -> Result<(), Denial> {
        // Registered first, then authorized: a change of policy or trust in between is seen by one of the two.
        self.registration.identify(peer);
        self.registration.set_own_not_after(self.credentials.svid.verified().not_after());
        self.proxy.control.still_believes(peer)?;
        match self.policy_check {
            PolicyCheck::Now => {
                let own = self.credentials.svid.id();
                decide(&self.proxy, &self.inbound, &self.registration, peer.id(), own)?;
                self.registration.hold(acquire_permit(&self.proxy, &self.peer_limits, peer.id())?);
                Ok(())
            }
            PolicyCheck::PerLease => Ok(()),
            PolicyCheck::Recheck => {
                self.proxy.control.decide(peer.id(), self.credentials.svid.id(), &self.inbound).map(|_| ())
            }
        }
    }
}

/// A permit for another connection of this peer, within its limit.
fn acquire_permit(
    proxy: &ProxyState,
    peer_limits: &Arc<PeerLimits>,
    peer: &SpiffeId,
) -> Result<PeerPermit, Denial> {
    let most = proxy.control.config.limits.connections_per_peer_max;
    peer_limits.of(peer).enter(most).ok_or_else(|| {
        let detail =
            format!("{peer} has {most} connections open, as many as connections_per_peer_max allows");
        Denial { code: OVER_LIMIT, detail }
    })
}

/// Authorizes a new app connection by policy.
fn decide(
    proxy: &ProxyState,
    inbound: &Inbound,
    registration: &Registration,
    peer: &SpiffeId,
    own: &SpiffeId,
) -> Result<(), Denial> {
    let decision = proxy.control.admit(peer, own, inbound, |decision, policy| {
        registration.record(|record| record.decided(decision, policy));
    })?;
    // For HTTP, each request logs its own decision.
    if let (Decision::Observed { .. }, Protocol::Tcp) = (&decision, inbound.protocol) {
        let (port, reason) = (inbound.name.as_str(), decision.reason());
        tracing::info!(%peer, service = %own, port, reason, "observed");
    }
    Ok(())
}
