//! The policy in force, from any source. An invalid policy never replaces it.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use postern_proto::policy::Policy;
use serde::Serialize;
use time::OffsetDateTime;
use tokio::sync::watch;

/// Holds the policy in force: one writer, many readers.
#[derive(Debug, Default)]
pub struct PolicyStore {
    current: ArcSwapOption<Policy>,
    changes: watch::Sender<u64>,
    status: Mutex<PolicyStatus>,
}

/// The source of the policy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicySource {
    /// No source: every peer is refused.
    #[default]
    None,
    /// `[policy] file`.
    File,
    /// The CA's stream.
    Ca,
}

/// The state of the policy, for `/status`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PolicyStatus {
    pub source: PolicySource,
    /// The local file, or the file name that the CA's policy had when it was applied.
    pub file: Option<String>,
    /// Version of the CA's policy; 0 if the CA has none.
    pub version: Option<u64>,
    /// Digest of the policy in force; absent until there is one.
    pub digest: Option<String>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub loaded_at: Option<OffsetDateTime>,
    /// Why the newest policy of the source is not in force.
    pub last_error: Option<String>,
}

impl PolicyStore {
    /// The policy in force.
    pub fn current(&self) -> Option<Arc<Policy>> {
        self.current.load_full()
    }

    /// Notifies of each change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub fn status(&self) -> PolicyStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the source of policies; `file` is the name of the local file.
    pub fn expect_from(&self, source: PolicySource, file: Option<String>) {
        self.update(|status| (status.source, status.file) = (source, file));
    }

    /// Installs a policy.
    pub fn replace(&self, policy: Policy, now: OffsetDateTime) {
        self.update(|status| {
            status.file = Some(policy.file().to_owned());
            status.version = policy.version();
            status.digest = Some(policy.digest().to_owned());
            status.loaded_at = Some(now);
            status.last_error = None;
        });
        self.put(Some(Arc::new(policy)));
    }

    /// Removes the policy, because the CA stores none.
    pub fn withdraw(&self, now: OffsetDateTime) {
        self.update(|status| {
            (status.file, status.digest, status.last_error) = (None, None, None);
            (status.version, status.loaded_at) = (Some(0), Some(now));
        });
        self.put(None);
    }

    /// Records why a newer policy was rejected; the current one stays in force.
    pub fn refused(&self, reason: String) {
        self.update(|status| status.last_error = Some(reason));
    }

    /// Records that the policy in force is the newest one again.
    pub fn confirmed(&self) {
        self.update(|status| status.last_error = None);
    }

    fn put(&self, policy: Option<Arc<Policy>>) {
        self.current.store(policy);
        self.changes.send_modify(|change| *change += 1);
    }

    fn update(&self, change: impl FnOnce(&mut PolicyStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
