//! The own app's way to one service, whose exact identity must answer.

mod refused;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use postern_proto::identity::VerifiedSvid;
use postern_proto::mtls::{Admission, Denial, Exactly, Judge, client_config, server_name};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::config::{Outbound, Target};
use crate::credentials::Credentials;
use crate::ending::{close_cleanly, farewell, reset_on_close};
use crate::listen::Serve;
use crate::live::{Facts, Registration};
use crate::metrics::Direction;
use crate::plane::Plane;
use crate::refusals::Called;
use crate::relay::{RelayError, relay};
use crate::upstream::{ConnectError, connect, resolve};
use refused::Failure;

/// Serves the app's connections to one service.
#[derive(Debug)]
pub struct OutboundServer {
    plane: Arc<Plane>,
    index: usize,
    outbound: Outbound,
}

impl OutboundServer {
    pub fn new(plane: Arc<Plane>, index: usize, outbound: Outbound) -> Self {
        Self { plane, index, outbound }
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
        _: SocketAddr,
        abort: &CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<> {
        let facts = Facts {
            direction: Direction::Outbound,
            listener: self.index,
            service: self.outbound.target.to_string(),
            peer: None,
            since: self.plane.clock.now(),
        };
        let registration = Arc::new(self.plane.register.enter(facts, abort));
        reset_on_close(&app);
        async move {
            tokio::select! {
                biased;
                () = registration.cut.cancelled() => {}
                () = self.carry(&mut app, &registration) => {}
            }
        }
    }
}

impl OutboundServer {
    async fn carry(&self, app: &mut TcpStream, registration: &Arc<Registration>) {
        // Boxed, so that the handshake's state is gone while bytes are relayed.
        let Some((mut tls, address)) = Box::pin(self.dial(registration)).await else { return };
        reset_on_close(tls.get_ref().0);
        match relay(app, &mut tls, &registration.bytes).await {
            Ok(()) => {
                close_cleanly(app);
                close_cleanly(tls.get_ref().0);
            }
            // In TLS 1.3 a server's refusal comes when the client's handshake is done: while bytes are relayed.
            Err(RelayError::Peer(error)) => self.tell_last_word(&mut tls, error, address).await,
            Err(RelayError::App(_)) => {}
        }
    }

    /// Reaches the service and demands its identity, address by address while nothing of the app's has been sent. Why
    /// it is not reached is told.
    async fn dial(&self, registration: &Arc<Registration>) -> Option<(TlsStream<TcpStream>, SocketAddr)> {
        let ready = self.plane.valid_credentials();
        let ready = ready.and_then(|own| self.plane.expected(&self.outbound.target).map(|_| own));
        let credentials = match ready {
            Ok(credentials) => credentials,
            Err(denial) => {
                self.tell_denial(denial);
                return None;
            }
        };
        let limit = self.plane.config.limits.connect_timeout;
        let mut unreachable: Vec<ConnectError> = Vec::new();
        for at in &self.outbound.to {
            let addresses = match resolve(at, limit).await {
                Ok(addresses) => addresses,
                Err(error) => {
                    unreachable.push(error);
                    continue;
                }
            };
            for address in addresses {
                match connect(address, limit).await {
                    Ok(stream) => match self.handshake(stream, &credentials, registration).await {
                        Ok(tls) => return Some((tls, address)),
                        Err(failure) => self.tell_failure(failure, address).await,
                    },
                    Err(error) => unreachable.push(error),
                }
            }
        }
        self.tell_unreachable(&unreachable);
        None
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        credentials: &Arc<Credentials>,
        registration: &Arc<Registration>,
    ) -> Result<TlsStream<TcpStream>, Failure> {
        let (plane, target) = (self.plane.clone(), self.outbound.target.clone());
        let door = Door { plane, target, registration: registration.clone() };
        let judge = Arc::new(Judge::new(credentials.bundles.clone(), Arc::new(door)));
        let config = client_config(Some(&credentials.tls), judge.clone(), &[]).map_err(Failure::Config)?;
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
