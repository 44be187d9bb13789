//! What sidecars are told, and which of them run what.

mod call_rows;
mod hello;
mod policy_snapshot;
mod subscriber_registry;
mod sync_state;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use postern_proto::identity::SpiffeId;
use postern_proto::wire::v1::{CallReports, PolicyAcknowledgement};
use time::OffsetDateTime;
use tokio::sync::watch;

use call_rows::CallRows;
pub use call_rows::{CallKind, CallRow};
pub use hello::{Hello, HelloError, INBOUNDS_MAX, SERVICES_MAX};
pub use policy_snapshot::{PolicySnapshot, SliceTooLarge};
pub use subscriber_registry::{AWAY_LISTED, Full, Presence, Sidecar, SubscriberLimits};
use subscriber_registry::{StreamKey, SubscriberRegistry};
pub use sync_state::SyncState;

/// Revoked identities, each with the reason.
pub type Revoked = Arc<BTreeMap<SpiffeId, String>>;

/// What all subscriptions have in common. Who listens sees the newest state and never the ones it was too slow for,
/// so that nothing queues.
#[derive(Debug)]
pub struct Broadcaster {
    policy: watch::Sender<Option<Arc<PolicySnapshot>>>,
    revoked: watch::Sender<Revoked>,
    registry: Mutex<SubscriberRegistry>,
    calls: Mutex<CallRows>,
}

/// One report tells of at most so many kinds of calls; the calls of further ones count as lost.
pub const CALLS_REPORTED_MAX: usize = 200;

/// One sidecar's subscription, until it is dropped.
#[derive(Debug)]
pub struct Subscription {
    broadcaster: Arc<Broadcaster>,
    stream_key: StreamKey,
    /// The policy in force; none where none is stored.
    pub policy: watch::Receiver<Option<Arc<PolicySnapshot>>>,
    pub revoked: watch::Receiver<Revoked>,
}

impl Broadcaster {
    pub fn new(limits: SubscriberLimits, call_rows_max: usize) -> Self {
        Self {
            policy: watch::Sender::default(),
            revoked: watch::Sender::default(),
            registry: Mutex::new(SubscriberRegistry::new(limits)),
            calls: Mutex::new(CallRows::new(call_rows_max)),
        }
    }

    /// Tells a policy to all sidecars that it concerns; none where none is stored.
    pub fn set_policy(&self, policy: Option<Arc<PolicySnapshot>>) {
        self.policy.send_replace(policy);
    }

    /// Tells all sidecars who is revoked, and ends the subscriptions of those. What they know already is not told again.
    pub fn set_revoked(&self, revoked: Revoked) {
        self.revoked.send_if_modified(|known| {
            let news = *known != revoked;
            *known = revoked;
            news
        });
    }

    pub fn policy(&self) -> Option<Arc<PolicySnapshot>> {
        self.policy.borrow().clone()
    }

    /// Why an identity may not subscribe, where it is revoked.
    pub fn revocation_of(&self, id: &SpiffeId) -> Option<String> {
        self.revoked.borrow().get(id).cloned()
    }

    /// Lets a sidecar listen.
    pub fn enter(
        self: &Arc<Self>,
        id: &SpiffeId,
        hello: &Hello,
        now: OffsetDateTime,
    ) -> Result<Subscription, Full> {
        let stream_key = self.registry().enter(id, hello, now)?;
        let (mut policy, mut revoked) = (self.policy.subscribe(), self.revoked.subscribe());
        // The first of each is news.
        policy.mark_changed();
        revoked.mark_changed();
        Ok(Subscription { broadcaster: self.clone(), stream_key, policy, revoked })
    }

    /// All sidecars that are connected or not long away, by identity and instance.
    pub fn sidecars(&self, now: OffsetDateTime) -> Vec<(SpiffeId, String, Sidecar)> {
        let mut registry = self.registry();
        registry.forget_away(now);
        let row = |(id, instance, sidecar): (&SpiffeId, &str, &Sidecar)| {
            (id.clone(), instance.to_owned(), sidecar.clone())
        };
        registry.sidecars().map(row).collect()
    }

    /// At most `limit` rows of reported calls after a number, and how many calls are in none.
    pub fn calls_after(&self, number: u64, limit: usize) -> (Vec<(u64, CallRow)>, u64) {
        let calls = self.calls();
        (calls.after(number, limit), calls.lost())
    }

    fn calls(&self) -> MutexGuard<'_, CallRows> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn registry(&self) -> MutexGuard<'_, SubscriberRegistry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscription {
    /// Notes what the sidecar says of a version.
    pub fn acknowledged(&self, said: PolicyAcknowledgement, now: OffsetDateTime) {
        self.broadcaster.registry().acknowledged(&self.stream_key, said, now);
    }

    /// Counts calls that the sidecar reports.
    pub fn reported(&self, CallReports { calls, lost }: CallReports, now: OffsetDateTime) {
        let mut rows = self.broadcaster.calls();
        rows.lose(lost);
        for (number, report) in calls.into_iter().enumerate() {
            let count = report.count;
            match CallRow::of_report(&self.stream_key.id, report, now.unix_timestamp())
                .filter(|_| number < CALLS_REPORTED_MAX)
            {
                Some(row) => rows.add(row),
                None => rows.lose(count),
            }
        }
    }

    /// Notes that a version could not even be sent.
    pub fn not_sent(&self, version: u64, why: &SliceTooLarge) {
        self.broadcaster.registry().not_sent(&self.stream_key, version, why.to_string());
    }

    /// The sidecar took leave: it is not one that lags behind.
    pub fn close(self) {
        self.broadcaster.registry().closed(&self.stream_key);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // However the stream's task ends, also by a panic, so that there is nobody to pass the time in.
        self.broadcaster.registry().ended(&self.stream_key, OffsetDateTime::now_utc());
    }
}
