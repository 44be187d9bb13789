//! Limits concurrent handshakes per address: a burst of app connections must not exceed the handshake limit of the
//! server, which would drop them as a flood. Without a free slot, a task waits for one or for a tunnel that becomes
//! idle.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

/// Most concurrent handshakes with one address: an eighth of the server's default limit for all its clients.
pub(in crate::proxy) const HANDSHAKES_PER_ADDRESS_MAX: usize = 64;

/// The slots of all addresses of one outbound.
#[derive(Debug, Default)]
pub(in crate::proxy) struct HandshakeSlots {
    by_address: Mutex<HashMap<SocketAddr, Arc<AddressSlots>>>,
    /// Number of waiting tasks, at all addresses.
    waiting: Arc<AtomicUsize>,
}

/// The slots of one address.
#[derive(Debug)]
pub(in crate::proxy) struct AddressSlots {
    slots: Arc<Semaphore>,
    /// A tunnel to the address became idle.
    freed: Notify,
    /// When a handshake or an app connection last succeeded.
    progress: Mutex<Instant>,
    waiting: AtomicUsize,
    waiting_anywhere: Arc<AtomicUsize>,
}

/// How a task may reach an address.
pub(in crate::proxy) enum SlotOutcome<K> {
    /// Over a pooled tunnel.
    Kept(K),
    /// Over a new connection.
    Dial(DialPermit),
    /// There was no progress at the address within the patience.
    Stuck,
}

/// A permit for one handshake.
#[derive(Debug)]
pub(in crate::proxy) struct DialPermit {
    _slot: OwnedSemaphorePermit,
    at: Arc<AddressSlots>,
}

impl DialPermit {
    /// The handshake succeeded.
    pub(in crate::proxy) fn succeeded(self) {
        self.at.progressed();
    }
}

/// A waiting task.
struct WaitingTask<'a>(&'a AddressSlots);

impl<'a> WaitingTask<'a> {
    fn new(at: &'a AddressSlots) -> Self {
        at.waiting.fetch_add(1, Ordering::Relaxed);
        at.waiting_anywhere.fetch_add(1, Ordering::Relaxed);
        Self(at)
    }
}

impl Drop for WaitingTask<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
        self.0.waiting_anywhere.fetch_sub(1, Ordering::Relaxed);
    }
}

impl HandshakeSlots {
    pub(in crate::proxy) fn of(&self, address: SocketAddr) -> Arc<AddressSlots> {
        let new = || Arc::new(AddressSlots::new(self.waiting.clone()));
        self.lock().entry(address).or_insert_with(new).clone()
    }

    /// Whether a task waits at any address. Later tasks then do not overtake it.
    pub(in crate::proxy) fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// A tunnel to this address became idle. Costs nothing while no task waits.
    pub(in crate::proxy) fn freed(&self, address: SocketAddr) {
        if !self.is_awaited() {
            return;
        }
        if let Some(at) = self.lock().get(&address) {
            at.progressed();
            at.freed.notify_one();
        }
    }

    /// Removes unused addresses.
    pub(in crate::proxy) fn forget_unused(&self) {
        self.lock().retain(|_, at| Arc::strong_count(at) > 1);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Arc<AddressSlots>>> {
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AddressSlots {
    fn new(waiting_anywhere: Arc<AtomicUsize>) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(HANDSHAKES_PER_ADDRESS_MAX)),
            freed: Notify::new(),
            progress: Mutex::new(Instant::now()),
            waiting: AtomicUsize::new(0),
            waiting_anywhere,
        }
    }

    /// Waits for a tunnel, which `kept` returns, or for a slot, in order of arrival, and no longer than `patience`
    /// without progress at this address.
    pub(in crate::proxy) async fn wait_turn<K>(
        self: &Arc<Self>,
        patience: Duration,
        kept: impl Fn() -> Option<K>,
    ) -> SlotOutcome<K> {
        if self.waiting.load(Ordering::Relaxed) == 0 {
            if let Some(kept) = kept() {
                return SlotOutcome::Kept(kept);
            }
            if let Ok(slot) = self.slots.clone().try_acquire_owned() {
                return SlotOutcome::Dial(self.permit(slot));
            }
        }
        let _waiting = WaitingTask::new(self);
        let began = Instant::now();
        let mut acquiring = pin!(self.slots.clone().acquire_owned());
        loop {
            let stuck = began.max(self.last_progress()) + patience;
            tokio::select! {
                biased;
                () = self.freed.notified() => {
                    if let Some(kept) = kept() {
                        return SlotOutcome::Kept(kept);
                    }
                }
                slot = &mut acquiring => {
                    return match (kept(), slot) {
                        (Some(kept), _) => SlotOutcome::Kept(kept),
                        (None, Ok(slot)) => SlotOutcome::Dial(self.permit(slot)),
                        (None, Err(_)) => SlotOutcome::Stuck,
                    };
                }
                () = sleep_until(stuck) => {
                    if Instant::now() >= began.max(self.last_progress()) + patience {
                        return SlotOutcome::Stuck;
                    }
                }
            }
        }
    }

    fn permit(self: &Arc<Self>, slot: OwnedSemaphorePermit) -> DialPermit {
        DialPermit { _slot: slot, at: self.clone() }
    }

    fn progressed(&self) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn last_progress(&self) -> Instant {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn address() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 8443))
    }

    async fn dials(slots: &HandshakeSlots) -> Vec<DialPermit> {
        let mut all = Vec::new();
        for _ in 0..HANDSHAKES_PER_ADDRESS_MAX {
            let SlotOutcome::Dial(permit) = slots.of(address()).wait_turn(PATIENCE, || None::<()>).await
            else {
                panic!("there is a slot");
            };
            all.push(permit);
        }
        all
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_bound_a_freed_tunnel_is_taken_and_else_a_freed_slot() {
        let slots = HandshakeSlots::default();
        let mut dials = dials(&slots).await;
        let tunnels = AtomicUsize::new(0);
        let kept =
            || tunnels.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).ok();
        let at = slots.of(address());
        let (first, second) = (at.wait_turn(PATIENCE, kept), at.wait_turn(PATIENCE, kept));
        let free = async {
            tokio::task::yield_now().await;
            tunnels.store(1, Ordering::Relaxed);
            slots.freed(address());
            tokio::task::yield_now().await;
            dials.pop().unwrap().succeeded();
        };
        let (first, second, ()) = tokio::join!(first, second, free);
        assert!(matches!((first, second), (SlotOutcome::Kept(_), SlotOutcome::Dial(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn one_waits_as_long_as_anything_goes_on_there_and_no_longer() {
        let slots = HandshakeSlots::default();
        let _dials = dials(&slots).await;
        let (at, began) = (slots.of(address()), Instant::now());
        let go_on = async {
            for _ in 0..10 {
                tokio::time::sleep(PATIENCE / 2).await;
                slots.freed(address());
            }
        };
        let (wait_turn, ()) = tokio::join!(at.wait_turn(PATIENCE, || None::<()>), go_on);
        assert!(matches!(wait_turn, SlotOutcome::Stuck));
        assert_eq!(began.elapsed(), PATIENCE / 2 * 10 + PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn pooled_tunnels_bypass_slots_and_unused_addresses_are_removed() {
        let slots = HandshakeSlots::default();
        let dials = dials(&slots).await;
        assert!(matches!(slots.of(address()).wait_turn(PATIENCE, || Some(())).await, SlotOutcome::Kept(())));
        slots.forget_unused();
        assert_eq!(slots.lock().len(), 1);
        drop(dials);
        slots.forget_unused();
        assert_eq!(slots.lock().len(), 0);
    }
}
