//! Puts in force what the CA says, and what it said before a restart.

use std::collections::HashSet;
use std::sync::Arc;

use postern_proto::identity::SpiffeId;
use postern_proto::policy::Policy;
use postern_proto::wire::v1::sidecar_update::Update;
use postern_proto::wire::v1::{PolicyAcknowledgement, PolicySlice, RevokedIdentities};
use prost::Message as _;
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::kept::{Kept, KeptError};
use super::slice::{TakeError, policy_of};
use crate::control::ControlState;
use crate::control::policy_store::PolicySource;
use crate::error_text::one_line;

/// The one writer of what comes from the CA.
#[derive(Debug)]
pub(super) struct UpdateHandler {
    control: Arc<ControlState>,
    /// What a restart finds.
    pub(super) kept: watch::Sender<Kept>,
    /// What the CA shall be told of its last slice.
    pub(super) acknowledgement: Option<PolicyAcknowledgement>,
}

impl UpdateHandler {
    pub(super) fn new(control: Arc<ControlState>) -> Self {
        if control.config.policy_file.is_none() {
            control.policy.expect_from(PolicySource::Ca, None);
        }
        Self { control, kept: watch::Sender::default(), acknowledgement: None }
    }

    /// Puts in force what was kept over the restart.
    pub(super) fn restore(&mut self, kept: Kept) -> Result<(), KeptError> {
        let own_file = self.control.config.policy_file.is_some();
        if let Some(slice) = kept.slice.as_deref().filter(|_| !own_file) {
            let slice = PolicySlice::decode(slice).map_err(TakeError::from)?;
            let policy = policy_of(slice, None).map_err(KeptError::Slice)?;
            self.put(policy, "the state directory");
        }
        self.control.revoked.replace(kept.revoked.clone());
        self.kept.send_replace(kept);
        Ok(())
    }

    pub(super) fn take(&mut self, update: Update) {
        match update {
            Update::Policy(_) if self.control.config.policy_file.is_some() => {
                warn!("the CA sent a policy, but the own file is in force");
            }
            Update::Policy(slice) => self.take_slice(slice),
            Update::Revoked(list) => self.take_revoked(list),
        }
    }

    fn take_slice(&mut self, slice: PolicySlice) {
        let (version, bytes) = (slice.version, slice.encode_to_vec());
        let own = self.control.credentials.current();
        let refused = match policy_of(slice, own.as_ref().map(|own| own.svid.id())) {
            Ok(policy) => {
                self.put_in_force(policy, bytes);
                String::new()
            }
            Err(error) => self.keep_last_good(version, &error),
        };
        let unenforceable = if refused.is_empty() { self.control.unenforceable() } else { Vec::new() };
        self.acknowledgement = Some(PolicyAcknowledgement { version, refused, unenforceable });
    }

    /// What is in force already, as after a reconnection, is only confirmed.
    fn put_in_force(&mut self, policy: Option<Policy>, slice: Vec<u8>) {
        if self.kept.borrow().slice.as_ref() == Some(&slice) {
            return self.control.policy.confirmed();
        }
        self.put(policy, "the CA");
        self.control.metrics.policy_reloaded("ok");
        self.kept.send_modify(|kept| kept.slice = Some(slice));
    }

    fn put(&self, policy: Option<Policy>, from: &str) {
        let now = self.control.clock.now();
        let version = policy.as_ref().and_then(Policy::version).unwrap_or_default();
        self.control.metrics.policy_version(version);
        match policy {
            Some(policy) => {
                info!(version, digest = policy.digest(), from, "policy in force");
                self.control.policy.replace(policy, now);
            }
            None => {
                warn!(from, "the CA stores no policy: every peer is refused");
                self.control.policy.withdraw(now);
            }
        }
    }

    fn keep_last_good(&self, version: u64, cause: &TakeError) -> String {
        let reason = one_line(cause);
        let kept = self.control.policy.current().is_some();
        let consequence = if kept { "the last good policy stays in force" } else { "every peer is refused" };
        error!(version, reason, consequence, "policy from the CA not taken");
        self.control.metrics.policy_reloaded("error");
        self.control.policy.refused(format!("version {version}: {reason}"));
        reason
    }

    /// What is no SPIFFE ID is nobody's, so it leaves the rest of the list good.
    fn take_revoked(&self, list: RevokedIdentities) {
        let mut revoked = HashSet::with_capacity(list.ids.len());
        for text in &list.ids {
            match SpiffeId::parse(text) {
                Ok(id) => {
                    revoked.insert(id);
                }
                Err(error) => error!(%error, "a revoked identity from the CA is none"),
            }
        }
        self.revoke(revoked);
    }

    /// The CA gives nothing to an identity that is revoked: a sidecar that was away meanwhile learns it so.
    pub(super) fn own_identity_refused(&self) {
        let Some(own) = self.control.credentials.current() else { return };
        let mut revoked = HashSet::clone(&self.control.revoked.current());
        revoked.insert(own.svid.id().clone());
        self.revoke(revoked);
    }

    fn revoke(&self, revoked: HashSet<SpiffeId>) {
        let count = revoked.len();
        if self.control.revoked.replace(revoked.clone()) {
            info!(count, "revoked identities changed");
            self.kept.send_modify(|kept| kept.revoked = revoked);
        }
    }
}
