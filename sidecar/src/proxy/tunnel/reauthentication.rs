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

/// "I have a newer certificate."
const NEWS: u8 = 0;
/// "Prove it": a request of RFC 9261 §4.
const REQUEST: u8 = 1;
/// "Here": an authenticator of RFC 9261 §5.
const PROOF: u8 = 2;

/// A peer sends at most so many AUTH frames within ten seconds; each may cost us a signature or a chain to judge.
pub const AUTH_FRAMES_MAX: u32 = 30;
const WINDOW: Duration = Duration::from_secs(10);

/// What one side of a tunnel needs to prove itself and to judge the other.
pub struct Reauthentication {
    role: Role,
    exporter: ExporterSecret,
    control: Arc<ControlState>,
    /// Decides again about a peer that has proved itself.
    door: Arc<dyn Authorizer>,
    /// Who the peer is, and stays.
    peer: SpiffeId,
    traffic: Arc<Traffic>,
    /// Of the own credentials that the peer has been shown, or told of.
    generation: u64,
    /// What the peer has still to answer.
    asked: Option<Request>,
    /// The peer has news again.
    again: bool,
    window: Option<(Instant, u32)>,
}

/// Why a tunnel ends over re-authentication.
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
        (door, traffic): (Arc<dyn Authorizer>, Arc<Traffic>),
    ) -> Self {
        let (asked, again, window) = (None, false, None);
        Self { role, exporter, control, door, peer, traffic, generation, asked, again, window }
    }

    /// The tunnel carries another connection of the app from now on.
    pub fn lease(&mut self, door: Arc<dyn Authorizer>, traffic: Arc<Traffic>) {
        (self.door, self.traffic) = (door, traffic);
    }

    /// The called side has answered: whoever looks for those that wait too long need not look here.
    pub fn answered(&self) {
        self.traffic.unanswered.store(false, Ordering::Relaxed);
    }

    /// After a rotation here, appends the news of it. The task wakes with the next one.
    pub fn tell(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) {
        self.traffic.waker.register(cx.waker());
        let newest = self.control.credentials.generation();
        if newest != self.generation {
            self.generation = newest;
            Frame::Auth(vec![NEWS]).encode(out);
        }
    }

    /// Takes what came in one AUTH frame, and appends what is to be said to it.
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
            self.again = true;
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
        // Whoever has lost its identity cannot prove it; the peer sees that when the old one ends.
        let Some(own) = self.control.credentials.current() else { return Ok(()) };
        self.generation = own.generation;
        let proof = authenticate(&self.exporter, &request, &own.tls)?;
        Frame::Auth([&[PROOF], &*proof].concat()).encode(out);
        Ok(())
    }

    fn judge(&mut self, proof: &[u8], out: &mut Vec<u8>) -> Result<(), ReauthenticationError> {
        let request = self.asked.take().ok_or(ReauthenticationError::Unasked)?;
        // Without an own identity there are no roots to judge by; the peer is not to blame for that.
        let own = self.control.credentials.current().ok_or(ReauthenticationError::NoIdentity)?;
        let expected = Expected { id: &self.peer, bundles: &own.bundles, now: self.control.clock.now() };
        let peer = judge(&self.exporter, request, proof, expected)?;
        self.door.authorize(&peer)?;
        self.control.metrics.vouched_again();
        tracing::debug!(peer = %self.peer, not_after = %peer.not_after(), "proved a newer certificate");
        if std::mem::take(&mut self.again) { self.ask(out) } else { Ok(()) }
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
