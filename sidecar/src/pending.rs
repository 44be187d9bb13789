//! The handshakes under way of one listener: bounded, and the oldest of the more numerous kind gives way, so that
//! stalled ones keep nobody out, wherever they stall.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::gauge::Gauge;
use tokio_util::sync::CancellationToken;

/// Places for handshakes.
#[derive(Debug)]
pub struct Pending {
    places: Mutex<Places>,
    max: usize,
    /// How many there are.
    level: Gauge,
}

#[derive(Debug, Default)]
struct Places {
    next: u64,
    /// Those that have not sent a whole ClientHello; stalling there costs an attacker nothing.
    silent: BTreeMap<u64, CancellationToken>,
    greeted: BTreeMap<u64, CancellationToken>,
}

/// One handshake's place, free again when dropped.
#[derive(Debug)]
pub struct Place {
    number: u64,
    pending: Arc<Pending>,
    /// Cancelled when a newer handshake needs the place.
    pub evicted: CancellationToken,
}

impl Pending {
    pub fn new(max: usize, level: Gauge) -> Self {
        Self { places: Mutex::default(), max, level }
    }

    /// Takes a place; when there is none, another handshake loses its. To be called in the order of arrival: whoever
    /// enters late is taken for new.
    pub fn enter(self: &Arc<Self>) -> Place {
        let mut places = self.lock();
        while places.silent.len() + places.greeted.len() >= self.max {
            let Some(evicted) = places.give_way() else { break };
            evicted.cancel();
        }
        let (number, evicted) = (places.next, CancellationToken::new());
        places.next += 1;
        self.level.inc();
        places.silent.insert(number, evicted.clone());
        Place { number, pending: self.clone(), evicted }
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    /// The oldest of the more numerous kind. So a flood drives out only its own kind, and each kind has half of the
    /// places: were the silent always to go first, then all places held by those who have greeted would leave a
    /// newcomer none to greet in.
    fn give_way(&mut self) -> Option<CancellationToken> {
        let kind = if self.silent.len() < self.greeted.len() { &mut self.greeted } else { &mut self.silent };
        kind.pop_first().map(|(_, evicted)| evicted)
    }
}

impl Place {
    /// Its ClientHello has come.
    pub fn greeted(&self) {
        let mut places = self.pending.lock();
        if let Some(evicted) = places.silent.remove(&self.number) {
            places.greeted.insert(self.number, evicted);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pending.level.dec();
        let mut places = self.pending.lock();
        places.silent.remove(&self.number);
        places.greeted.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_gives_way_and_a_free_place_is_taken_first() {
        let pending = Arc::new(Pending::new(2, Gauge::default()));
        let (first, second) = (pending.enter(), pending.enter());
        let third = pending.enter();
        assert!(first.evicted.is_cancelled() && !second.evicted.is_cancelled());
        drop(second);
        let _fourth = pending.enter();
        assert!(!third.evicted.is_cancelled(), "there was room");
    }

    #[test]
    fn whoever_has_greeted_outlasts_a_flood_of_those_who_have_not() {
        let pending = Arc::new(Pending::new(3, Gauge::default()));
        let honest = pending.enter();
        honest.greeted();
        let flood: Vec<_> = (0..1_000).map(|_| pending.enter()).collect();
        assert!(!honest.evicted.is_cancelled());
        assert_eq!(flood.iter().filter(|place| !place.evicted.is_cancelled()).count(), 2);
    }

    #[test]
    fn whoever_is_about_to_greet_outlasts_a_flood_of_those_who_have() {
        let pending = Arc::new(Pending::new(8, Gauge::default()));
        let flood: Vec<_> = (0..100).map(|_| pending.enter()).inspect(Place::greeted).collect();
        let honest = pending.enter();
        let more: Vec<_> = (0..100).map(|_| pending.enter()).inspect(Place::greeted).collect();
        assert!(!honest.evicted.is_cancelled());
        honest.greeted();
        let flood = flood.iter().chain(&more);
        assert_eq!(flood.filter(|place| !place.evicted.is_cancelled()).count(), 7);
    }

    #[test]
    fn a_flood_that_greets_is_bounded_too() {
        let pending = Arc::new(Pending::new(3, Gauge::default()));
        let flood: Vec<_> = (0..1_000).map(|_| pending.enter()).inspect(Place::greeted).collect();
        assert_eq!(flood.iter().filter(|place| !place.evicted.is_cancelled()).count(), 3);
    }
}
