//! The handshakes under way of one listener: bounded, and the oldest gives way, so that stalled ones keep nobody out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

/// Places for handshakes.
#[derive(Debug)]
pub(super) struct Pending {
    places: Mutex<Places>,
    max: usize,
}

#[derive(Debug, Default)]
struct Places {
    next: u64,
    taken: BTreeMap<u64, CancellationToken>,
}

/// One handshake's place, free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    number: u64,
    pending: Arc<Pending>,
    /// Cancelled when a newer handshake needs the place.
    pub(super) evicted: CancellationToken,
}

impl Pending {
    pub(super) fn new(max: usize) -> Self {
        Self { places: Mutex::default(), max }
    }

    /// Takes a place; when there is none, the oldest handshake loses its.
    pub(super) fn enter(self: &Arc<Self>) -> Place {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        while places.taken.len() >= self.max {
            let Some((_, oldest)) = places.taken.pop_first() else { break };
            oldest.cancel();
        }
        let (number, evicted) = (places.next, CancellationToken::new());
        places.next += 1;
        places.taken.insert(number, evicted.clone());
        Place { number, pending: self.clone(), evicted }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pending.places.lock().unwrap_or_else(PoisonError::into_inner).taken.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_gives_way_and_a_free_place_is_taken_first() {
        let pending = Arc::new(Pending::new(2));
        let (first, second) = (pending.enter(), pending.enter());
        let third = pending.enter();
        assert!(first.evicted.is_cancelled() && !second.evicted.is_cancelled());
        drop(second);
        let _fourth = pending.enter();
        assert!(!third.evicted.is_cancelled(), "there was room");
    }
}
