//! mTLS from peers to the own app.

mod greeting;
mod proxy_protocol;
mod refused;
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
use crate::proxy::tls::{Secured, TlsStream, client_hello};
use crate::proxy::upstream::Upstreams;
use refused::{Stage, Stopped};

/// Of the connections of one listener this part may be tunnels that wait for their next connection of the app. They are
/// worth less than a connection that comes, so the oldest is ended for it.
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
    /// Connections by peer.
    shares: Arc<PeerLimits>,
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
        let shares = proxy.shares.get(index).cloned().unwrap_or_default();
        let inbound = Arc::new(inbound);
        let series = proxy.control.metrics.series.listener(Direction::Inbound, &inbound.name);
        let app = proxy.upstreams(series, index, std::slice::from_ref(&inbound.app));
        let http = (inbound.protocol == Protocol::Http)
            .then(|| Arc::new(HttpInbound::new(proxy.clone(), inbound.clone(), app.clone())));
        Self { proxy, index, inbound, app, pending, idle, shares, http }
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
        let place = self.pending.acquire(HandshakeStage::AwaitingClientHello);
        async move {
            // Boxed, so that the handshake's state is gone while bytes are relayed.
            let handshake = Box::pin(self.handshake(stream, place, from, &registration));
            let Some(shaken) = registration.cut.run_until_cancelled(handshake).await else { return };
            let Some((admitted, place)) = shaken else { return };
            if self.http.is_none() && admitted.is_tunnel() {
                let generation = admitted.generation;
                let Some(wire) = self.tunnel(admitted, &registration) else { return };
                return self.serve_tunnel(wire, (generation, place), (from, &registration, &until)).await;
            }
            drop(place);
            let _told_at_the_end = ConnectionRecorder::new(self.clone(), registration.clone(), from);
            tokio::select! {
                biased;
                () = registration.cut.cancelled() => {}
                () = async {
                    match self.http.clone().zip(calls) {
                        Some((http, calls)) => {
                            // Boxed, so that a connection of `tcp` does not have its size.
                            Box::pin(http.serve(admitted.secured, registration.clone(), calls, until)).await;
                        }
                        None => Box::pin(self.carry(admitted.secured.stream, from, &registration)).await,
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
    /// A connection whose handshake is done, and its place; a refused one is told, and its peer bidden farewell.
    async fn handshake(
        self: &Arc<Self>,
        stream: TcpStream,
        place: HandshakePermit,
        from: SocketAddr,
        registration: &Arc<Registration>,
    ) -> Option<(Box<Admitted>, HandshakePermit)> {
        let stopped = match self.try_handshake(stream, &place, registration).await {
            Ok(admitted) => return Some((admitted, place)),
            Err(stopped) => stopped,
        };
        let _told_at_the_end = ConnectionRecorder::new(self.clone(), registration.clone(), from);
        self.tell(from, registration, &stopped);
        if let Some(stream) = stopped.stream {
            place.advance(HandshakeStage::Closing);
            place.evicted.run_until_cancelled(lingering_close(stream)).await;
        }
        None
    }

    async fn carry(&self, mut tls: TlsStream, from: SocketAddr, registration: &Arc<Registration>) {
        reset_on_close(tls.tcp());
        let (mut app, _in_flight) = match registration.wait_for(Box::pin(self.app.connect())).await {
            Ok(connected) => connected,
            Err(error) => {
                return self.tell(from, registration, &Stopped::at(Stage::AppUnreachable(error)));
            }
        };
        reset_on_close(&app);
        if let Err(error) = Box::pin(self.introduce(&mut app, tls.tcp(), registration)).await {
            return registration.broke(&RelayError::App(error));
        }
        registration.carries();
        match relay(&mut app, &mut tls, &registration.traffic).await {
            Ok(()) => {
                registration.ended();
                close_cleanly(&app);
                close_cleanly(tls.tcp());
            }
            Err(error) => registration.broke(&error),
        }
    }

    /// Tells an app that wants to know it who calls.
    async fn introduce(
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

    /// Handshakes within the limits.
    async fn try_handshake(
        &self,
        stream: TcpStream,
        place: &HandshakePermit,
        registration: &Arc<Registration>,
    ) -> Result<Box<Admitted>, Stopped> {
        let started = Instant::now();
        let (limit, evicted) = (self.proxy.control.config.limits.handshake_timeout, place.evicted.clone());
        let admitted = tokio::select! {
            admitted = self.admit(stream, place, registration) => Some(admitted),
            () = tokio::time::sleep(limit) => Some(Err(Stopped::at(Stage::TimedOut { limit }))),
            () = evicted.cancelled() => None,
        };
        let evicted = || Stopped::at(Stage::Evicted { max: self.pending.max(), progress: place.stage() });
        let admitted = admitted.unwrap_or_else(|| Err(evicted()));
        let result = admitted.as_ref().map_or_else(|stopped| stopped.stage.result(), |_| Some(Completed));
        if let Some(result) = result {
            self.proxy.control.metrics.handshake(Direction::Inbound, result, started.elapsed());
        }
        admitted
    }

    /// The handshake itself; nothing is prepared for it before the peer has sent its ClientHello.
    async fn admit(
        &self,
        stream: TcpStream,
        place: &HandshakePermit,
        registration: &Arc<Registration>,
    ) -> Result<Box<Admitted>, Stopped> {
        let stream = greeting::expect_tls(stream).await?;
        let hello = client_hello(stream).await.map_err(|broken| Stopped::in_handshake(broken, None))?;
        place.advance(HandshakeStage::Handshaking);
        let credentials = match self.proxy.control.valid_credentials() {
            Ok(credentials) => credentials,
            Err(denial) => {
                let stream = greeting::cannot_serve(hello.tcp).await;
                return Err(Stopped { stage: Stage::Denied(denial), stream: Some(stream) });
            }
        };
        let leases = self.http.is_none() && hello.offers(tunnel::ALPN);
        let decides = if leases { Decides::AtEachLease } else { Decides::Now };
        let door = self.door(decides, credentials.clone(), registration.clone());
        let judge = Arc::new(PeerVerifier::new(credentials.bundles.clone(), Arc::new(door)));
        let alpn: &[&[u8]] = match &self.http {
            Some(_) => &http::ALPN,
            None if leases => &[tunnel::ALPN],
            None => &[],
        };
        let secrets = Arc::<HandshakeSecrets>::default();
        let config = match server_config_with_secret_extraction(
            &credentials.tls,
            judge.clone(),
            alpn,
            secrets.clone(),
        ) {
            Ok(config) => config,
            Err(error) => return Err(Stopped { stage: Stage::Config(error), stream: Some(hello.tcp) }),
        };
        let accepted = hello.accept(config, &secrets).await;
        let secured = accepted.map_err(|broken| Stopped::in_handshake(broken, judge.verdict().cloned()))?;
        place.advance(HandshakeStage::Authenticated);
        Ok(Box::new(Admitted { secured, generation: credentials.generation }))
    }

    fn door(
        &self,
        decides: Decides,
        credentials: Arc<Credentials>,
        registration: Arc<Registration>,
    ) -> PeerAuthorizer {
        let (proxy, inbound, shares) = (self.proxy.clone(), self.inbound.clone(), self.shares.clone());
        PeerAuthorizer { decides, proxy, inbound, shares, credentials, registration }
    }
}

/// A connection whose handshake is done.
#[derive(Debug)]
struct Admitted {
    secured: Secured,
    /// Of the credentials shown in it.
    generation: u64,
}

impl Admitted {
    fn is_tunnel(&self) -> bool {
        self.secured.alpn.as_deref() == Some(tunnel::ALPN)
    }
}

/// When the policy is asked.
#[derive(Debug, PartialEq, Eq)]
enum Decides {
    Now,
    /// So that who is refused can be told why.
    AtEachLease,
    /// About a connection that is there already.
    Again,
}

/// Lets in whom the policy allows, at the moment the peer has proved its name.
#[derive(Debug)]
struct PeerAuthorizer {
    decides: Decides,
    proxy: Arc<ProxyState>,
    inbound: Arc<Inbound>,
    shares: Arc<PeerLimits>,
    credentials: Arc<Credentials>,
    registration: Arc<Registration>,
}

impl Authorizer for PeerAuthorizer {
    fn authorize(&self, peer: &VerifiedSvid) -> Result<(), Denial> {
        // First known to the register, then decided: a policy or trust that comes between is seen by one of the two.
        self.registration.identify(peer);
        self.registration.shown_until(self.credentials.svid.verified().not_after());
        self.proxy.control.still_believes(peer)?;
        match self.decides {
            Decides::Now => {
                let own = self.credentials.svid.id();
                decide(&self.proxy, &self.inbound, &self.registration, peer.id(), own)?;
                self.registration.hold(make_room(&self.proxy, &self.shares, peer.id())?);
                Ok(())
            }
            Decides::AtEachLease => Ok(()),
            Decides::Again => {
                self.proxy.control.decide(peer.id(), self.credentials.svid.id(), &self.inbound).map(|_| ())
            }
        }
    }
}

/// Room for one more connection of this peer, which leaves some to others.
fn make_room(proxy: &ProxyState, shares: &Arc<PeerLimits>, peer: &SpiffeId) -> Result<PeerPermit, Denial> {
    let most = proxy.control.config.limits.connections_per_peer_max;
    shares.of(peer).enter(most).ok_or_else(|| {
        let detail =
            format!("{peer} has {most} connections open, as many as connections_per_peer_max allows");
        Denial { code: OVER_LIMIT, detail }
    })
}

/// Asks the policy about a new connection of the app.
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
    // Over HTTP each request says it for itself.
    if let (Decision::Observed { .. }, Protocol::Tcp) = (&decision, inbound.protocol) {
        let (port, reason) = (inbound.name.as_str(), decision.reason());
        tracing::info!(%peer, service = %own, port, reason, "observed");
    }
    Ok(())
}
