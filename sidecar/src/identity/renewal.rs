//! The renewal loop: enrols once, then renews the certificate, and retries while the CA is unreachable.

mod attempt;
mod pending_request;
mod persistence;

use ring::rand::{SecureRandom as _, SystemRandom};
use tokio_util::sync::CancellationToken;

use crate::config::JoinTokenSource;
use crate::identity::ca_client::{CaClient, IssuedIdentity};
use crate::identity::join_token::TokenFingerprint;
use crate::identity::schedule::{CertificateLifetime, RetryDelay, Schedule};
use crate::identity::state_dir::StateDir;
use crate::identity::writer::IdentityWriter;
use attempt::{AttemptError, Success};
use pending_request::PendingRequest;

/// Provides the identity of a workload that is configured with a CA.
#[derive(Debug)]
pub struct Renewal {
    client: CaClient,
    join_token: Option<JoinTokenSource>,
    state: Option<StateDir>,
    writer: IdentityWriter,
    /// The token that was used last. A token can be used only once.
    used_token: Option<TokenFingerprint>,
    pending_request: Option<PendingRequest>,
    lifetime: Option<CertificateLifetime>,
    schedule: Schedule,
    /// Consecutive failures.
    failures: u32,
    random: SystemRandom,
}

impl Renewal {
    pub fn new(
        client: CaClient,
        join_token: Option<JoinTokenSource>,
        state: Option<StateDir>,
        writer: IdentityWriter,
    ) -> Self {
        let schedule = Schedule::immediate(writer.now());
        let random = SystemRandom::new();
        let (used_token, pending_request, lifetime) = (None, None, None);
        Self {
            client,
            join_token,
            state,
            writer,
            used_token,
            pending_request,
            lifetime,
            schedule,
            failures: 0,
            random,
        }
    }

    /// Runs until `cancel`. An identity that has been received is persisted before this returns.
    pub async fn run(mut self, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.restore()).await;
        while let Some(attempt) = cancel.run_until_cancelled(self.next()).await {
            match attempt {
                Ok(success) => self.on_success(success).await,
                Err(error) => self.on_failure(&error),
            }
        }
    }

    async fn next(&mut self) -> Result<Success, AttemptError> {
        self.wait().await;
        self.attempt().await
    }

    /// Sleeps until the next attempt is due by the wall clock, which may be changed meanwhile.
    async fn wait(&mut self) {
        loop {
            let now = self.writer.now();
            self.schedule = self.schedule.adjusted_to_clock(now, self.lifetime);
            self.writer.set_next_attempt(self.schedule.at());
            self.writer.log_expiry();
            if self.schedule.is_due(now) {
                return;
            }
            tokio::time::sleep(self.schedule.sleep_time(now, self.lifetime)).await;
        }
    }

    /// A join token can be used only once, so an enrolled identity is persisted before it is used. A renewal can be
    /// repeated, so it is used first: a hanging disk does not delay it.
    async fn on_success(&mut self, success: Success) {
        match success {
            Success::Enrolled(issued) => {
                self.persist(issued.clone()).await;
                if self.install(issued) {
                    self.clear_pending_request().await;
                }
            }
            Success::Renewed(issued) => {
                if self.install(issued.clone()) {
                    self.persist(issued).await;
                    self.clear_pending_request().await;
                }
            }
        }
    }

    /// Installs the identity; returns whether that succeeded.
    fn install(&mut self, IssuedIdentity { svid, bundles }: IssuedIdentity) -> bool {
        let now = self.writer.now();
        let lifetime = CertificateLifetime {
            not_before: svid.verified().not_before(),
            not_after: svid.verified().not_after(),
            obtained: now,
        };
        if let Err(error) = self.writer.install(svid, bundles) {
            self.on_failure(&AttemptError::Unusable(error));
            return false;
        }
        self.failures = 0;
        self.lifetime = Some(lifetime);
        self.schedule = Schedule::for_renewal(lifetime, jitter(&self.random));
        true
    }

    fn on_failure(&mut self, error: &AttemptError) {
        self.failures = self.failures.saturating_add(1);
        let delay = RetryDelay { retry_after: error.retry_after(), jitter: jitter(&self.random) };
        self.schedule = Schedule::for_retry(self.writer.now(), self.lifetime, self.failures, delay);
        self.writer.record_failure(error.code(), error);
    }
}

/// A random number, uniformly distributed between -1 and 1.
pub(crate) fn jitter(random: &SystemRandom) -> f64 {
    let mut bytes = [0; 2];
    // Without a random source there is no jitter; the attempt itself matters more.
    let filled = random.fill(&mut bytes).is_ok();
    if filled { f64::from(i16::from_ne_bytes(bytes)) / f64::from(i16::MAX) } else { 0.0 }
}
