//! Connections of one listener that have nothing to carry yet: bounded, and the oldest of the most numerous kind gives
//! way, so that stalled ones keep nobody out, wherever they stall.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::gauge::Gauge;
use tokio_util::sync::CancellationToken;

/// Places for connections that have nothing to carry yet.
#[derive(Debug)]
pub struct Pending {
    places: Mutex<Places>,
    max: usize,
    /// How many there are.
    level: Gauge,
}

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It has not sent a whole ClientHello; stalling there costs an attacker nothing.
    Silent,
    Greeted,
    /// Its peer has proved who it is, and has not been let in yet; or it was, and the tunnel waits for the next OPEN.
    Proved,
    /// It was refused, and is listened to until it has read why.
    Leaving,
}

/// So many kinds of progress there are.
const KINDS: usize = 4;

#[derive(Debug, Default)]
struct Places {
    next: u64,
    of: [BTreeMap<u64, CancellationToken>; KINDS],
}

/// One connection's place, free again when dropped.
#[derive(Debug)]
pub struct Place {
    number: u64,
    /// A [`Progress`].
    progress: AtomicUsize,
    pending: Arc<Pending>,
    /// Cancelled when a newer connection needs the place.
    pub evicted: CancellationToken,
}

impl Pending {
    pub fn new(max: usize, level: Gauge) -> Self {
        Self { places: Mutex::default(), max, level }
    }

    /// How many places there are.
    pub fn max(&self) -> usize {
        self.max
    }

    /// Takes a place; when there is none, another connection loses its. To be called in the order of arrival: whoever
    /// enters late is taken for new.
    pub fn enter(self: &Arc<Self>, progress: Progress) -> Place {
        let mut places = self.lock();
        while places.count() >= self.max {
            let Some(evicted) = places.give_way() else { break };
            evicted.cancel();
        }
        let (number, evicted) = (places.next, CancellationToken::new());
        places.next += 1;
        self.level.inc();
        places.insert(progress, number, evicted.clone());
        Place { number, progress: AtomicUsize::new(progress as usize), pending: self.clone(), evicted }
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    fn count(&self) -> usize {
        self.of.iter().map(BTreeMap::len).sum()
    }

    fn insert(&mut self, progress: Progress, number: u64, evicted: CancellationToken) {
        if let Some(kind) = self.of.get_mut(progress as usize) {
            kind.insert(number, evicted);
        }
    }

    fn remove(&mut self, number: u64) -> Option<CancellationToken> {
        self.of.iter_mut().find_map(|kind| kind.remove(&number))
    }

    /// The oldest of the most numerous kind. So a flood drives out only its own kind, and each kind has its part of the
    /// places: were one kind always to go first, then all places held by the others would leave a newcomer of that kind
    /// none.
    fn give_way(&mut self) -> Option<CancellationToken> {
        // Of several the first, which has got least far.
        let kind = self.of.iter_mut().rev().max_by_key(|kind| kind.len())?;
        kind.pop_first().map(|(_, evicted)| evicted)
    }
}

impl Place {
    /// How far the connection is.
    pub fn progress(&self) -> Progress {
        match self.progress.load(Ordering::Relaxed) {
            0 => Progress::Silent,
            1 => Progress::Greeted,
            2 => Progress::Proved,
            _ => Progress::Leaving,
        }
    }

    /// The connection has got further.
    pub fn advance(&self, to: Progress) {
        if self.progress.swap(to as usize, Ordering::Relaxed) == to as usize {
            return;
        }
        let mut places = self.pending.lock();
        if let Some(evicted) = places.remove(self.number) {
            places.insert(to, self.number, evicted);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pending.level.dec();
        self.pending.lock().remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_gives_way_and_a_free_place_is_taken_first() {
        let pending = Arc::new(Pending::new(2, Gauge::default()));
        let (first, second) = (pending.enter(Progress::Silent), pending.enter(Progress::Silent));
        let third = pending.enter(Progress::Silent);
        assert!(first.evicted.is_cancelled() && !second.evicted.is_cancelled());
        drop(second);
        let _fourth = pending.enter(Progress::Silent);
        assert!(!third.evicted.is_cancelled(), "there was room");
    }

    #[test]
    fn whoever_has_greeted_outlasts_a_flood_of_those_who_have_not() {
        let pending = Arc::new(Pending::new(3, Gauge::default()));
        let honest = pending.enter(Progress::Silent);
        honest.advance(Progress::Greeted);
        let flood: Vec<_> = (0..1_000).map(|_| pending.enter(Progress::Silent)).collect();
        assert!(!honest.evicted.is_cancelled());
        assert_eq!(flood.iter().filter(|place| !place.evicted.is_cancelled()).count(), 2);
    }

    #[test]
    fn whoever_is_about_to_greet_outlasts_a_flood_of_those_who_have() {
        let pending = Arc::new(Pending::new(8, Gauge::default()));
        let greeted = || {
            let place = pending.enter(Progress::Silent);
            place.advance(Progress::Greeted);
            place
        };
        let flood: Vec<_> = (0..100).map(|_| greeted()).collect();
        let honest = pending.enter(Progress::Silent);
        let more: Vec<_> = (0..100).map(|_| greeted()).collect();
        assert!(!honest.evicted.is_cancelled());
        honest.advance(Progress::Greeted);
        let flood = flood.iter().chain(&more);
        assert_eq!(flood.filter(|place| !place.evicted.is_cancelled()).count(), 7);
    }

    #[test]
    fn a_flood_of_whatever_kind_is_bounded_and_drives_out_its_own_kind_only() {
        let kinds = [Progress::Silent, Progress::Greeted, Progress::Proved, Progress::Leaving];
        for flooding in kinds {
            let pending = Arc::new(Pending::new(16, Gauge::default()));
            let honest: Vec<_> = kinds.into_iter().map(|kind| pending.enter(kind)).collect();
            let flood: Vec<_> = (0..1_000).map(|_| pending.enter(flooding)).collect();
            assert_eq!(flood.iter().filter(|place| !place.evicted.is_cancelled()).count(), 13);
            for honest in honest {
                assert_eq!(honest.evicted.is_cancelled(), honest.progress() == flooding, "{flooding:?}");
            }
        }
    }

    #[test]
    fn a_flood_that_greets_is_bounded_too() {
        let pending = Arc::new(Pending::new(3, Gauge::default()));
        let flood: Vec<_> = (0..1_000).map(|_| pending.enter(Progress::Greeted)).collect();
        assert_eq!(flood.iter().filter(|place| !place.evicted.is_cancelled()).count(), 3);
    }
}
