//! The revoked identities. They are refused even with a valid certificate and an allowing policy.

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use postern_proto::identity::SpiffeId;
use tokio::sync::watch;

/// The revocation list in force: one writer, many readers, replaced as a whole.
#[derive(Debug, Default)]
pub struct Revoked {
    current: ArcSwap<HashSet<SpiffeId>>,
    changes: watch::Sender<u64>,
}

impl Revoked {
    pub fn contains(&self, id: &SpiffeId) -> bool {
        let current = self.current.load();
        // The list is empty most of the time.
        !current.is_empty() && current.contains(id)
    }

    /// The current list.
    pub fn current(&self) -> Arc<HashSet<SpiffeId>> {
        self.current.load_full()
    }

    /// Notifies of each change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Replaces the list; returns whether it differs from the previous one.
    pub fn replace(&self, ids: HashSet<SpiffeId>) -> bool {
        if **self.current.load() == ids {
            return false;
        }
        self.current.store(Arc::new(ids));
        self.changes.send_modify(|change| *change += 1);
        true
    }
}
