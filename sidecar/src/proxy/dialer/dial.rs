//! Reaching the service: address by address at short intervals, until one proves that it is who was called.

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
use super::refused::Failure;
use super::slots::Turn;
use crate::config::Target;
use crate::identity::credentials::Credentials;
use crate::network::ConnectError;
use crate::network::dial::{Progress, Won, race};
use crate::network::socket::alert_in;
use crate::observability::Direction;
use crate::observability::metrics::{DialResult, HandshakeResult};
use crate::observability::refusals::Refusal;
use crate::proxy::connections::Registration;
use crate::proxy::state::ProxyState;
use crate::proxy::tls::{self, BrokenHandshake, Secured};
use crate::proxy::upstream::Leased;
use crate::proxy::upstream::load_balancer::AddressId;

/// A handshake that the other side ends without a word is tried so often,
pub(in crate::proxy) const GAVE_WAY_TRIES_MAX: usize = 5;
/// the second time after this pause,
const GAVE_WAY_PAUSE: Duration = Duration::from_millis(20);
/// and each further time after one that is so many times as long.
const GAVE_WAY_PAUSE_GROWTH: u32 = 3;

/// A service that has answered and proved who it is.
#[derive(Debug)]
pub(crate) struct Reached {
    pub(crate) secured: Secured,
    peer: VerifiedSvid,
    /// Of the own credentials shown.
    pub(in crate::proxy) generation: u64,
}

/// What is found at an address.
pub(in crate::proxy) enum Found<K> {
    /// Something that was kept for it.
    Kept(K),
    New(Box<Reached>),
}

/// Why the service was not reached at an address.
#[derive(Debug)]
pub(crate) enum PeerDialError {
    /// Nobody answers.
    Unreached(ConnectError),
    /// We refuse who is there, or the other way round; and as which the dial counts.
    Refused(Refusal, DialResult),
}

/// Notes that an address is dialled now. What has only waited for its turn says nothing about the address.
fn begin(dialed: &Mutex<Vec<AddressId>>, id: AddressId) {
    dialed.lock().unwrap_or_else(PoisonError::into_inner).push(id);
}

/// An attempt that has failed.
struct FailedAttempt {
    id: AddressId,
    /// Nobody was reached, or who was is refused or refuses us.
    error: Result<ConnectError, Refusal>,
}

impl PeerDialer {
    /// Reaches the service at one address.
    pub(crate) async fn dial(
        &self,
        leased: &mut Leased,
        registration: &Arc<Registration>,
        alpn: &[&[u8]],
    ) -> Result<Box<Reached>, PeerDialError> {
        let own = self.proxy.control.valid_credentials();
        let credentials =
            own.map_err(|denial| PeerDialError::Refused(self.of_denial(denial), DialResult::LocalFault))?;
        let address = leased.address();
        let permit = match self.turn(address, &|_| None::<std::convert::Infallible>).await {
            Turn::Kept(never) => match never {},
            Turn::Dial(permit) => permit,
            Turn::Stuck => return Err(PeerDialError::Refused(self.of_stuck(address), DialResult::Failed)),
        };
        // Boxed, so that the handshake's state is gone while bytes are carried.
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

    /// Reaches the service and demands its identity, at several addresses while nothing of the app's has been sent (RFC
    /// 8305): by what is kept for the address, else by a new connection. Else all that went wrong, at least one thing.
    pub(in crate::proxy) async fn find<K>(
        &self,
        registration: &Arc<Registration>,
        alpn: &[&[u8]],
        kept: impl Fn(SocketAddr) -> Option<K>,
    ) -> Result<(Found<K>, Leased), Vec<Refusal>> {
        let ready = self.proxy.control.valid_credentials();
        let ready = ready.and_then(|own| self.proxy.control.expected(&self.outbound.target).map(|_| own));
        let credentials = ready.map_err(|denial| vec![self.of_denial(denial)])?;
        let mut attempt = self.upstreams.attempt();
        let Some(first) = attempt.next().await else {
            return Err(self.of_unreached(&attempt.unreached(Vec::new())).into_iter().collect());
        };
        // Mostly something is kept for the first address and nobody waits, and there is nothing to race.
        if !self.slots.is_awaited()
            && let Some(kept) = kept(first.address())
        {
            return Ok((Found::Kept(kept), first));
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
                let permit = match self.turn(address, kept).await {
                    Turn::Kept(kept) => return Ok((Found::Kept(kept), leased)),
                    Turn::Dial(permit) => permit,
                    Turn::Stuck => {
                        dials.dialed(DialResult::Failed);
                        return Err(FailedAttempt { id, error: Err(self.of_stuck(address)) });
                    }
                };
                begin(dialed, id);
                match self.reach(&mut leased, (own, registration, alpn), progress).await {
                    Ok(reached) => {
                        permit.succeeded();
                        dials.dialed(DialResult::Ok);
                        Ok((Found::New(reached), leased))
                    }
                    Err(failure) => {
                        dials.dialed(failure.dial_result());
                        Err(self.failed(failure, leased).await)
                    }
                }
            };
            // Boxed, so that the handshake's state is gone while bytes are relayed.
            Some((Box::pin(reaching), (None, attempt)))
        });
        match registration.wait_for(race(attempts, progress)).await {
            Ok(Won { value: (found, mut leased), failed }) => {
                let mut overtaken =
                    std::mem::take(&mut *dialed.lock().unwrap_or_else(PoisonError::into_inner));
                overtaken.retain(|id| failed.iter().all(|failed| failed.id != *id));
                attempt.won(&leased, &overtaken);
                self.tell_all(failed.into_iter().filter_map(|failed| failed.error.err()).collect());
                if let Found::New(reached) = &found {
                    leased.succeeded();
                    // In several handshakes at a time the register was told of several peers: this is the one that
                    // counts, and it is decided again.
                    let again =
                        attempt.tried_several().then(|| self.door(registration).authorize(&reached.peer));
                    again.transpose().map_err(|denial| vec![self.of_denial(denial)])?;
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
                refused.extend(self.of_unreached(&attempt.unreached(unreachable)));
                Err(refused)
            }
        }
    }

    /// An attempt that has failed; it is told when nothing else is reached, or what was said is worth it.
    async fn failed(&self, failure: Failure, mut leased: Leased) -> FailedAttempt {
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

    /// Whose turn it is at an address. Who finds something kept there, while nobody waits, passes by without a look at
    /// the slots.
    async fn turn<K>(&self, address: SocketAddr, kept: &impl Fn(SocketAddr) -> Option<K>) -> Turn<K> {
        if !self.slots.is_awaited()
            && let Some(kept) = kept(address)
        {
            return Turn::Kept(kept);
        }
        let patience = self.proxy.control.config.limits.connect_timeout;
        Box::pin(self.slots.of(address).turn(patience, || kept(address))).await
    }

    /// Connects and shakes hands. A server that ends the connection without a word has most often reached a limit, which
    /// passes: as nothing of the app's has been sent, it is tried again a few times within `connect_timeout`.
    async fn reach(
        &self,
        leased: &mut Leased,
        (credentials, registration, alpn): (&Arc<Credentials>, &Arc<Registration>, &[&[u8]]),
        progress: &Progress,
    ) -> Result<Box<Reached>, Failure> {
        let deadline = Instant::now() + self.proxy.control.config.limits.connect_timeout;
        let mut pause = GAVE_WAY_PAUSE;
        for _ in 1..GAVE_WAY_TRIES_MAX {
            match self.reach_once(leased, (credentials, registration, alpn), progress).await {
                Err(failure) if failure.gave_way() && Instant::now() + pause < deadline => {
                    tokio::time::sleep(pause).await;
                    pause *= GAVE_WAY_PAUSE_GROWTH;
                }
                reached => return reached,
            }
        }
        self.reach_once(leased, (credentials, registration, alpn), progress).await
    }

    /// Connects and shakes hands; with a server that insists on protocols of its own choice once more, without naming
    /// ours.
    async fn reach_once(
        &self,
        leased: &mut Leased,
        (credentials, registration, alpn): (&Arc<Credentials>, &Arc<Registration>, &[&[u8]]),
        progress: &Progress,
    ) -> Result<Box<Reached>, Failure> {
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
    ) -> Result<Box<Reached>, Failure> {
        registration.shown_until(credentials.svid.verified().not_after());
        let door = Arc::new(self.door(registration));
        let judge = Arc::new(PeerVerifier::new(credentials.bundles.clone(), door));
        let secrets = Arc::<HandshakeSecrets>::default();
        let config = client_config_with_secret_extraction(
            Some(&credentials.tls),
            judge.clone(),
            alpn,
            secrets.clone(),
        );
        let connecting = tls::connect(tcp, config.map_err(Failure::Config)?, &secrets);
        let limit = self.proxy.control.config.limits.handshake_timeout;
        let started = Instant::now();
        let shaken = tokio::time::timeout(limit, connecting).await;
        let result = match &shaken {
            Ok(Ok(_)) => HandshakeResult::Completed,
            Ok(Err(broken)) if judge.verdict().is_some() || alert_in(&broken.error).is_some() => {
                HandshakeResult::Refused
            }
            Ok(Err(_)) => HandshakeResult::Failed,
            Err(_) => HandshakeResult::TimedOut,
        };
        self.proxy.control.metrics.handshake(Direction::Outbound, result, started.elapsed());
        match shaken {
            Ok(Ok(secured)) => {
                let Some(peer) = judge.admitted().cloned() else {
                    return Err(Failure::Handshake(io::Error::other("nobody was verified")));
                };
                Ok(Box::new(Reached { secured, peer, generation: credentials.generation }))
            }
            Ok(Err(BrokenHandshake { error, tcp })) => match judge.verdict().cloned() {
                Some(verdict) => Err(Failure::Judged { verdict, stream: tcp }),
                None => Err(Failure::Handshake(error)),
            },
            Err(_) => Err(Failure::TooLate(limit)),
        }
    }

    pub(in crate::proxy) fn door(&self, registration: &Arc<Registration>) -> ServiceAuthorizer {
        let (proxy, target) = (self.proxy.clone(), self.outbound.target.clone());
        ServiceAuthorizer { proxy, target, registration: Arc::downgrade(registration) }
    }
}

/// Lets in exactly the service that was called.
#[derive(Debug)]
pub(in crate::proxy) struct ServiceAuthorizer {
    proxy: Arc<ProxyState>,
    target: Target,
    /// Weak: a tunnel outlives the app's connection for which it was made.
    registration: Weak<Registration>,
}

impl Authorizer for ServiceAuthorizer {
    fn authorize(&self, peer: &VerifiedSvid) -> Result<(), Denial> {
        let Some(registration) = self.registration.upgrade() else {
            return Err(Denial { code: "cut", detail: "the app's connection is over".to_owned() });
        };
        // First known to the register, then asked again whom the policy names now.
        registration.identify(peer);
        self.proxy.control.still_believes(peer)?;
        AuthorizeId(self.proxy.control.expected(&self.target)?).authorize(peer)
    }
}
