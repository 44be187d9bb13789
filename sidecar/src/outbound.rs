//! The own app's way to one service, whose exact identity must answer.

mod refused;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use postern_proto::identity::VerifiedSvid;
use postern_proto::mtls::{Admission, Denial, Exactly, Judge, client_config, server_name};
use postern_proto::policy::Protocol;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

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
use crate::upstream::{Leased, Upstreams};
use refused::{Failure, PEER_FAILED};

/// Serves the app's connections to one service.
#[derive(Debug)]
pub struct OutboundServer {
    pub(crate) plane: Arc<Plane>,
    index: usize,
    pub(crate) outbound: Outbound,
    pub(crate) upstreams: Arc<Upstreams>,
    /// Where the outbound speaks HTTP.
    http: Option<HttpOutbound>,
}

impl OutboundServer {
    pub fn new(plane: Arc<Plane>, index: usize, outbound: Outbound) -> Self {
        let http = (outbound.protocol == Protocol::Http).then(|| HttpOutbound::new(&plane.config.http));
        let upstreams = plane.upstreams(Direction::Outbound, index, &outbound.to);
        Self { plane, index, outbound, upstreams, http }
    }

    /// What the register knows of a connection before its peer is known.
    pub(crate) fn facts(&self) -> Facts {
        Facts {
            direction: Direction::Outbound,
            listener: self.index,
            service: self.outbound.target.to_string(),
            peer: None,
            since: self.plane.clock.now(),
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
        mut app: TcpStream,
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
                    tokio::select! {
                        biased;
                        () = registration.cut.cancelled() => {}
                        () = self.carry(&mut app, &registration) => {}
                    }
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

    async fn tend(&self, over: CancellationToken) {
        self.upstreams.tend(over).await;
    }

    async fn end(&self) {
        if let Some(http) = &self.http {
            http.end().await;
        }
    }
}

impl OutboundServer {
    async fn carry(&self, app: &mut TcpStream, registration: &Arc<Registration>) {
        // Boxed, so that the handshake's state is gone while bytes are relayed.
        let (mut tls, mut leased) = match Box::pin(self.dial(registration, &[])).await {
            Ok(reached) => reached,
            Err(refused) => {
                for Refusal { reason, detail, .. } in &refused {
                    registration.tell(|story| story.refused(reason, detail));
                }
                return self.tell_all(refused);
            }
        };
        let address = leased.address();
        registration.tell(|story| story.address = Some(address.to_string()));
        reset_on_close(tls.get_ref().0);
        match relay(app, &mut tls, &registration.bytes).await {
            Ok(()) => {
                close_cleanly(app);
                close_cleanly(tls.get_ref().0);
            }
            // In TLS 1.3 a server's refusal comes when the client's handshake is done: while bytes are relayed.
            Err(RelayError::Peer(error)) => {
                if let Some(refusal) = self.last_word(&mut tls, error, address).await {
                    if refusal.reason == PEER_FAILED {
                        leased.failed();
                    }
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
    ) -> Result<(TlsStream<TcpStream>, Leased), Vec<Refusal>> {
        let ready = self.plane.valid_credentials();
        let ready = ready.and_then(|own| self.plane.expected(&self.outbound.target).map(|_| own));
        let credentials = ready.map_err(|denial| vec![self.of_denial(denial)])?;
        let (mut attempt, mut unreachable, mut refused) = (self.upstreams.attempt(), Vec::new(), Vec::new());
        while let Some(mut leased) = attempt.next().await {
            match leased.connect().await {
                Ok(stream) => match self.handshake(stream, &credentials, registration, alpn).await {
                    Ok(tls) => {
                        leased.succeeded();
                        self.tell_all(refused);
                        return Ok((tls, leased));
                    }
                    Err(failure) => {
                        if !matches!(failure, Failure::Config(_)) {
                            leased.failed();
                        }
                        refused.push(self.of_failure(failure, leased.address()).await);
                    }
                },
                Err(error) => unreachable.push(error),
            }
        }
        refused.extend(self.of_unreached(&attempt.unreached(unreachable)));
        Err(refused)
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        credentials: &Arc<Credentials>,
        registration: &Arc<Registration>,
        alpn: &[&[u8]],
    ) -> Result<TlsStream<TcpStream>, Failure> {
        let (plane, target) = (self.plane.clone(), self.outbound.target.clone());
        let door = Door { plane, target, registration: registration.clone() };
        let judge = Arc::new(Judge::new(credentials.bundles.clone(), Arc::new(door)));
        let config = client_config(Some(&credentials.tls), judge.clone(), alpn).map_err(Failure::Config)?;
        let limit = self.plane.config.limits.handshake_timeout;
        let started = Instant::now();
        let connecting = TlsConnector::from(config).connect(server_name(), stream).into_fallible();
        match tokio::time::timeout(limit, connecting).await {
            Ok(Ok(tls)) => {
                self.plane.metrics.handshake(Direction::Outbound, started.elapsed());
                Ok(tls)
            }
            Ok(Err((error, stream))) => match judge.verdict().cloned() {
                Some(verdict) => Err(Failure::Judged { verdict, stream }),
                None => Err(Failure::Handshake(error)),
            },
            Err(_) => Err(Failure::TooLate(limit)),
        }
    }
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
