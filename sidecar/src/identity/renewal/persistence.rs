//! Persistence across restarts: the identity is saved to the state directory after each success and loaded at startup.

use std::sync::Arc;

use time::OffsetDateTime;
use tracing::warn;

use super::Renewal;
use super::attempt::TokenError;
use crate::error_text::one_line;
use crate::identity::ca_client::IssuedIdentity;
use crate::identity::schedule::{CertificateLifetime, Schedule};
use crate::identity::state_dir::{PersistedIdentity, StateDir, run_blocking};

impl Renewal {
    /// Saves the identity. One that cannot be saved is still used, but the next start then needs the CA.
    pub(super) async fn persist(&self, IssuedIdentity { svid, bundles }: IssuedIdentity) {
        let Some(state) = self.state.clone() else { return };
        if let Err(error) = run_blocking(move || state.save(&svid, &bundles)).await {
            warn!(reason = one_line(&error), "identity not kept for a restart");
        }
    }

    /// Loads the persisted identity. An unusable file is set aside, and the workload enrols again.
    pub(super) async fn restore(&mut self) {
        let Some(state) = self.state.clone() else { return };
        let now = self.writer.now();
        let loaded = {
            let state = state.clone();
            run_blocking(move || state.load(now)).await
        };
        match loaded {
            Ok(None) => {}
            Ok(Some(kept)) => match self.identity_mismatch(&kept).await {
                None => self.install_restored(kept, now),
                Some(reason) => set_aside(state, &reason).await,
            },
            Err(error) if error.is_invalid_content() => set_aside(state, &one_line(&error)).await,
            Err(error) => warn!(reason = one_line(&error), "kept identity not read"),
        }
        self.restore_pending_request().await;
    }

    /// Checks the persisted identity against the join token's: the directory may be left over from another workload.
    async fn identity_mismatch(&self, kept: &PersistedIdentity) -> Option<String> {
        match self.unused_token_for(kept.svid.id()).await {
            Err(error @ TokenError::OtherIdentity { .. }) => Some(error.to_string()),
            _ => None,
        }
    }

    fn install_restored(&mut self, kept: PersistedIdentity, now: OffsetDateTime) {
        let verified = kept.svid.verified();
        let (not_before, not_after) = (verified.not_before(), verified.not_after());
        let lifetime = CertificateLifetime { not_before, not_after, obtained: not_before };
        match self.writer.restore(kept.svid, Arc::new(kept.bundles)) {
            Ok(()) => {
                self.lifetime = Some(lifetime);
                self.schedule = Schedule::for_restored(lifetime, now);
            }
            Err(error) => self.writer.record_failure("state", &error),
        }
    }
}

async fn set_aside(state: StateDir, reason: &str) {
    match run_blocking(move || state.set_aside()).await {
        Ok(aside) => warn!(reason, aside = %aside.display(), "kept identity set aside; enrolling anew"),
        Err(error) => warn!(reason, error = one_line(&error), "kept identity not used; enrolling anew"),
    }
}
