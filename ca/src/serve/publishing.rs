//! Tells the subscriptions what the store holds, at the start and after each change.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use postern_proto::identity::{SpiffeId, SpiffeIdError};
use postern_proto::policy::Policy;
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::api::Shared;
use crate::store::{StoreError, StoredPolicy};
use crate::subscriptions::PolicySnapshot;

/// After the store failed, it is asked again after this.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Why sidecars cannot be told what the store holds.
#[derive(Debug, Error)]
pub(super) enum PublishError {
    #[error("the store cannot be read")]
    Store(#[from] StoreError),
    #[error("the stored policy version {version} cannot be read: {problem}")]
    Policy { version: u64, problem: String },
    #[error("a revoked identity is none")]
    Revoked(#[from] SpiffeIdError),
}

/// Tells it all once.
pub(super) async fn publish(shared: &Shared) -> Result<(), PublishError> {
    let mut revoked = BTreeMap::new();
    for entry in shared.store.revoked().await? {
        revoked.insert(SpiffeId::parse(&entry.id)?, entry.reason);
    }
    shared.broadcaster.set_revoked(Arc::new(revoked));
    let told = shared.broadcaster.policy().map(|policy| policy.version);
    match shared.store.policy(None).await? {
        Some(stored) if told == Some(stored.version.number) => {}
        Some(stored) => shared.broadcaster.set_policy(Some(Arc::new(read(stored)?))),
        None => shared.broadcaster.set_policy(None),
    }
    Ok(())
}

fn read(StoredPolicy { version, text }: StoredPolicy) -> Result<PolicySnapshot, PublishError> {
    let policy = Policy::parse(&version.file, &text).map_err(|problems| {
        let problem = problems.first().map(|problem| problem.message.clone()).unwrap_or_default();
        PublishError::Policy { version: version.number, problem }
    })?;
    Ok(PolicySnapshot::new(version.number, policy, version.author, version.at))
}

/// Tells each change until `stop`. Changes that come together are told as one.
pub(super) async fn follow(shared: Arc<Shared>, stop: CancellationToken) {
    let mut changed = shared.changed.subscribe();
    // What was changed before this began.
    changed.mark_changed();
    let work = async {
        while changed.changed().await.is_ok() {
            changed.borrow_and_update();
            if let Err(error) = publish(&shared).await {
                error!(%error, cause = ?error, "sidecars are not told of a change");
                tokio::time::sleep(RETRY_PAUSE).await;
                changed.mark_changed();
            }
        }
    };
    stop.run_until_cancelled(work).await;
}
