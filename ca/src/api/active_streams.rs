//! Whether a connection carries subscriptions: it may then be older than others.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the subscriptions of one connection.
#[derive(Debug, Default)]
pub struct ActiveStreams(AtomicUsize);

/// One subscription, counted until it is dropped.
#[derive(Debug)]
pub(super) struct ActiveStream(Arc<ActiveStreams>);

impl ActiveStreams {
    pub(super) fn open(self: &Arc<Self>) -> ActiveStream {
        self.0.fetch_add(1, Ordering::Relaxed);
        ActiveStream(self.clone())
    }

    /// Whether there is one now.
    pub fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

impl Drop for ActiveStream {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
