//! The loop that keeps an identity from a CA fresh: enrol once, renew for ever, survive the CA's absence.

use std::sync::Arc;

use postern_proto::identity::SpiffeId;
use ring::rand::{SecureRandom as _, SystemRandom};
use thiserror::Error;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::ca_client::{CaClient, CaError, Issued};
use crate::config::JoinTokenSource;
use crate::credentials::Credentials;
use crate::holder::{Holder, in_one_line};
use crate::join_token::{self, Fingerprint, ReadToken, ReadTokenError};
use crate::schedule::{Lifetime, Pause, Plan};
use crate::state_dir::{Kept, StateDir, StateError};

/// Owns the identity of a workload that has a CA.
#[derive(Debug)]
pub struct Renewal {
    client: CaClient,
    join_token: Option<JoinTokenSource>,
    state: Option<StateDir>,
    holder: Holder,
    /// The token that was used last: it is good for nothing any more.
    used: Option<Fingerprint>,
    life: Option<Lifetime>,
    plan: Plan,
    /// In a row.
    failures: u32,
    random: SystemRandom,
}

impl Renewal {
    pub fn new(
        client: CaClient,
        join_token: Option<JoinTokenSource>,
        state: Option<StateDir>,
        holder: Holder,
    ) -> Self {
        let plan = Plan::at_once(holder.now());
        let random = SystemRandom::new();
        Self { client, join_token, state, holder, used: None, life: None, plan, failures: 0, random }
    }

    /// Works until `cancel`.
    pub async fn run(mut self, cancel: CancellationToken) {
        // An attempt that is dropped half-way has changed nothing: the state file is replaced whole.
        cancel.run_until_cancelled(self.work()).await;
    }

    async fn work(&mut self) {
        self.restore().await;
        loop {
            self.wait().await;
            match self.attempt().await {
                Ok(issued) => self.succeeded(issued).await,
                Err(error) => self.failed(&error),
            }
        }
    }

    /// Sleeps until the plan is due by the wall clock, which may jump meanwhile.
    async fn wait(&mut self) {
        loop {
            let now = self.holder.now();
            self.plan = self.plan.seen_at(now, self.life);
            self.holder.next_attempt(self.plan.at());
            self.holder.watch_expiry();
            if self.plan.is_due(now) {
                return;
            }
            tokio::time::sleep(self.plan.wake_in(now, self.life)).await;
        }
    }

    async fn attempt(&mut self) -> Result<Issued, AttemptError> {
        let Some(credentials) = self.holder.credentials() else {
            let read = self.fresh_token().await?;
            return self.enrol(read).await.map_err(AttemptError::Enrol);
        };
        let now = self.holder.now();
        let refusal = match self.client.renew(&credentials, now).await {
            Ok(issued) => return Ok(issued),
            Err(refusal) => refusal,
        };
        if !lost_for_renewal(&credentials, &refusal, now) {
            return Err(AttemptError::Renew(refusal));
        }
        match self.fresh_token_for(credentials.svid.id()).await {
            Ok(read) => {
                let enrolled = self.enrol(read).await;
                enrolled.map_err(|cause| AttemptError::EnrolAfter { refusal: in_one_line(&refusal), cause })
            }
            Err(token) => Err(AttemptError::RenewWithoutToken { refusal, token: in_one_line(&token) }),
        }
    }

    async fn enrol(&mut self, read: ReadToken) -> Result<Issued, CaError> {
        let issued = self.client.enrol(&read.token, self.holder.now()).await?;
        self.used = Some(read.fingerprint);
        Ok(issued)
    }

    async fn fresh_token(&self) -> Result<ReadToken, TokenError> {
        let source = self.join_token.as_ref().ok_or(TokenError::NotConfigured)?;
        let read = join_token::read(source).await?;
        if self.used == Some(read.fingerprint) {
            return Err(TokenError::Used);
        }
        Ok(read)
    }

    /// Whoever runs as one identity does not become another without a restart.
    async fn fresh_token_for(&self, id: &SpiffeId) -> Result<ReadToken, TokenError> {
        let read = self.fresh_token().await?;
        if read.token.id() != id {
            return Err(TokenError::OtherIdentity { own: id.clone(), found: read.token.id().clone() });
        }
        Ok(read)
    }

    async fn succeeded(&mut self, issued: Issued) {
        let Issued { svid, bundles } = issued;
        if let Some(state) = self.state.clone() {
            let (svid, bundles) = (svid.clone(), bundles.clone());
            match blocking(move || state.save(&svid, &bundles)).await {
                Ok(()) => {}
                Err(error) => warn!(reason = in_one_line(&error), "identity not kept for a restart"),
            }
        }
        let now = self.holder.now();
        let life = Lifetime {
            not_before: svid.verified().not_before(),
            not_after: svid.verified().not_after(),
            obtained: now,
        };
        match self.holder.adopt(svid, bundles) {
            Ok(()) => {
                self.failures = 0;
                self.life = Some(life);
                self.plan = Plan::to_renew(life, self.jitter());
            }
            Err(error) => self.failed(&AttemptError::Unusable(error)),
        }
    }

    fn failed(&mut self, error: &AttemptError) {
        self.failures = self.failures.saturating_add(1);
        let pause = Pause { retry_after: error.retry_after(), jitter: self.jitter() };
        self.plan = Plan::to_retry(self.holder.now(), self.life, self.failures, pause);
        self.holder.failed(error.code(), error);
    }

    /// Takes up what was kept over the restart. What is unusable is set aside, and the workload enrols anew.
    async fn restore(&mut self) {
        let Some(state) = self.state.clone() else { return };
        let now = self.holder.now();
        let loaded = {
            let state = state.clone();
            blocking(move || state.load(now)).await
        };
        match loaded {
            Ok(None) => {}
            Ok(Some(kept)) => match self.contradiction(&kept).await {
                None => self.take_up(kept, now),
                Some(reason) => set_aside(state, &reason).await,
            },
            Err(error) if error.is_of_content() => set_aside(state, &in_one_line(&error)).await,
            Err(error) => warn!(reason = in_one_line(&error), "kept identity not read"),
        }
    }

    /// The join token says who this workload is to be; a directory left by another workload says otherwise.
    async fn contradiction(&self, kept: &Kept) -> Option<String> {
        match self.fresh_token_for(kept.svid.id()).await {
            Err(error @ TokenError::OtherIdentity { .. }) => Some(error.to_string()),
            _ => None,
        }
    }

    fn take_up(&mut self, kept: Kept, now: OffsetDateTime) {
        let verified = kept.svid.verified();
        let (not_before, not_after) = (verified.not_before(), verified.not_after());
        let life = Lifetime { not_before, not_after, obtained: not_before };
        match self.holder.restore(kept.svid, Arc::new(kept.bundles)) {
            Ok(()) => {
                self.life = Some(life);
                self.plan = Plan::to_renew_kept(life, now);
            }
            Err(error) => self.holder.failed("state", &error),
        }
    }

    /// Evenly spread between -1 and 1.
    fn jitter(&self) -> f64 {
        let mut bytes = [0; 2];
        // Without a random source there is no spread; renewing matters more.
        let filled = self.random.fill(&mut bytes).is_ok();
        if filled { f64::from(i16::from_ne_bytes(bytes)) / f64::from(i16::MAX) } else { 0.0 }
    }
}

/// Whether only a join token can help. An expired certificate's refusal may show as a broken connection only.
fn lost_for_renewal(credentials: &Credentials, refusal: &CaError, now: OffsetDateTime) -> bool {
    refusal.wants_join_token() || credentials.is_expired(now) && matches!(refusal, CaError::Broken { .. })
}

async fn set_aside(state: StateDir, reason: &str) {
    match blocking(move || state.set_aside()).await {
        Ok(aside) => warn!(reason, aside = %aside.display(), "kept identity set aside; enrolling anew"),
        Err(error) => warn!(reason, error = in_one_line(&error), "kept identity not used; enrolling anew"),
    }
    info!("a join token is needed to enrol anew");
}

/// File work off the runtime's threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StateError> + Send + 'static,
) -> Result<T, StateError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        let cause = std::io::Error::other(error);
        Err(StateError::Io { doing: "work on", path: "the state directory".into(), cause })
    })
}

/// Why an attempt brought no certificate.
#[derive(Debug, Error)]
enum AttemptError {
    #[error("not enrolled")]
    Enrol(#[source] CaError),
    #[error("not enrolled for want of a join token")]
    Token(#[from] TokenError),
    #[error("not renewed")]
    Renew(#[source] CaError),
    #[error("not renewed, nor enrolled anew ({token})")]
    RenewWithoutToken {
        #[source]
        refusal: CaError,
        token: String,
    },
    #[error("not renewed ({refusal}), nor enrolled anew")]
    EnrolAfter {
        refusal: String,
        #[source]
        cause: CaError,
    },
    #[error("certificate cannot be used for TLS")]
    Unusable(#[source] rustls::Error),
}

impl AttemptError {
    fn ca(&self) -> Option<&CaError> {
        match self {
            Self::Enrol(error) | Self::Renew(error) => Some(error),
            Self::RenewWithoutToken { refusal, .. } => Some(refusal),
            Self::EnrolAfter { cause, .. } => Some(cause),
            Self::Token(_) | Self::Unusable(_) => None,
        }
    }

    fn retry_after(&self) -> Option<std::time::Duration> {
        self.ca().and_then(CaError::retry_after)
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Token(_) => "join_token",
            Self::Unusable(_) => "bad_answer",
            _ => self.ca().map_or("ca_unreachable", CaError::code),
        }
    }
}

/// Why there is no join token to enrol with.
#[derive(Debug, Error)]
enum TokenError {
    #[error("no join token is configured")]
    NotConfigured,
    #[error("the join token has been used already; put a fresh one in its place")]
    Used,
    #[error("the join token is for {found}, but the identity at hand is {own}")]
    OtherIdentity { own: SpiffeId, found: SpiffeId },
    #[error(transparent)]
    Unreadable(#[from] ReadTokenError),
}
