//! The identities that are revoked: whoever holds one is refused, whatever its certificate and the policy say.

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use postern_proto::identity::SpiffeId;
use tokio::sync::watch;

/// The list in force: one writer, many readers, always whole.
#[derive(Debug, Default)]
pub struct Revoked {
    current: ArcSwap<HashSet<SpiffeId>>,
    changes: watch::Sender<u64>,
}

impl Revoked {
    pub fn contains(&self, id: &SpiffeId) -> bool {
        let current = self.current.load();
        // Most of the time nobody is.
        !current.is_empty() && current.contains(id)
    }

    /// The list as it is now.
    pub fn current(&self) -> Arc<HashSet<SpiffeId>> {
        self.current.load_full()
    }

    /// Wakes after each change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Puts another list in force; tells whether it differs from the one before.
    pub fn replace(&self, ids: HashSet<SpiffeId>) -> bool {
        if **self.current.load() == ids {
            return false;
        }
        self.current.store(Arc::new(ids));
        self.changes.send_modify(|change| *change += 1);
        true
    }
}
