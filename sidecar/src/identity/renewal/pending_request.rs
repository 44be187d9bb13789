//! The pending request, which has no response yet. If a response was lost, the CA repeats it, but only for the same
//! key. So the key is kept, also across a restart, until a response has arrived.

use std::time::Duration;

use postern_proto::identity::SpiffeId;
use tracing::warn;

use super::Renewal;
use crate::error_text::one_line;
use crate::identity::ca_client::{CaError, SigningRequest};
use crate::identity::state_dir::run_blocking;

/// Maximum time that a request waits for its key to be saved: a hanging disk must not prevent renewal.
const DISK_WAIT_MAX: Duration = Duration::from_secs(2);

/// A request that was or will be sent, and its identity.
#[derive(Debug)]
pub(super) struct PendingRequest {
    id: SpiffeId,
    request: SigningRequest,
}

impl Renewal {
    /// The pending request for `id`, or a new one, whose key is saved before the request is sent.
    pub(super) async fn request_for(&mut self, id: &SpiffeId) -> Result<SigningRequest, CaError> {
        if let Some(pending_request) =
            self.pending_request.as_ref().filter(|pending_request| pending_request.id == *id)
        {
            return Ok(pending_request.request.clone());
        }
        let request = SigningRequest::new()?;
        self.save_key(id, &request).await;
        self.pending_request = Some(PendingRequest { id: id.clone(), request: request.clone() });
        Ok(request)
    }

    async fn save_key(&self, id: &SpiffeId, request: &SigningRequest) {
        let Some(state) = self.state.clone() else { return };
        let (id, key) = (id.clone(), request.key().clone());
        let kept = run_blocking(move || state.save_pending_request(&id, &key));
        let reason = match tokio::time::timeout(DISK_WAIT_MAX, kept).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => one_line(&error),
            Err(_) => format!("the disk took longer than {DISK_WAIT_MAX:?}"),
        };
        warn!(reason, "key of the request not kept for a restart");
    }

    /// Removes the pending request after its response has been saved: the next request has a new key.
    pub(super) async fn clear_pending_request(&mut self) {
        let (Some(_), Some(state)) = (self.pending_request.take(), self.state.clone()) else { return };
        if let Err(error) = run_blocking(move || state.remove_pending_request()).await {
            warn!(reason = one_line(&error), "key of the answered request not removed");
        }
    }

    /// Loads the request that was pending before the restart, unless the current identity is its response.
    pub(super) async fn restore_pending_request(&mut self) {
        let Some(state) = self.state.clone() else { return };
        let kept = match run_blocking(move || state.load_pending_request()).await {
            Ok(None) => return,
            Ok(Some(kept)) => kept,
            Err(error) => return warn!(reason = one_line(&error), "key of the last request not read"),
        };
        let own = self.writer.credentials();
        if own.is_some_and(|own| own.svid.key().der().secret_der() == kept.key.der().secret_der()) {
            return;
        }
        match SigningRequest::with_key(kept.key.der().secret_der()) {
            Ok(request) => self.pending_request = Some(PendingRequest { id: kept.id, request }),
            Err(error) => warn!(reason = one_line(&error), "key of the last request not used"),
        }
    }
}
