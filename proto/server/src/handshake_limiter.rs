//! Limits the connections of one listener that carry no traffic yet. At the limit the oldest connection of the most
//! numerous stage is evicted, so that connections that stall keep nobody out, in whichever stage they stall.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::gauge::Gauge;
use tokio_util::sync::CancellationToken;

/// Gives out at most so many permits at a time.
#[derive(Debug)]
pub struct HandshakeLimiter {
    held: Mutex<HeldPermits>,
    max: usize,
    /// How many permits are held.
    level: Gauge,
}

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeStage {
    /// It has not sent a whole ClientHello; stalling there costs an attacker nothing.
    AwaitingClientHello,
    /// It has sent its ClientHello.
    Handshaking,
    /// Its peer is authenticated and not yet authorized, or its tunnel waits for the next OPEN.
    Authenticated,
    /// It is refused, and stays open until the peer has read why.
    Closing,
}

const STAGES: usize = 4;

#[derive(Debug, Default)]
struct HeldPermits {
    next: u64,
    by_stage: [BTreeMap<u64, CancellationToken>; STAGES],
}

/// One connection's permit, released when dropped.
#[derive(Debug)]
pub struct HandshakePermit {
    number: u64,
    /// A [`HandshakeStage`].
    stage: AtomicUsize,
    limiter: Arc<HandshakeLimiter>,
    /// Cancelled when a newer connection gets the permit.
    pub evicted: CancellationToken,
}

impl HandshakeLimiter {
    /// `level` shows how many permits are held.
    pub fn new(max: usize, level: Gauge) -> Self {
        Self { held: Mutex::default(), max, level }
    }

    /// How many permits there are.
    pub fn max(&self) -> usize {
        self.max
    }

    /// Acquires a permit; at the limit another connection is evicted. Call it in the order of arrival: the age of a
    /// connection counts from here.
    pub fn acquire(self: &Arc<Self>, stage: HandshakeStage) -> HandshakePermit {
        let mut held = self.lock();
        while held.count() >= self.max {
            let Some(evicted) = held.evict() else { break };
            evicted.cancel();
        }
        let (number, evicted) = (held.next, CancellationToken::new());
        held.next += 1;
        self.level.inc();
        held.insert(stage, number, evicted.clone());
        HandshakePermit { number, stage: AtomicUsize::new(stage as usize), limiter: self.clone(), evicted }
    }

    fn lock(&self) -> MutexGuard<'_, HeldPermits> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HeldPermits {
    fn count(&self) -> usize {
        self.by_stage.iter().map(BTreeMap::len).sum()
    }

    fn insert(&mut self, stage: HandshakeStage, number: u64, evicted: CancellationToken) {
        if let Some(permits) = self.by_stage.get_mut(stage as usize) {
            permits.insert(number, evicted);
        }
    }

    fn remove(&mut self, number: u64) -> Option<CancellationToken> {
        self.by_stage.iter_mut().find_map(|permits| permits.remove(&number))
    }

    /// Removes the oldest permit of the most numerous stage. So a flood evicts connections of its own stage only, and
    /// each stage has its part of the permits: were one stage always evicted first, then no permit would be left for a
    /// newcomer of that stage once the others hold them all.
    fn evict(&mut self) -> Option<CancellationToken> {
        // Of several the first, which has got least far.
        let permits = self.by_stage.iter_mut().rev().max_by_key(|permits| permits.len())?;
        permits.pop_first().map(|(_, evicted)| evicted)
    }
}

impl HandshakePermit {
    /// How far the connection is.
    pub fn stage(&self) -> HandshakeStage {
        match self.stage.load(Ordering::Relaxed) {
            0 => HandshakeStage::AwaitingClientHello,
            1 => HandshakeStage::Handshaking,
            2 => HandshakeStage::Authenticated,
            _ => HandshakeStage::Closing,
        }
    }

    /// The connection has reached another stage.
    pub fn advance(&self, to: HandshakeStage) {
        if self.stage.swap(to as usize, Ordering::Relaxed) == to as usize {
            return;
        }
        let mut held = self.limiter.lock();
        if let Some(evicted) = held.remove(self.number) {
            held.insert(to, self.number, evicted);
        }
    }
}

impl Drop for HandshakePermit {
    fn drop(&mut self) {
        self.limiter.level.dec();
        self.limiter.lock().remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::HandshakeStage::*;
    use super::*;

    #[test]
    fn the_oldest_permit_is_evicted_unless_one_is_free() {
        let limiter = Arc::new(HandshakeLimiter::new(2, Gauge::default()));
        let (first, second) = (limiter.acquire(AwaitingClientHello), limiter.acquire(AwaitingClientHello));
        let third = limiter.acquire(AwaitingClientHello);
        assert!(first.evicted.is_cancelled() && !second.evicted.is_cancelled());
        drop(second);
        let _fourth = limiter.acquire(AwaitingClientHello);
        assert!(!third.evicted.is_cancelled(), "there was room");
    }

    #[test]
    fn a_flood_without_client_hello_evicts_no_handshake() {
        let limiter = Arc::new(HandshakeLimiter::new(3, Gauge::default()));
        let honest = limiter.acquire(AwaitingClientHello);
        honest.advance(Handshaking);
        let flood: Vec<_> = (0..1_000).map(|_| limiter.acquire(AwaitingClientHello)).collect();
        assert!(!honest.evicted.is_cancelled());
        assert_eq!(flood.iter().filter(|permit| !permit.evicted.is_cancelled()).count(), 2);
    }

    #[test]
    fn a_flood_of_handshakes_evicts_no_connection_before_its_client_hello() {
        let limiter = Arc::new(HandshakeLimiter::new(8, Gauge::default()));
        let handshaking = || {
            let permit = limiter.acquire(AwaitingClientHello);
            permit.advance(Handshaking);
            permit
        };
        let flood: Vec<_> = (0..100).map(|_| handshaking()).collect();
        let honest = limiter.acquire(AwaitingClientHello);
        let more: Vec<_> = (0..100).map(|_| handshaking()).collect();
        assert!(!honest.evicted.is_cancelled());
        honest.advance(Handshaking);
        let flood = flood.iter().chain(&more);
        assert_eq!(flood.filter(|permit| !permit.evicted.is_cancelled()).count(), 7);
    }

    #[test]
    fn a_flood_in_any_stage_is_bounded_and_evicts_its_own_stage_only() {
        let stages = [AwaitingClientHello, Handshaking, Authenticated, Closing];
        for flooding in stages {
            let limiter = Arc::new(HandshakeLimiter::new(16, Gauge::default()));
            let honest: Vec<_> = stages.into_iter().map(|stage| limiter.acquire(stage)).collect();
            let flood: Vec<_> = (0..1_000).map(|_| limiter.acquire(flooding)).collect();
            assert_eq!(flood.iter().filter(|permit| !permit.evicted.is_cancelled()).count(), 13);
            for honest in honest {
                assert_eq!(honest.evicted.is_cancelled(), honest.stage() == flooding, "{flooding:?}");
            }
        }
    }

    #[test]
    fn a_flood_of_handshakes_is_bounded() {
        let limiter = Arc::new(HandshakeLimiter::new(3, Gauge::default()));
        let flood: Vec<_> = (0..1_000).map(|_| limiter.acquire(Handshaking)).collect();
        assert_eq!(flood.iter().filter(|permit| !permit.evicted.is_cancelled()).count(), 3);
    }
}
