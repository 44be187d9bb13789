//! The shared state of identity, policy and revocations, and the access decisions based on it.

use std::sync::Arc;

use postern_proto::identity::{SpiffeId, VerifiedSvid};
use postern_proto::mtls::{Denial, REVOKED};
use postern_proto::policy::{Call, Decision, Policy, Port, Protocol, decide, may_connect};
use postern_proto::wire::v1::call_report::Outcome;
use time::OffsetDateTime;
use tokio::sync::watch;

use super::call_counts::{CallCounts, UnallowedCall};
use super::policy_store::PolicyStore;
use super::revocations::Revoked;
use super::subscription::SubscriptionStatus;
use crate::clock::Clock;
use crate::config::{Config, Inbound, MaxAge, Target};
use crate::identity::credentials::{CredentialStore, Credentials};
use crate::network::resolver::NameServers;
use crate::observability::metrics::Metrics;

/// Maximum number of reported rules that cannot be enforced.
pub const UNENFORCEABLE_TOLD_MAX: usize = 100;

/// The state on which access decisions are based.
#[derive(Debug)]
pub struct ControlState {
    pub config: Config,
    pub credentials: Arc<CredentialStore>,
    pub policy: Arc<PolicyStore>,
    pub revoked: Arc<Revoked>,
    /// The status of the CA's stream.
    pub subscription: watch::Sender<SubscriptionStatus>,
    pub call_counts: CallCounts,
    pub metrics: Arc<Metrics>,
    pub name_servers: NameServers,
    pub clock: Arc<dyn Clock>,
}

impl ControlState {
    pub fn new(config: Config, clock: Arc<dyn Clock>) -> Self {
        let metrics = Arc::<Metrics>::default();
        metrics.configured(&config.limits);
        Self {
            config,
            credentials: Arc::default(),
            policy: Arc::default(),
            revoked: Arc::default(),
            subscription: watch::Sender::default(),
            call_counts: CallCounts::default(),
            metrics,
            name_servers: NameServers::default(),
            clock,
        }
    }

    /// The sidecar's credentials, if they exist, have not expired and are not revoked.
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

    /// Checks again a peer that was verified in its handshake, with the roots of that time: neither the peer nor the
    /// sidecar's own identity has been revoked since, and the peer's root is still trusted.
    pub fn still_believes(&self, peer: &VerifiedSvid) -> Result<(), Denial> {
        if self.revoked.contains(peer.id()) {
            return Err(Denial { code: REVOKED, detail: format!("the identity {} is revoked", peer.id()) });
        }
        let Some(own) = self.credentials.current() else { return Ok(()) };
        self.not_revoked_itself(own.svid.id())?;
        if !peer.is_still_vouched_for(&own.bundles) {
            let detail = format!("the root that vouched for {} is no longer trusted", peer.id());
            return Err(Denial { code: "root_removed", detail });
        }
        Ok(())
    }

    /// Until when a connection to `peer` that starts now may be used for new requests.
    pub fn good_until(&self, peer: &VerifiedSvid) -> OffsetDateTime {
        let not_after = peer.not_after();
        match self.config.limits.max_connection_age {
            MaxAge::After(age) => not_after.min(self.clock.now() + age),
            MaxAge::Off | MaxAge::Svid => not_after,
        }
    }

    /// Decides whether the policy in force allows `peer` to connect to an inbound of `own`.
    pub fn decide(&self, peer: &SpiffeId, own: &SpiffeId, inbound: &Inbound) -> Result<Decision, Denial> {
        let (decision, policy) = self.decision(peer, own, inbound)?;
        if decision.lets_pass() { Ok(decision) } else { Err(denied(&decision, &policy)) }
    }

    /// Decides like [`Self::decide`] about a new connection, and counts it if no rule allows it. For an accepted
    /// connection that carries calls, the calls are counted instead.
    pub fn admit(
        &self,
        peer: &SpiffeId,
        own: &SpiffeId,
        inbound: &Inbound,
        decided: impl FnOnce(&Decision, &Policy),
    ) -> Result<Decision, Denial> {
        let (decision, policy) = self.decision(peer, own, inbound)?;
        decided(&decision, &policy);
        if inbound.protocol == Protocol::Tcp || !decision.lets_pass() {
            self.count(&decision, &policy, None);
        }
        if decision.lets_pass() { Ok(decision) } else { Err(denied(&decision, &policy)) }
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

    /// The decision of the policy in force about one request of `peer` to an inbound of `own`, and that policy.
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

    /// Counts a connection or call that no rule of `policy` allows, for the report to the CA; `call` is method and
    /// path.
    pub fn count(&self, decision: &Decision, policy: &Policy, call: Option<(&str, &str)>) {
        let (outcome, refusal) = match decision {
            Decision::Allow { .. } => return,
            Decision::Deny { refusal } => (Outcome::Refused, refusal),
            Decision::Observed { refusal } => (Outcome::Observed, refusal),
        };
        let (from, port, gap) = (&refusal.peer, &*refusal.port, &*refusal.lack().to_string());
        let call = UnallowedCall { outcome, from, port, call, gap, policy_digest: policy.digest() };
        self.call_counts.record(call, self.clock.now());
    }

    /// Descriptions of the rules of the policy in force that these inbounds cannot enforce, up to
    /// [`UNENFORCEABLE_TOLD_MAX`].
    pub fn unenforceable(&self) -> Vec<String> {
        let (Some(policy), Some(own)) = (self.policy.current(), self.credentials.current()) else {
            return Vec::new();
        };
        let Some(service) = policy.service_with(own.svid.id()) else { return Vec::new() };
        let ports = self.config.inbounds.iter();
        let ports = ports.map(|inbound| Port { name: &inbound.name, protocol: inbound.protocol });
        service.unenforceable(ports).take(UNENFORCEABLE_TOLD_MAX).map(|found| found.to_string()).collect()
    }

    /// The identity that the server of an outbound must have.
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
}

fn no_policy() -> Denial {
    Denial { code: "no_policy", detail: "there is no policy, so every peer is refused".to_owned() }
}

pub fn denied(decision: &Decision, policy: &Policy) -> Denial {
    Denial { code: "denied", detail: format!("{} ({})", decision.reason(), policy.digest()) }
}
