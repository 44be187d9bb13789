//! Re-authentication in place (docs/WIRE.md, Re-authentication): each side proves its newer certificate on the
//! connection that began with an older one.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::time::{Duration, Instant};

use postern_proto::authenticator::{
    AuthenticateError, AuthenticatorError, CONTEXT_BYTES, Expected, Request, RequestError, authenticate,
    judge,
};
use postern_proto::identity::SpiffeId;
use postern_proto::mtls::{Authorizer, Denial, ExporterSecret};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::Side;
use thiserror::Error;

use super::frame::Frame;
use super::lease::Role;
use crate::control::ControlState;
use crate::proxy::connections::Traffic;

/// NEWS: the sender has a newer certificate.
const NEWS: u8 = 0;
/// REQUEST: an authenticator request (RFC 9261 §4).
const REQUEST: u8 = 1;
/// PROOF: an authenticator (RFC 9261 §5).
const PROOF: u8 = 2;

/// Most AUTH frames from a peer within ten seconds: each may cost a signature or a chain verification.
pub const AUTH_FRAMES_MAX: u32 = 30;
const WINDOW: Duration = Duration::from_secs(10);

/// Proves the own certificate to the peer and verifies the peer's, on one side of a tunnel.
pub struct Reauthentication {
    role: Role,
    exporter: ExporterSecret,
    control: Arc<ControlState>,
    /// Authorizes the peer again after its proof.
    authorizer: Arc<dyn Authorizer>,
    /// The peer's identity, which must not change.
    peer: SpiffeId,
    traffic: Arc<Traffic>,
    /// Generation of the own credentials that the peer has been shown or notified of.
    generation: u64,
    /// The request that the peer has not answered yet.
    asked: Option<Request>,
    /// The peer has sent NEWS again since the request.
    has_new_news: bool,
    window: Option<(Instant, u32)>,
}

/// Why re-authentication ends a tunnel.
#[derive(Debug, Error)]
pub enum ReauthenticationError {
    #[error("more than {AUTH_FRAMES_MAX} AUTH frames came within {WINDOW:?}")]
    TooMany,
    #[error("an AUTH frame of the unknown kind {0} came")]
    Kind(u8),
    #[error("a proof came that was not asked for")]
    Unasked,
    #[error("the peer's request cannot be read")]
    Request(#[from] RequestError),
    #[error("the peer's proof does not hold")]
    Proof(#[from] AuthenticatorError),
    #[error("the peer has proved itself, and is not let in any more")]
    Denied(#[from] Denial),
    #[error("no proof can be made")]
    Own(#[from] AuthenticateError),
    #[error("there is no randomness")]
    Random,
    #[error("this sidecar has no identity any more, and so no roots to judge the peer's proof by")]
    NoIdentity,
}

impl Reauthentication {
    pub fn new(
        role: Role,
        exporter: ExporterSecret,
        control: Arc<ControlState>,
        (peer, generation): (SpiffeId, u64),
        (authorizer, traffic): (Arc<dyn Authorizer>, Arc<Traffic>),
    ) -> Self {
        let (asked, has_new_news, window) = (None, false, None);
        Self { role, exporter, control, authorizer, peer, traffic, generation, asked, has_new_news, window }
    }

    /// Sets the authorizer and counters of the next lease.
    pub fn lease(&mut self, authorizer: Arc<dyn Authorizer>, traffic: Arc<Traffic>) {
        (self.authorizer, self.traffic) = (authorizer, traffic);
    }

    /// The server has answered: clears the flag for the answer timeout.
    pub fn answered(&self) {
        self.traffic.unanswered.store(false, Ordering::Relaxed);
    }

    /// After a certificate rotation here, appends NEWS. Registers the task's waker for the next rotation.
    pub fn send_news(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) {
        self.traffic.waker.register(cx.waker());
        let newest = self.control.credentials.generation();
        if newest != self.generation {
            self.generation = newest;
            Frame::Auth(vec![NEWS]).encode(out);
        }
    }

    /// Handles one AUTH frame, and appends the response.
    pub fn receive(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), ReauthenticationError> {
        self.count(Instant::now())?;
        match body.split_first() {
            Some((&NEWS, [])) => self.ask(out),
            Some((&REQUEST, request)) => self.prove(request, out),
            Some((&PROOF, proof)) => self.judge(proof, out),
            Some((&kind, _)) => Err(ReauthenticationError::Kind(kind)),
            None => Err(ReauthenticationError::Kind(NEWS)),
        }
    }

    fn count(&mut self, now: Instant) -> Result<(), ReauthenticationError> {
        let (since, count) = self.window.filter(|(since, _)| now - *since < WINDOW).unwrap_or((now, 0));
        self.window = Some((since, count + 1));
        if count < AUTH_FRAMES_MAX { Ok(()) } else { Err(ReauthenticationError::TooMany) }
    }

    fn ask(&mut self, out: &mut Vec<u8>) -> Result<(), ReauthenticationError> {
        if self.asked.is_some() {
            self.has_new_news = true;
            return Ok(());
        }
        let mut context = [0; CONTEXT_BYTES];
        SystemRandom::new().fill(&mut context).map_err(|_| ReauthenticationError::Random)?;
        let request = Request::new(self.side(), context);
        Frame::Auth([&[REQUEST], request.as_bytes()].concat()).encode(out);
        self.asked = Some(request);
        Ok(())
    }

    fn prove(&mut self, request: &[u8], out: &mut Vec<u8>) -> Result<(), ReauthenticationError> {
        let peer = match self.side() {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        };
        let request = Request::parse(peer, request)?;
        // Without an own identity no proof is possible. The peer terminates the tunnel when the old certificate
        // expires.
        let Some(own) = self.control.credentials.current() else { return Ok(()) };
        self.generation = own.generation;
        let proof = authenticate(&self.exporter, &request, &own.tls)?;
        Frame::Auth([&[PROOF], &*proof].concat()).encode(out);
        Ok(())
    }

    fn judge(&mut self, proof: &[u8], out: &mut Vec<u8>) -> Result<(), ReauthenticationError> {
        let request = self.asked.take().ok_or(ReauthenticationError::Unasked)?;
        // Without an own identity there are no roots to verify with. The peer is not at fault.
        let own = self.control.credentials.current().ok_or(ReauthenticationError::NoIdentity)?;
        let expected = Expected { id: &self.peer, bundles: &own.bundles, now: self.control.clock.now() };
        let peer = judge(&self.exporter, request, proof, expected)?;
        self.authorizer.authorize(&peer)?;
        self.control.metrics.vouched_again();
        tracing::debug!(peer = %self.peer, not_after = %peer.not_after(), "proved a newer certificate");
        if std::mem::take(&mut self.has_new_news) { self.ask(out) } else { Ok(()) }
    }

    fn side(&self) -> Side {
        match self.role {
            Role::Caller => Side::Client,
            Role::Called => Side::Server,
        }
    }
}

impl fmt::Debug for Reauthentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reauthentication")
            .field("peer", &self.peer)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}
