//! The request that has no answer yet. The CA may have answered it, and the answer was lost: it answers again, but the
//! same key alone. So the key is kept, over a restart too, until an answer has come.

use std::time::Duration;

use postern_proto::identity::SpiffeId;
use tracing::warn;

use super::Renewal;
use crate::error_text::one_line;
use crate::identity::ca_client::{CaError, SigningRequest};
use crate::identity::state_dir::off_thread;

/// A request waits so long until the disk has its key: a disk that hangs must not keep an identity from being renewed.
const DISK_WAIT_MAX: Duration = Duration::from_secs(2);

/// A request that was or will be sent, and for whom.
#[derive(Debug)]
pub(super) struct Unanswered {
    id: SpiffeId,
    request: SigningRequest,
}

impl Renewal {
    /// The request that has no answer yet, or a new one, whose key is kept before it is sent.
    pub(super) async fn request_for(&mut self, id: &SpiffeId) -> Result<SigningRequest, CaError> {
        if let Some(unanswered) = self.unanswered.as_ref().filter(|unanswered| unanswered.id == *id) {
            return Ok(unanswered.request.clone());
        }
        let request = SigningRequest::new()?;
        self.keep_key(id, &request).await;
        self.unanswered = Some(Unanswered { id: id.clone(), request: request.clone() });
        Ok(request)
    }

    async fn keep_key(&self, id: &SpiffeId, request: &SigningRequest) {
        let Some(state) = self.state.clone() else { return };
        let (id, key) = (id.clone(), request.key().clone());
        let kept = off_thread(move || state.save_unanswered(&id, &key));
        let reason = match tokio::time::timeout(DISK_WAIT_MAX, kept).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => one_line(&error),
            Err(_) => format!("the disk took longer than {DISK_WAIT_MAX:?}"),
        };
        warn!(reason, "key of the request not kept for a restart");
    }

    /// An answer has come and is kept: the next request has a new key.
    pub(super) async fn answered(&mut self) {
        let (Some(_), Some(state)) = (self.unanswered.take(), self.state.clone()) else { return };
        if let Err(error) = off_thread(move || state.remove_unanswered()).await {
            warn!(reason = one_line(&error), "key of the answered request not removed");
        }
    }

    /// Takes up the request that was sent before the restart, unless the identity at hand is its answer.
    pub(super) async fn restore_unanswered(&mut self) {
        let Some(state) = self.state.clone() else { return };
        let kept = match off_thread(move || state.load_unanswered()).await {
            Ok(None) => return,
            Ok(Some(kept)) => kept,
            Err(error) => return warn!(reason = one_line(&error), "key of the last request not read"),
        };
        let own = self.holder.credentials();
        if own.is_some_and(|own| own.svid.key().der().secret_der() == kept.key.der().secret_der()) {
            return;
        }
        match SigningRequest::with_key(kept.key.der().secret_der()) {
            Ok(request) => self.unanswered = Some(Unanswered { id: kept.id, request }),
            Err(error) => warn!(reason = one_line(&error), "key of the last request not used"),
        }
    }
}
