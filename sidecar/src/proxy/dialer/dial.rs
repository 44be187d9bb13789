//! Dials a service's addresses at short intervals until one presents the expected identity.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures_util::stream;
use postern_proto::identity::VerifiedSvid;
use postern_proto::mtls::{
    AuthorizeId, Authorizer, Denial, HandshakeSecrets, PeerVerifier, client_config_with_secret_extraction,
};
use postern_proto::policy::Protocol;
use tokio::net::TcpStream;

use super::PeerDialer;
use super::refusal::Failure;
use super::slots::SlotOutcome;
use crate::config::Target;
use crate::identity::credentials::Credentials;
use crate::network::ConnectError;
use crate::network::dial::{Progress, RaceResult, race};
use crate::network::socket::alert_in;
use crate::observability::Direction;
use crate::observability::metrics::{DialResult, HandshakeResult};
use crate::observability::refusals::Refusal;
use crate::proxy::connections::Registration;
use crate::proxy::state::ProxyState;
use crate::proxy::tls::{self, EstablishedTls, HandshakeFailure};
use crate::proxy::upstream::SelectedAddress;
use crate::proxy::upstream::load_balancer::AddressId;

/// Tries of a handshake that the server closes without an alert,
pub(in crate::proxy) const SILENT_CLOSE_TRIES_MAX: usize = 5;
/// the first pause before the next try,
const SILENT_CLOSE_PAUSE: Duration = Duration::from_millis(20);
/// and the factor by which the pause grows.
const SILENT_CLOSE_PAUSE_GROWTH: u32 = 3;

/// A server with a verified identity.
#[derive(Debug)]
pub(crate) struct ConnectedPeer {
    pub(crate) secured: EstablishedTls,
    peer: VerifiedSvid,
    /// Generation of the own credentials in the handshake.
    pub(in crate::proxy) generation: u64,
}

/// A path to the server at one address.
pub(in crate::proxy) enum PeerPath<K> {
    /// A pooled tunnel.
    Kept(K),
    New(Box<ConnectedPeer>),
}

/// Why no connection to an address was made.
#[derive(Debug)]
pub(crate) enum PeerDialError {
    /// Connecting failed.
    Unreached(ConnectError),
    /// One side refused the other, with the result that the metrics count.
    Refused(Refusal, DialResult),
}

/// Records that an address is dialed. An attempt that only waits for a slot is no evidence about the address.
fn begin(dialed: &Mutex<Vec<AddressId>>, id: AddressId) {
    dialed.lock().unwrap_or_else(PoisonError::into_inner).push(id);
}

/// An attempt that has failed.
struct FailedAttempt {
    id: AddressId,
    /// Connecting failed, or one side refused the other.
    error: Result<ConnectError, Refusal>,
}

impl PeerDialer {
    /// Connects to the service at one address.
    pub(crate) async fn dial(
        &self,
        leased: &mut SelectedAddress,
        registration: &Arc<Registration>,
        alpn: &[&[u8]],
    ) -> Result<Box<ConnectedPeer>, PeerDialError> {
        let own = self.proxy.control.valid_credentials();
        let credentials = own
            .map_err(|denial| PeerDialError::Refused(self.denial_refusal(denial), DialResult::LocalFault))?;
        let address = leased.address();
        let permit = match self.wait_turn(address, &|_| None::<std::convert::Infallible>).await {
            SlotOutcome::Kept(never) => match never {},
            SlotOutcome::Dial(permit) => permit,
            SlotOutcome::Stuck => {
                return Err(PeerDialError::Refused(self.stalled_refusal(address), DialResult::Failed));
            }
        };
        // Boxed, so that the handshake's state is freed before bytes are relayed.
        match Box::pin(self.reach(leased, (&credentials, registration, alpn), &Progress::default())).await {
            Ok(reached) => {
                permit.succeeded();
                leased.succeeded();
                Ok(reached)
            }
            Err(Failure::Unreached(error)) => Err(PeerDialError::Unreached(error)),
            Err(failure) => {
                if !matches!(failure, Failure::Config(_)) {
                    leased.failed();
                }
                let result = failure.dial_result();
                Err(PeerDialError::Refused(self.of_failure(failure, address).await, result))
            }
        }
    }

    /// Connects to the service and verifies its identity, at several addresses while none of the app's bytes have
    /// been sent (RFC 8305): over a pooled tunnel if there is one, else over a new connection. Otherwise returns
    /// every failure, at least one.
    pub(in crate::proxy) async fn find<K>(
        &self,
        registration: &Arc<Registration>,
        alpn: &[&[u8]],
        kept: impl Fn(SocketAddr) -> Option<K>,
    ) -> Result<(PeerPath<K>, SelectedAddress), Vec<Refusal>> {
        let ready = self.proxy.control.valid_credentials();
        let ready = ready.and_then(|own| self.proxy.control.expected(&self.outbound.target).map(|_| own));
        let credentials = ready.map_err(|denial| vec![self.denial_refusal(denial)])?;
        let mut attempt = self.upstreams.attempt();
        let Some(first) = attempt.next().await else {
            return Err(self.unreached_refusal(&attempt.unreached(Vec::new())).into_iter().collect());
        };
        // Fast path: the first address has a pooled tunnel and no task waits, so no race is needed.
        if !self.slots.is_awaited()
            && let Some(kept) = kept(first.address())
        {
            return Ok((PeerPath::Kept(kept), first));
        }
        let (progress, dialed) = (Progress::default(), Mutex::default());
        let (own, kept, progress, dialed) = (&credentials, &kept, &progress, &dialed);
        let dials = &self.upstreams.series.pool;
        let attempts = stream::unfold((Some(first), &mut attempt), |(first, attempt)| async move {
            let mut leased = match first {
                Some(first) => first,
                None => attempt.next().await?,
            };
            let reaching = async move {
                let (id, address) = (leased.id(), leased.address());
                let permit = match self.wait_turn(address, kept).await {
                    SlotOutcome::Kept(kept) => return Ok((PeerPath::Kept(kept), leased)),
                    SlotOutcome::Dial(permit) => permit,
                    SlotOutcome::Stuck => {
                        dials.dialed(DialResult::Failed);
                        return Err(FailedAttempt { id, error: Err(self.stalled_refusal(address)) });
                    }
                };
                begin(dialed, id);
                match self.reach(&mut leased, (own, registration, alpn), progress).await {
                    Ok(reached) => {
                        permit.succeeded();
                        dials.dialed(DialResult::Ok);
                        Ok((PeerPath::New(reached), leased))
                    }
                    Err(failure) => {
                        dials.dialed(failure.dial_result());
                        Err(self.failed(failure, leased).await)
                    }
                }
            };
            // Boxed, so that the handshake's state is freed before bytes are relayed.
            Some((Box::pin(reaching), (None, attempt)))
        });
        match registration.wait_for(race(attempts, progress)).await {
            Ok(RaceResult { value: (found, mut leased), failed }) => {
                let mut overtaken =
                    std::mem::take(&mut *dialed.lock().unwrap_or_else(PoisonError::into_inner));
                overtaken.retain(|id| failed.iter().all(|failed| failed.id != *id));
                attempt.won(&leased, &overtaken);
                self.report_all(failed.into_iter().filter_map(|failed| failed.error.err()).collect());
                if let PeerPath::New(reached) = &found {
                    leased.succeeded();
                    // Parallel handshakes registered several peers: this one counts, so it is registered and
                    // authorized again.
                    let again = attempt
                        .tried_several()
                        .then(|| self.authorizer(registration).authorize(&reached.peer));
                    again.transpose().map_err(|denial| vec![self.denial_refusal(denial)])?;
                }
                Ok((found, leased))
            }
            Err(failed) => {
                let mut unreachable = Vec::new();
                let mut refused = Vec::new();
                for failed in failed {
                    match failed.error {
                        Ok(error) => unreachable.push(error),
                        Err(refusal) => refused.push(refusal),
                    }
                }
                refused.extend(self.unreached_refusal(&attempt.unreached(unreachable)));
                Err(refused)
            }
        }
    }

    /// Handles a failed attempt. It is reported if no other succeeds, or if the refusal itself matters.
    async fn failed(&self, failure: Failure, mut leased: SelectedAddress) -> FailedAttempt {
        let (id, address) = (leased.id(), leased.address());
        if let Failure::Unreached(error) = failure {
            return FailedAttempt { id, error: Ok(error) };
        }
        if !matches!(failure, Failure::Config(_)) {
            leased.failed();
        }
        drop(leased);
        FailedAttempt { id, error: Err(self.of_failure(failure, address).await) }
    }

    /// Waits for a slot at an address. A pooled tunnel is taken without a slot while no task waits.
    async fn wait_turn<K>(
        &self,
        address: SocketAddr,
        kept: &impl Fn(SocketAddr) -> Option<K>,
    ) -> SlotOutcome<K> {
        if !self.slots.is_awaited()
            && let Some(kept) = kept(address)
        {
            return SlotOutcome::Kept(kept);
        }
        let patience = self.proxy.control.config.limits.connect_timeout;
        Box::pin(self.slots.of(address).wait_turn(patience, || kept(address))).await
    }

    /// Connects and performs the handshake. A server that closes the connection without an alert has mostly reached a
    /// limit, which passes. None of the app's bytes have been sent, so the handshake is retried a few times within
    /// `connect_timeout`.
    async fn reach(
        &self,
        leased: &mut SelectedAddress,
        (credentials, registration, alpn): (&Arc<Credentials>, &Arc<Registration>, &[&[u8]]),
        progress: &Progress,
    ) -> Result<Box<ConnectedPeer>, Failure> {
        let deadline = Instant::now() + self.proxy.control.config.limits.connect_timeout;
        let mut pause = SILENT_CLOSE_PAUSE;
        for _ in 1..SILENT_CLOSE_TRIES_MAX {
            match self.reach_once(leased, (credentials, registration, alpn), progress).await {
                Err(failure) if failure.closed_silently() && Instant::now() + pause < deadline => {
                    tokio::time::sleep(pause).await;
                    pause *= SILENT_CLOSE_PAUSE_GROWTH;
                }
                reached => return reached,
            }
        }
        self.reach_once(leased, (credentials, registration, alpn), progress).await
    }

    /// Connects and performs the handshake. If the server insists on its own protocol choice, tries once more without
    /// ALPN.
    async fn reach_once(
        &self,
        leased: &mut SelectedAddress,
        (credentials, registration, alpn): (&Arc<Credentials>, &Arc<Registration>, &[&[u8]]),
        progress: &Progress,
    ) -> Result<Box<ConnectedPeer>, Failure> {
        let tcp = leased.connect().await.map_err(Failure::Unreached)?;
        progress.connected();
        match self.handshake(tcp, credentials, registration, alpn).await {
            Err(failure) if self.outbound.protocol == Protocol::Tcp && failure.is_about_alpn() => {
                let tcp = leased.connect().await.map_err(Failure::Unreached)?;
                self.handshake(tcp, credentials, registration, &[]).await
            }
            shaken => shaken,
        }
    }

    async fn handshake(
        &self,
        tcp: TcpStream,
        credentials: &Arc<Credentials>,
        registration: &Arc<Registration>,
        alpn: &[&[u8]],
    ) -> Result<Box<ConnectedPeer>, Failure> {
        registration.set_own_not_after(credentials.svid.verified().not_after());
        let authorizer = Arc::new(self.authorizer(registration));
        let verifier = Arc::new(PeerVerifier::new(credentials.bundles.clone(), authorizer));
        let secrets = Arc::<HandshakeSecrets>::default();
        let config = client_config_with_secret_extraction(
            Some(&credentials.tls),
            verifier.clone(),
            alpn,
            secrets.clone(),
        );
        let connecting = tls::connect(tcp, config.map_err(Failure::Config)?, &secrets);
        let limit = self.proxy.control.config.limits.handshake_timeout;
        let started = Instant::now();
        let shaken = tokio::time::timeout(limit, connecting).await;
        let result = match &shaken {
            Ok(Ok(_)) => HandshakeResult::Completed,
            Ok(Err(broken)) if verifier.verdict().is_some() || alert_in(&broken.error).is_some() => {
                HandshakeResult::Refused
            }
            Ok(Err(_)) => HandshakeResult::Failed,
            Err(_) => HandshakeResult::TimedOut,
        };
        self.proxy.control.metrics.handshake(Direction::Outbound, result, started.elapsed());
        match shaken {
            Ok(Ok(secured)) => {
                let Some(peer) = verifier.admitted().cloned() else {
                    return Err(Failure::Handshake(io::Error::other("nobody was verified")));
                };
                Ok(Box::new(ConnectedPeer { secured, peer, generation: credentials.generation }))
            }
            Ok(Err(HandshakeFailure { error, tcp })) => match verifier.verdict().cloned() {
                Some(verdict) => Err(Failure::Judged { verdict, stream: tcp }),
                None => Err(Failure::Handshake(error)),
            },
            Err(_) => Err(Failure::TooLate(limit)),
        }
    }

    pub(in crate::proxy) fn authorizer(&self, registration: &Arc<Registration>) -> ServiceAuthorizer {
        let (proxy, target) = (self.proxy.clone(), self.outbound.target.clone());
        ServiceAuthorizer { proxy, target, registration: Arc::downgrade(registration) }
    }
}

/// Authorizes exactly the expected service.
#[derive(Debug)]
pub(in crate::proxy) struct ServiceAuthorizer {
    proxy: Arc<ProxyState>,
    target: Target,
    /// Weak: a tunnel outlives the app connection for which it was made.
    registration: Weak<Registration>,
}

impl Authorizer for ServiceAuthorizer {
    fn authorize(&self, peer: &VerifiedSvid) -> Result<(), Denial> {
        let Some(registration) = self.registration.upgrade() else {
            return Err(Denial { code: "cut", detail: "the app's connection is over".to_owned() });
        };
        // Registered first, then checked against the identity that the policy names now.
        registration.identify(peer);
        self.proxy.control.still_believes(peer)?;
        AuthorizeId(self.proxy.control.expected(&self.target)?).authorize(peer)
    }
}
