//! Authorizes every live connection again as soon as policy, identity, trust or revocations change.

use std::sync::Arc;
use std::time::Duration;

use postern_proto::identity::VerifiedSvid;
use postern_proto::mtls::{AuthorizeId, Authorizer as _, Denial};
use postern_proto::policy::Call;
use time::OffsetDateTime;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::ProxyState;
use crate::control::denied;
use crate::identity::credentials::is_valid_at;
use crate::observability::Direction;
use crate::proxy::connections::{Facts, LOOK_INTERVAL, RequestInfo};

/// Interval of checks for expired rules: after a suspend, an expiry takes effect this soon.
pub const EXPIRY_LOOK_INTERVAL: Duration = Duration::from_secs(1);

impl ProxyState {
    /// Authorizes live connections again whenever policy, identity, trust or revocations change or a rule expires,
    /// and terminates those that exceed their lifetime, until `cancel`.
    pub async fn watch(self: Arc<Self>, cancel: CancellationToken) {
        let (mut policy, mut credentials) =
            (self.control.policy.changes(), self.control.credentials.changes());
        let mut revoked = self.control.revoked.changes();
        let watch = async {
            let mut decided = self.control.clock.now();
            let mut logged = Vec::new();
            loop {
                self.log_unenforceable(&mut logged);
                let changed = tokio::select! {
                    changed = policy.changed() => changed,
                    changed = credentials.changed() => {
                        self.register.wake().await;
                        changed
                    }
                    changed = revoked.changed() => changed,
                    () = self.next_rule_expiry(decided) => Ok(()),
                };
                if changed.is_err() {
                    return;
                }
                decided = self.control.clock.now();
                self.register.decide_again(|facts, call| self.still_allowed(facts, call)).await;
            }
        };
        let both = async { tokio::join!(watch, self.end_outlived()) };
        cancel.run_until_cancelled(both).await;
    }

    async fn end_outlived(&self) {
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            self.register
                .end_outlived(&self.control.config.limits, self.control.clock.now(), Instant::now())
                .await;
        }
    }

    /// Logs what cannot be enforced, once per change.
    fn log_unenforceable(&self, logged: &mut Vec<String>) {
        let problems = self.control.unenforceable();
        if problems != *logged {
            for what in &problems {
                warn!(what, "cannot be enforced, so it is refused");
            }
            *logged = problems;
        }
    }

    /// Waits until a rule that was valid at `decided` has expired. The wall clock is polled, because it may jump and
    /// the machine may be suspended.
    async fn next_rule_expiry(&self, mut decided: OffsetDateTime) {
        loop {
            let now = self.control.clock.now();
            // If the clock steps back, expired rules become valid and will expire again.
            decided = decided.min(now);
            let rule = self.control.policy.current().and_then(|policy| policy.next_expiry(decided));
            // A certificate is valid through its last second (svid.md, Time).
            let own = self.control.credentials.current().map(|own| own.svid.verified().not_after());
            let proofs = own.into_iter().chain(self.register.next_proof_due(decided).await);
            let proof =
                proofs.map(|not_after| not_after + Duration::from_secs(1)).filter(|end| *end > decided);
            let end = rule.into_iter().chain(proof).min();
            let left = match end {
                None => EXPIRY_LOOK_INTERVAL,
                Some(end) if end <= now => return,
                Some(end) => Duration::try_from(end - now).unwrap_or_default().min(EXPIRY_LOOK_INTERVAL),
            };
            tokio::time::sleep(left).await;
        }
    }

    /// Whether both sides of a tunnel have proved a certificate that is valid now.
    fn check_proofs(&self, peer: &VerifiedSvid) -> Result<(), Denial> {
        self.control.valid_credentials()?;
        let not_after = peer.not_after();
        if is_valid_at(not_after, self.control.clock.now()) {
            return Ok(());
        }
        let detail =
            format!("{} has proved no newer certificate than one that expired at {not_after}", peer.id());
        Err(Denial { code: "peer_expired", detail })
    }

    fn still_allowed(&self, facts: &Facts, call: Option<&RequestInfo>) -> Result<(), Denial> {
        let Some(peer) = &facts.peer else { return Ok(()) };
        self.control.still_believes(peer)?;
        if facts.is_tunnel {
            self.check_proofs(peer)?;
        }
        match facts.direction {
            Direction::Inbound => {
                let Some(inbound) = self.control.config.inbounds.get(facts.listener) else { return Ok(()) };
                let Some(credentials) = self.control.credentials.current() else { return Ok(()) };
                let own = credentials.svid.id();
                let Some(RequestInfo { method, path }) = call else {
                    return self.control.decide(peer.id(), own, inbound).map(|_| ());
                };
                let (decision, policy) =
                    self.control.decide_call(peer.id(), own, inbound, Call { method, path })?;
                if decision.lets_pass() { Ok(()) } else { Err(denied(&decision, &policy)) }
            }
            Direction::Outbound => {
                let Some(outbound) = self.control.config.outbounds.get(facts.listener) else { return Ok(()) };
                AuthorizeId(self.control.expected(&outbound.target)?).authorize(peer)
            }
        }
    }
}
