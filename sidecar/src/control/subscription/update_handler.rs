//! Applies updates from the CA, and the state that was persisted before a restart.

use std::collections::HashSet;
use std::sync::Arc;

use postern_proto::identity::SpiffeId;
use postern_proto::policy::Policy;
use postern_proto::wire::v1::sidecar_update::Update;
use postern_proto::wire::v1::{PolicyAcknowledgement, PolicySlice, RevokedIdentities};
use prost::Message as _;
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::persisted::{PersistedState, PersistedStateError};
use super::slice::{SliceRejection, policy_of};
use crate::control::ControlState;
use crate::control::policy_store::PolicySource;
use crate::error_text::one_line;

/// The single writer of the policy and revocations that come from the CA.
#[derive(Debug)]
pub(super) struct UpdateHandler {
    control: Arc<ControlState>,
    /// The state to persist across a restart.
    pub(super) persisted: watch::Sender<PersistedState>,
    /// The acknowledgement of the last slice, to be sent to the CA.
    pub(super) acknowledgement: Option<PolicyAcknowledgement>,
}

impl UpdateHandler {
    pub(super) fn new(control: Arc<ControlState>) -> Self {
        if control.config.policy_file.is_none() {
            control.policy.expect_from(PolicySource::Ca, None);
        }
        Self { control, persisted: watch::Sender::default(), acknowledgement: None }
    }

    /// Applies the state that was persisted across the restart.
    pub(super) fn restore(&mut self, persisted: PersistedState) -> Result<(), PersistedStateError> {
        let own_file = self.control.config.policy_file.is_some();
        if let Some(slice) = persisted.slice.as_deref().filter(|_| !own_file) {
            let slice = PolicySlice::decode(slice).map_err(SliceRejection::from)?;
            let policy = policy_of(slice, None).map_err(PersistedStateError::Slice)?;
            self.install(policy, "the state directory");
        }
        self.control.revoked.replace(persisted.revoked.clone());
        self.persisted.send_replace(persisted);
        Ok(())
    }

    pub(super) fn apply(&mut self, update: Update) {
        match update {
            Update::Policy(_) if self.control.config.policy_file.is_some() => {
                warn!("the CA sent a policy, but the own file is in force");
            }
            Update::Policy(slice) => self.apply_slice(slice),
            Update::Revoked(list) => self.apply_revoked(list),
        }
    }

    fn apply_slice(&mut self, slice: PolicySlice) {
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

    /// Installs a policy. One that is in force already, as after a reconnection, is only confirmed.
    fn put_in_force(&mut self, policy: Option<Policy>, slice: Vec<u8>) {
        if self.persisted.borrow().slice.as_ref() == Some(&slice) {
            return self.control.policy.confirmed();
        }
        self.install(policy, "the CA");
        self.control.metrics.policy_reloaded("ok");
        self.persisted.send_modify(|persisted| persisted.slice = Some(slice));
    }

    fn install(&self, policy: Option<Policy>, from: &str) {
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

    fn keep_last_good(&self, version: u64, cause: &SliceRejection) -> String {
        let reason = one_line(cause);
        let persisted = self.control.policy.current().is_some();
        let consequence =
            if persisted { "the last good policy stays in force" } else { "every peer is refused" };
        error!(version, reason, consequence, "policy from the CA not taken");
        self.control.metrics.policy_reloaded("error");
        self.control.policy.refused(format!("version {version}: {reason}"));
        reason
    }

    /// Applies a revocation list. An entry that is not a SPIFFE ID is logged and skipped; the rest applies.
    fn apply_revoked(&self, list: RevokedIdentities) {
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

    /// Revokes the sidecar's own identity locally. The CA refuses the stream of a revoked identity, so a sidecar that
    /// was disconnected meanwhile learns of it this way.
    pub(super) fn revoke_own_identity(&self) {
        let Some(own) = self.control.credentials.current() else { return };
        let mut revoked = HashSet::clone(&self.control.revoked.current());
        revoked.insert(own.svid.id().clone());
        self.revoke(revoked);
    }

    fn revoke(&self, revoked: HashSet<SpiffeId>) {
        let count = revoked.len();
        if self.control.revoked.replace(revoked.clone()) {
            info!(count, "revoked identities changed");
            self.persisted.send_modify(|persisted| persisted.revoked = revoked);
        }
    }
}
