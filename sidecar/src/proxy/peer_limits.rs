//! Limits per peer identity at an inbound: connections, requests, and header expansion.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use postern_proto::identity::SpiffeId;

/// The usage of every connected identity.
#[derive(Debug, Default)]
pub(crate) struct PeerLimits {
    by_peer: Mutex<HashMap<SpiffeId, Weak<PeerUsage>>>,
}

/// The usage of one identity, shared by its connections.
#[derive(Debug)]
pub(crate) struct PeerUsage {
    peer: SpiffeId,
    open: AtomicUsize,
    /// Bytes that header decompression added to its active requests.
    expanded_bytes: AtomicUsize,
    peer_limits: Arc<PeerLimits>,
}

/// A permit for one connection or request, released on drop.
#[derive(Debug)]
pub(crate) struct PeerPermit {
    usage: Arc<PeerUsage>,
    expanded_bytes: usize,
}

/// The limit that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PeerLimitReached {
    Requests,
    ExpandedBytes,
}

impl PeerLimits {
    /// The usage of this identity, shared with its other connections.
    pub(crate) fn of(self: &Arc<Self>, peer: &SpiffeId) -> Arc<PeerUsage> {
        let mut by_peer = self.lock();
        if let Some(usage) = by_peer.get(peer).and_then(Weak::upgrade) {
            return usage;
        }
        let usage = Arc::new(PeerUsage {
            peer: peer.clone(),
            open: AtomicUsize::new(0),
            expanded_bytes: AtomicUsize::new(0),
            peer_limits: self.clone(),
        });
        by_peer.insert(peer.clone(), Arc::downgrade(&usage));
        usage
    }

    /// The highest usage of any identity.
    pub(crate) fn most(&self) -> usize {
        // Dropping the last reference takes the lock, so the references are dropped after it is released.
        let peer_limits: Vec<_> = self.lock().values().filter_map(Weak::upgrade).collect();
        peer_limits.iter().map(|usage| usage.open.load(Ordering::Relaxed)).max().unwrap_or(0)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SpiffeId, Weak<PeerUsage>>> {
        self.by_peer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PeerUsage {
    /// A permit for another connection, if there are fewer than `max`.
    pub(crate) fn enter(self: &Arc<Self>, max: usize) -> Option<PeerPermit> {
        let more = |open| (open < max).then_some(open + 1);
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(PeerPermit { usage: self.clone(), expanded_bytes: 0 })
    }

    /// A permit for another request, if there are fewer than the limit and its header expansion fits into the limit.
    pub(crate) fn enter_request(
        self: &Arc<Self>,
        max: usize,
        expanded_bytes: usize,
        bytes_max: usize,
    ) -> Result<PeerPermit, PeerLimitReached> {
        let mut permit = self.enter(max).ok_or(PeerLimitReached::Requests)?;
        if expanded_bytes > 0 {
            let more = |bytes: usize| bytes.checked_add(expanded_bytes).filter(|bytes| *bytes <= bytes_max);
            let bytes = &self.expanded_bytes;
            bytes
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
                .map_err(|_full| PeerLimitReached::ExpandedBytes)?;
            permit.expanded_bytes = expanded_bytes;
        }
        Ok(permit)
    }
}

impl Drop for PeerUsage {
    fn drop(&mut self) {
        let mut by_peer = self.peer_limits.lock();
        // The entry may have been replaced since its last reference was dropped.
        if by_peer.get(&self.peer).is_some_and(|usage| usage.strong_count() == 0) {
            by_peer.remove(&self.peer);
        }
    }
}

impl Drop for PeerPermit {
    fn drop(&mut self) {
        self.usage.open.fetch_sub(1, Ordering::Relaxed);
        self.usage.expanded_bytes.fetch_sub(self.expanded_bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(path: &str) -> SpiffeId {
        format!("spiffe://shop.example/{path}").parse().unwrap()
    }

    #[test]
    fn an_identity_has_one_share_over_all_its_connections_and_none_of_anothers() {
        let peer_limits = Arc::<PeerLimits>::default();
        let (one, same, other) =
            (peer_limits.of(&id("a")), peer_limits.of(&id("a")), peer_limits.of(&id("b")));
        let first = one.enter(2).unwrap();
        let _second = same.enter(2).unwrap();
        assert!(one.enter(2).is_none());
        assert!(other.enter(2).is_some());
        drop(first);
        assert!(same.enter(2).is_some());
    }

    #[test]
    fn header_expansion_is_limited_per_identity_and_released() {
        let peer_limits = Arc::<PeerLimits>::default();
        let usage = peer_limits.of(&id("a"));
        let first = usage.enter_request(10, 60, 100).unwrap();
        assert_eq!(usage.enter_request(10, 60, 100).unwrap_err(), PeerLimitReached::ExpandedBytes);
        let _plain = usage.enter_request(2, 0, 100).unwrap();
        assert_eq!(usage.enter_request(2, 0, 100).unwrap_err(), PeerLimitReached::Requests);
        drop(first);
        assert!(usage.enter_request(10, 100, 100).is_ok());
    }

    #[test]
    fn nothing_is_kept_of_an_identity_that_has_left() {
        let peer_limits = Arc::<PeerLimits>::default();
        let usage = peer_limits.of(&id("a"));
        let permit = usage.enter(1).unwrap();
        drop(usage);
        assert_eq!(peer_limits.lock().len(), 1, "a request is under way");
        drop(permit);
        assert!(peer_limits.lock().is_empty());
    }
}
