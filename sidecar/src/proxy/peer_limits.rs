//! How much one identity holds of an inbound, connections or requests, so that it leaves room for others.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use postern_proto::identity::SpiffeId;

/// What every identity that is connected holds.
#[derive(Debug, Default)]
pub(crate) struct PeerLimits {
    by_peer: Mutex<HashMap<SpiffeId, Weak<PeerUsage>>>,
}

/// What one identity holds, known to each of its connections.
#[derive(Debug)]
pub(crate) struct PeerUsage {
    peer: SpiffeId,
    open: AtomicUsize,
    /// What headers of its requests under way have gained by being compressed.
    expanded_bytes: AtomicUsize,
    shares: Arc<PeerLimits>,
}

/// Room for one connection or request, free again when dropped.
#[derive(Debug)]
pub(crate) struct PeerPermit {
    share: Arc<PeerUsage>,
    expanded_bytes: usize,
}

/// Why there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    Requests,
    ExpandedBytes,
}

impl PeerLimits {
    /// The share of this identity, which its other connections have already or will have.
    pub(crate) fn of(self: &Arc<Self>, peer: &SpiffeId) -> Arc<PeerUsage> {
        let mut by_peer = self.lock();
        if let Some(share) = by_peer.get(peer).and_then(Weak::upgrade) {
            return share;
        }
        let share = Arc::new(PeerUsage {
            peer: peer.clone(),
            open: AtomicUsize::new(0),
            expanded_bytes: AtomicUsize::new(0),
            shares: self.clone(),
        });
        by_peer.insert(peer.clone(), Arc::downgrade(&share));
        share
    }

    /// How much the identity has that has most.
    pub(crate) fn most(&self) -> usize {
        // Whoever drops the last share takes the lock, so that none is dropped under it.
        let shares: Vec<_> = self.lock().values().filter_map(Weak::upgrade).collect();
        shares.iter().map(|share| share.open.load(Ordering::Relaxed)).max().unwrap_or(0)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SpiffeId, Weak<PeerUsage>>> {
        self.by_peer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PeerUsage {
    /// Room for one more of at most so many.
    pub(crate) fn enter(self: &Arc<Self>, max: usize) -> Option<PeerPermit> {
        let more = |open| (open < max).then_some(open + 1);
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(PeerPermit { share: self.clone(), expanded_bytes: 0 })
    }

    /// Room for one more of at most so many requests, whose headers gained so many bytes of at most so many.
    pub(crate) fn enter_request(
        self: &Arc<Self>,
        max: usize,
        expanded_bytes: usize,
        bytes_max: usize,
    ) -> Result<PeerPermit, Full> {
        let mut place = self.enter(max).ok_or(Full::Requests)?;
        if expanded_bytes > 0 {
            let more = |bytes: usize| bytes.checked_add(expanded_bytes).filter(|bytes| *bytes <= bytes_max);
            let bytes = &self.expanded_bytes;
            bytes
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
                .map_err(|_full| Full::ExpandedBytes)?;
            place.expanded_bytes = expanded_bytes;
        }
        Ok(place)
    }
}

impl Drop for PeerUsage {
    fn drop(&mut self) {
        let mut by_peer = self.shares.lock();
        // Another may have taken its place between its last holder's end and this.
        if by_peer.get(&self.peer).is_some_and(|share| share.strong_count() == 0) {
            by_peer.remove(&self.peer);
        }
    }
}

impl Drop for PeerPermit {
    fn drop(&mut self) {
        self.share.open.fetch_sub(1, Ordering::Relaxed);
        self.share.expanded_bytes.fetch_sub(self.expanded_bytes, Ordering::Relaxed);
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
        let shares = Arc::<PeerLimits>::default();
        let (one, same, other) = (shares.of(&id("a")), shares.of(&id("a")), shares.of(&id("b")));
        let first = one.enter(2).unwrap();
        let _second = same.enter(2).unwrap();
        assert!(one.enter(2).is_none());
        assert!(other.enter(2).is_some());
        drop(first);
        assert!(same.enter(2).is_some());
    }

    #[test]
    fn what_headers_gained_is_bounded_over_all_requests_of_an_identity_and_given_back() {
        let shares = Arc::<PeerLimits>::default();
        let share = shares.of(&id("a"));
        let first = share.enter_request(10, 60, 100).unwrap();
        assert_eq!(share.enter_request(10, 60, 100).unwrap_err(), Full::ExpandedBytes);
        let _plain = share.enter_request(2, 0, 100).unwrap();
        assert_eq!(share.enter_request(2, 0, 100).unwrap_err(), Full::Requests);
        drop(first);
        assert!(share.enter_request(10, 100, 100).is_ok());
    }

    #[test]
    fn nothing_is_kept_of_an_identity_that_has_left() {
        let shares = Arc::<PeerLimits>::default();
        let share = shares.of(&id("a"));
        let place = share.enter(1).unwrap();
        drop(share);
        assert_eq!(shares.lock().len(), 1, "a request is under way");
        drop(place);
        assert!(shares.lock().is_empty());
    }
}
