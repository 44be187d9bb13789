//! What a restart leaves: the state directory, written at each success and read at the start.

use std::sync::Arc;

use time::OffsetDateTime;
use tracing::warn;

use super::Renewal;
use super::attempt::TokenError;
use crate::error_text::one_line;
use crate::identity::ca_client::Issued;
use crate::identity::schedule::{Lifetime, Plan};
use crate::identity::state_dir::{Kept, StateDir, off_thread};

impl Renewal {
    /// An identity that cannot be kept is used all the same; only a restart then needs the CA.
    pub(super) async fn keep(&self, Issued { svid, bundles }: Issued) {
        let Some(state) = self.state.clone() else { return };
        if let Err(error) = off_thread(move || state.save(&svid, &bundles)).await {
            warn!(reason = one_line(&error), "identity not kept for a restart");
        }
    }

    /// Takes up what was kept over the restart. What is unusable is set aside, and the workload enrols anew.
    pub(super) async fn restore(&mut self) {
        let Some(state) = self.state.clone() else { return };
        let now = self.holder.now();
        let loaded = {
            let state = state.clone();
            off_thread(move || state.load(now)).await
        };
        match loaded {
            Ok(None) => {}
            Ok(Some(kept)) => match self.contradiction(&kept).await {
                None => self.take_up(kept, now),
                Some(reason) => set_aside(state, &reason).await,
            },
            Err(error) if error.is_of_content() => set_aside(state, &one_line(&error)).await,
            Err(error) => warn!(reason = one_line(&error), "kept identity not read"),
        }
        self.restore_unanswered().await;
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
}

async fn set_aside(state: StateDir, reason: &str) {
    match off_thread(move || state.set_aside()).await {
        Ok(aside) => warn!(reason, aside = %aside.display(), "kept identity set aside; enrolling anew"),
        Err(error) => warn!(reason, error = one_line(&error), "kept identity not used; enrolling anew"),
    }
}
