//! The loop that keeps an identity from a CA fresh: enrol once, renew for ever, survive the CA's absence.

mod attempt;
mod restart;
mod unanswered;

use ring::rand::{SecureRandom as _, SystemRandom};
use tokio_util::sync::CancellationToken;

use crate::config::JoinTokenSource;
use crate::identity::ca_client::{CaClient, Issued};
use crate::identity::join_token::Fingerprint;
use crate::identity::schedule::{Lifetime, Pause, Plan};
use crate::identity::state_dir::StateDir;
use crate::identity::writer::IdentityWriter;
use attempt::{AttemptError, Success};
use unanswered::Unanswered;

/// Owns the identity of a workload that has a CA.
#[derive(Debug)]
pub struct Renewal {
    client: CaClient,
    join_token: Option<JoinTokenSource>,
    state: Option<StateDir>,
    holder: IdentityWriter,
    /// The token that was used last: it is good for nothing any more.
    used: Option<Fingerprint>,
    unanswered: Option<Unanswered>,
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
        holder: IdentityWriter,
    ) -> Self {
        let plan = Plan::at_once(holder.now());
        let random = SystemRandom::new();
        let (used, unanswered, life) = (None, None, None);
        Self { client, join_token, state, holder, used, unanswered, life, plan, failures: 0, random }
    }

    /// Works until `cancel`. What has come is kept before the work ends.
    pub async fn run(mut self, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.restore()).await;
        while let Some(attempt) = cancel.run_until_cancelled(self.next()).await {
            match attempt {
                Ok(success) => self.succeeded(success).await,
                Err(error) => self.failed(&error),
            }
        }
    }

    async fn next(&mut self) -> Result<Success, AttemptError> {
        self.wait().await;
        self.attempt().await
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

    /// A join token is good once, so what it bought is kept before anybody builds on it. A renewal can be had again,
    /// and no disk that hangs holds it up.
    async fn succeeded(&mut self, success: Success) {
        match success {
            Success::Enrolled(issued) => {
                self.keep(issued.clone()).await;
                if self.adopt(issued) {
                    self.answered().await;
                }
            }
            Success::Renewed(issued) => {
                if self.adopt(issued.clone()) {
                    self.keep(issued).await;
                    self.answered().await;
                }
            }
        }
    }

    /// Whether it could be put in place.
    fn adopt(&mut self, Issued { svid, bundles }: Issued) -> bool {
        let now = self.holder.now();
        let life = Lifetime {
            not_before: svid.verified().not_before(),
            not_after: svid.verified().not_after(),
            obtained: now,
        };
        if let Err(error) = self.holder.adopt(svid, bundles) {
            self.failed(&AttemptError::Unusable(error));
            return false;
        }
        self.failures = 0;
        self.life = Some(life);
        self.plan = Plan::to_renew(life, jitter(&self.random));
        true
    }

    fn failed(&mut self, error: &AttemptError) {
        self.failures = self.failures.saturating_add(1);
        let pause = Pause { retry_after: error.retry_after(), jitter: jitter(&self.random) };
        self.plan = Plan::to_retry(self.holder.now(), self.life, self.failures, pause);
        self.holder.failed(error.code(), error);
    }
}

/// Evenly spread between -1 and 1.
pub(crate) fn jitter(random: &SystemRandom) -> f64 {
    let mut bytes = [0; 2];
    // Without a random source there is no spread; asking the CA matters more.
    let filled = random.fill(&mut bytes).is_ok();
    if filled { f64::from(i16::from_ne_bytes(bytes)) / f64::from(i16::MAX) } else { 0.0 }
}
