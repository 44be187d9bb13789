//! Metrics of a listener's connection pools.

use std::fmt::Debug;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::series::ListenerSeries;

/// The result of a dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialResult {
    Ok,
    /// No connection, or a failed handshake.
    Failed,
    /// One side rejected the other's certificate or identity, or could not serve.
    Refused,
    /// An error of this machine, which says nothing about the address.
    LocalFault,
}

impl DialResult {
    pub(super) const ALL: [Self; 4] = [Self::Ok, Self::Failed, Self::Refused, Self::LocalFault];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::LocalFault => "local_fault",
        }
    }
}

/// A pool that can count its idle connections. It is called at each scrape, so that requests have no cost for it.
pub trait CountIdle: Debug + Send + Sync {
    fn idle(&self) -> usize;
}

/// The pool metrics of one listener.
#[derive(Debug, Default)]
pub struct PoolSeries {
    pools: Mutex<Vec<Weak<dyn CountIdle>>>,
    open: AtomicI64,
    ok: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    local_fault: AtomicU64,
}

/// Numbers of pooled connections of one listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PoolConnections {
    pub(super) active: i64,
    pub(super) idle: i64,
}

impl PoolSeries {
    /// Adds a pool, which is counted as long as it exists.
    pub fn enter(&self, pool: Weak<dyn CountIdle>) {
        self.pools().push(pool);
    }

    /// Counts a finished dial.
    pub fn dialed(&self, result: DialResult) {
        self.count_of(result).fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn dials(&self, result: DialResult) -> u64 {
        self.count_of(result).load(Ordering::Relaxed)
    }

    /// Whether the listener has a pool.
    pub(super) fn has_pool(&self) -> bool {
        !self.pools().is_empty()
    }

    /// Counts active and idle connections. A connection that closes meanwhile is in at most one of the counts.
    pub(super) fn connections(&self) -> PoolConnections {
        let pools: Vec<_> = self.pools().iter().filter_map(Weak::upgrade).collect();
        let idle = pools.iter().map(|pool| pool.idle()).sum::<usize>();
        let open = self.open.load(Ordering::Relaxed);
        let idle = i64::try_from(idle).unwrap_or(i64::MAX).min(open);
        PoolConnections { active: open - idle, idle }
    }

    fn count_of(&self, result: DialResult) -> &AtomicU64 {
        match result {
            DialResult::Ok => &self.ok,
            DialResult::Failed => &self.failed,
            DialResult::Refused => &self.refused,
            DialResult::LocalFault => &self.local_fault,
        }
    }

    fn pools(&self) -> MutexGuard<'_, Vec<Weak<dyn CountIdle>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A guard that counts a pooled connection until it is dropped.
#[derive(Debug)]
pub struct PooledConnection(Arc<ListenerSeries>);

impl PooledConnection {
    pub fn new(series: Arc<ListenerSeries>) -> Self {
        series.pool.open.fetch_add(1, Ordering::Relaxed);
        Self(series)
    }
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        self.0.pool.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Direction, SeriesRegister};
    use super::*;

    #[derive(Debug)]
    struct Idle(usize);

    impl CountIdle for Idle {
        fn idle(&self) -> usize {
            self.0
        }
    }

    #[test]
    fn connections_are_counted_until_they_close_and_idle_ones_as_their_pool_says() {
        let series = SeriesRegister::default().listener(Direction::Outbound, "payments");
        assert!(!series.pool.has_pool());
        let pool: Arc<dyn CountIdle> = Arc::new(Idle(2));
        series.pool.enter(Arc::downgrade(&pool));
        let open: Vec<_> = (0..3).map(|_| PooledConnection::new(series.clone())).collect();
        assert_eq!(series.pool.connections(), PoolConnections { active: 1, idle: 2 });
        drop(open);
        assert_eq!(series.pool.connections(), PoolConnections { active: 0, idle: 0 }, "never negative");
        drop(pool);
        assert!(series.pool.has_pool(), "its dials stay counted");
    }
}
