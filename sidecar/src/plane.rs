//! What every connection of this sidecar shares: identity, policy, register, and the decision made of them.

use std::sync::Arc;
use std::time::Duration;

use postern_proto::identity::{SpiffeId, VerifiedSvid};
use postern_proto::mtls::{Admission as _, Denial, Exactly};
use postern_proto::policy::{Call, Decision, Policy, Port, decide, may_connect};
use postern_proto::wire::v1::call_report::Outcome;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::call_counts::{CallCounts, CallSeen};
use crate::clock::Clock;
use crate::config::{Config, Inbound, Target};
use crate::credentials::{CredentialStore, Credentials};
use crate::http::CallFacts;
use crate::live::{Facts, Register};
use crate::metrics::{Direction, Metrics};
use crate::policy_store::PolicyStore;
use crate::refusals::Refusals;
use crate::revoked::Revoked;
use crate::subscription::SubscriptionStatus;

/// How often the clock is looked at for rules that have ended. A machine that slept acts so soon after it woke.
pub const EXPIRY_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// So many things that cannot be enforced are told.
pub const UNENFORCEABLE_TOLD_MAX: usize = 100;

/// The shared state of the data plane.
#[derive(Debug)]
pub struct Plane {
    pub config: Config,
    pub credentials: Arc<CredentialStore>,
    pub policy: Arc<PolicyStore>,
    pub revoked: Arc<Revoked>,
    /// How the CA's stream stands.
    pub subscription: watch::Sender<SubscriptionStatus>,
    pub register: Arc<Register>,
    pub refusals: Refusals,
    pub call_counts: CallCounts,
    pub metrics: Arc<Metrics>,
    pub clock: Arc<dyn Clock>,
}

impl Plane {
    pub fn new(config: Config, clock: Arc<dyn Clock>) -> Self {
        let metrics = Arc::<Metrics>::default();
        Self {
            config,
            credentials: Arc::default(),
            policy: Arc::default(),
            revoked: Arc::default(),
            subscription: watch::Sender::default(),
            register: Arc::new(Register::new(metrics.clone())),
            call_counts: CallCounts::default(),
            refusals: Refusals::new(metrics.clone(), clock.clone()),
            metrics,
            clock,
        }
    }

    /// The own credentials, if there are any and they have not expired.
    pub fn valid_credentials(&self) -> Result<Arc<Credentials>, Denial> {
        let credentials = self.credentials.current().ok_or_else(|| Denial {
            code: "no_identity",
            detail: "this sidecar has no identity yet".to_owned(),
        })?;
        if credentials.is_expired(self.clock.now()) {
            let not_after = credentials.svid.verified().not_after();
            let detail = format!("this sidecar's own certificate expired at {not_after}");
            return Err(Denial { code: "own_identity_expired", detail });
        }
        self.not_revoked_itself(credentials.svid.id())?;
        Ok(credentials)
    }

    fn not_revoked_itself(&self, own: &SpiffeId) -> Result<(), Denial> {
        if !self.revoked.contains(own) {
            return Ok(());
        }
        let detail = format!("this sidecar's own identity {own} is revoked");
        Err(Denial { code: "own_identity_revoked", detail })
    }

    /// Whether a peer is believed now as it was in its handshake, which judged by the roots it began with: neither it
    /// nor the own identity has been revoked, and its root is still trusted.
    pub fn still_believes(&self, peer: &VerifiedSvid) -> Result<(), Denial> {
        if self.revoked.contains(peer.id()) {
            return Err(Denial { code: "revoked", detail: format!("the identity {} is revoked", peer.id()) });
        }
        let Some(own) = self.credentials.current() else { return Ok(()) };
        self.not_revoked_itself(own.svid.id())?;
        if !peer.is_still_vouched_for(&own.bundles) {
            let detail = format!("the root that vouched for {} is no longer trusted", peer.id());
            return Err(Denial { code: "root_removed", detail });
        }
        Ok(())
    }

    /// What the policy in force says to one request of `peer` to an inbound of `own`, and which policy that is.
    pub fn decide_call(
        &self,
        peer: &SpiffeId,
        own: &SpiffeId,
        inbound: &Inbound,
        call: Call<'_>,
    ) -> Result<(Decision, Arc<Policy>), Denial> {
        let policy = self.policy.current().ok_or_else(no_policy)?;
        let port = Port { name: &inbound.name, protocol: inbound.protocol };
        Ok((decide(&policy, peer, own, port, Some(call), self.clock.now()), policy))
    }

    /// Whether the policy in force lets `peer` connect to an inbound of `own`.
    pub fn decide(&self, peer: &SpiffeId, own: &SpiffeId, inbound: &Inbound) -> Result<Decision, Denial> {
        let (decision, policy) = self.decision(peer, own, inbound)?;
        denied_or(decision, &policy)
    }

    /// Decides as [`Self::decide`] about a connection that is new, so that it counts when no rule allows it.
    pub fn admit(&self, peer: &SpiffeId, own: &SpiffeId, inbound: &Inbound) -> Result<Decision, Denial> {
        let (decision, policy) = self.decision(peer, own, inbound)?;
        self.count(&decision, &policy, None);
        denied_or(decision, &policy)
    }

    fn decision(
        &self,
        peer: &SpiffeId,
        own: &SpiffeId,
        inbound: &Inbound,
    ) -> Result<(Decision, Arc<Policy>), Denial> {
        let policy = self.policy.current().ok_or_else(no_policy)?;
        let port = Port { name: &inbound.name, protocol: inbound.protocol };
        Ok((may_connect(&policy, peer, own, port, self.clock.now()), policy))
    }

    /// Counts, for the CA to be told, what no rule of `policy` allows; `call` is method and path, if there is one.
    pub fn count(&self, decision: &Decision, policy: &Policy, call: Option<(&str, &str)>) {
        let (outcome, refusal) = match decision {
            Decision::Allow { .. } => return,
            Decision::Deny { refusal } => (Outcome::Refused, refusal),
            Decision::Observed { refusal } => (Outcome::Observed, refusal),
        };
        let (from, port, gap) = (&refusal.peer, &*refusal.port, &*refusal.lack().to_string());
        let seen = CallSeen { outcome, from, port, call, gap, policy_digest: policy.digest() };
        self.call_counts.record(seen, self.clock.now());
    }

    /// What of the policy in force cannot be enforced by these inbounds, in words, up to [`UNENFORCEABLE_TOLD_MAX`].
    pub fn unenforceable(&self) -> Vec<String> {
        let (Some(policy), Some(own)) = (self.policy.current(), self.credentials.current()) else {
            return Vec::new();
        };
        let Some(service) = policy.service_with(own.svid.id()) else { return Vec::new() };
        let ports = self.config.inbounds.iter();
        let ports = ports.map(|inbound| Port { name: &inbound.name, protocol: inbound.protocol });
        service.unenforceable(ports).take(UNENFORCEABLE_TOLD_MAX).map(|found| found.to_string()).collect()
    }

    /// The identity that must answer an outbound.
    pub fn expected(&self, target: &Target) -> Result<SpiffeId, Denial> {
        let name = match target {
            Target::Id(id) => return Ok(id.clone()),
            Target::Service(name) => name,
        };
        let policy = self.policy.current().ok_or_else(|| Denial {
            code: "no_policy",
            detail: format!("there is no policy to say which identity the service {name:?} has"),
        })?;
        policy.identity_of(name).cloned().ok_or_else(|| Denial {
            code: "unknown_service",
            detail: format!("{} declares no service {name:?}", policy.file()),
        })
    }

    /// Decides about live connections again whenever policy, identity, trust or revocations change or a rule ends,
    /// until `cancel`.
    pub async fn watch(self: Arc<Self>, cancel: CancellationToken) {
        let (mut policy, mut credentials) = (self.policy.changes(), self.credentials.changes());
        let mut revoked = self.revoked.changes();
        let watch = async {
            let mut decided = self.clock.now();
            let mut told = Vec::new();
            loop {
                self.tell_unenforceable(&mut told);
                let changed = tokio::select! {
                    changed = policy.changed() => changed,
                    changed = credentials.changed() => changed,
                    changed = revoked.changed() => changed,
                    () = self.a_rule_ends_after(decided) => Ok(()),
                };
                if changed.is_err() {
                    return;
                }
                decided = self.clock.now();
                self.register.decide_again(|facts, call| self.still_allowed(facts, call));
            }
        };
        cancel.run_until_cancelled(watch).await;
    }

    /// Logs what cannot be enforced, once while it stays the same.
    fn tell_unenforceable(&self, told: &mut Vec<String>) {
        let found = self.unenforceable();
        if found != *told {
            for what in &found {
                warn!(what, "cannot be enforced, so it is refused");
            }
            *told = found;
        }
    }

    /// Waits until a rule of the policy in force has ended that held at `decided`. The wall clock may jump and the
    /// machine may sleep meanwhile, so it is looked at again and again.
    async fn a_rule_ends_after(&self, mut decided: OffsetDateTime) {
        loop {
            let now = self.clock.now();
            // After a step back of the clock, rules hold again that will end again.
            decided = decided.min(now);
            let end = self.policy.current().and_then(|policy| policy.next_expiry(decided));
            let left = match end {
                None => EXPIRY_LOOK_INTERVAL,
                Some(end) if end <= now => return,
                Some(end) => Duration::try_from(end - now).unwrap_or_default().min(EXPIRY_LOOK_INTERVAL),
            };
            tokio::time::sleep(left).await;
        }
    }

    fn still_allowed(&self, facts: &Facts, call: Option<&CallFacts>) -> Result<(), Denial> {
        let Some(peer) = &facts.peer else { return Ok(()) };
        self.still_believes(peer)?;
        match facts.direction {
            Direction::Inbound => {
                let Some(inbound) = self.config.inbounds.get(facts.listener) else { return Ok(()) };
                let Some(credentials) = self.credentials.current() else { return Ok(()) };
                let own = credentials.svid.id();
                let Some(CallFacts { method, path }) = call else {
                    return self.decide(peer.id(), own, inbound).map(|_| ());
                };
                let (decision, policy) = self.decide_call(peer.id(), own, inbound, Call { method, path })?;
                if decision.lets_pass() { Ok(()) } else { Err(denied(&decision, &policy)) }
            }
            Direction::Outbound => {
                let Some(outbound) = self.config.outbounds.get(facts.listener) else { return Ok(()) };
                Exactly(self.expected(&outbound.target)?).admit(peer)
            }
        }
    }
}

fn no_policy() -> Denial {
    Denial { code: "no_policy", detail: "there is no policy, so every peer is refused".to_owned() }
}

fn denied(decision: &Decision, policy: &Policy) -> Denial {
    Denial { code: "denied", detail: format!("{} ({})", decision.reason(), policy.digest()) }
}

fn denied_or(decision: Decision, policy: &Policy) -> Result<Decision, Denial> {
    if decision.lets_pass() {
        return Ok(decision);
    }
    Err(denied(&decision, policy))
}
