//! The idle tunnels of one outbound: bounded in number, idle time, age and uses.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use postern_proto::identity::VerifiedSvid;
use serde_json::{Value, json};

use super::connection::TunnelConnection;
use super::retired::RetiredTunnels;
use crate::config::Tunnels;
use crate::observability::metrics::{CountIdle, PooledConnection};

/// Most tunnels of one pool that `/connections` shows.
pub const TUNNELS_SHOWN_MAX: usize = 100;

/// A tunnel, on its client side.
#[derive(Debug)]
pub struct Tunnel {
    pub connection: TunnelConnection,
    /// The verified server.
    pub peer: VerifiedSvid,
    pub address: SocketAddr,
    /// Generation of the own credentials in its handshake.
    pub generation: u64,
    born: Instant,
    leases: u64,
    _counted: PooledConnection,
}

impl Tunnel {
    pub fn new(
        connection: TunnelConnection,
        peer: VerifiedSvid,
        address: SocketAddr,
        generation: u64,
        counted: PooledConnection,
    ) -> Self {
        Self { connection, peer, address, generation, born: Instant::now(), leases: 0, _counted: counted }
    }

    /// Whether it has carried no app connection yet.
    pub fn is_new(&self) -> bool {
        self.leases == 0
    }
}

/// The pools of all outbounds, for `/connections`.
#[derive(Debug, Default)]
pub struct PoolRegister(Mutex<Vec<(String, Weak<Pool>)>>);

impl PoolRegister {
    /// Registers the pool of the outbound to `service` for as long as it exists.
    pub fn enter(&self, service: String, pool: &Arc<Pool>) {
        self.lock().push((service, Arc::downgrade(pool)));
    }

    /// Idle tunnels of all outbounds.
    pub fn idle(&self) -> usize {
        self.lock().iter().filter_map(|(_, pool)| pool.upgrade()).map(|pool| pool.idle()).sum()
    }

    /// Each pool as `/connections` shows it.
    pub fn shown(&self) -> Vec<Value> {
        let pools = self.lock();
        let shown = pools.iter().filter_map(|(service, pool)| {
            let mut shown = pool.upgrade()?.shown();
            shown.as_object_mut()?.insert("service".to_owned(), service.as_str().into());
            Some(shown)
        });
        shown.collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(String, Weak<Pool>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Idle tunnels. The most recently used one is used next.
#[derive(Debug)]
pub struct Pool {
    idle: Mutex<Vec<(Box<Tunnel>, Instant)>>,
    /// Bounded by the limit of idle tunnels.
    retired: RetiredTunnels,
    limits: Tunnels,
}

impl Pool {
    pub fn new(limits: Tunnels) -> Self {
        Self { idle: Mutex::default(), retired: RetiredTunnels::new(limits.idle_max), limits }
    }

    /// Takes a tunnel for the next lease that `fits`. Drops broken ones.
    pub fn checkout(&self, fits: impl Fn(&Tunnel) -> bool) -> Option<Box<Tunnel>> {
        let now = Instant::now();
        loop {
            let (mut tunnel, since) = {
                let mut idle = self.lock();
                let at = idle.iter().rposition(|(tunnel, _)| fits(tunnel))?;
                idle.remove(at)
            };
            if self.may_stay(&tunnel, since, now) && tunnel.connection.is_quiet() {
                tunnel.leases += 1;
                return Some(tunnel);
            }
            self.end(*tunnel);
        }
    }

    /// Returns a tunnel after its lease, if it is reusable.
    pub fn put(&self, tunnel: Box<Tunnel>) {
        let now = Instant::now();
        if !tunnel.connection.is_quiet() || !self.may_stay(&tunnel, now, now) {
            return self.end(*tunnel);
        }
        let oldest = {
            let mut idle = self.lock();
            idle.push((tunnel, now));
            (idle.len() > self.limits.idle_max).then(|| idle.remove(0))
        };
        if let Some((oldest, _)) = oldest {
            self.end(*oldest);
        }
    }

    pub fn end(&self, tunnel: Tunnel) {
        if let Some(retired) = tunnel.connection.retire() {
            self.retired.push(retired);
        }
    }

    /// Retires tunnels that are not `wanted`, have been idle too long, or were ended by the peer.
    pub fn retire(&self, wanted: impl Fn(&Tunnel) -> bool) {
        let now = Instant::now();
        let stays = |(tunnel, since): &mut (Box<Tunnel>, Instant)| {
            wanted(tunnel) && self.may_stay(tunnel, *since, now) && tunnel.connection.is_quiet()
        };
        let retired: Vec<_> = self.lock().extract_if(.., |idle| !stays(idle)).collect();
        retired.into_iter().for_each(|(tunnel, _)| self.end(*tunnel));
        self.close_retired();
    }

    /// Closes the sockets of retired tunnels that the peer has closed. Returns whether none is left.
    pub fn close_retired(&self) -> bool {
        self.retired.close_over(Instant::now())
    }

    /// As `/connections` shows them, up to [`TUNNELS_SHOWN_MAX`].
    fn shown(&self) -> Value {
        let (now, idle) = (Instant::now(), self.lock());
        let shown = idle.iter().rev().take(TUNNELS_SHOWN_MAX).map(|(tunnel, since)| {
            json!({
                "peer": tunnel.peer.id().as_str(),
                "address": tunnel.address,
                "generation": tunnel.generation,
                "leases": tunnel.leases + 1,
                "age_seconds": now.duration_since(tunnel.born).as_secs(),
                "idle_seconds": now.duration_since(*since).as_secs(),
            })
        });
        json!({ "idle": idle.len(), "tunnels": shown.collect::<Vec<_>>() })
    }

    fn may_stay(&self, tunnel: &Tunnel, since: Instant, now: Instant) -> bool {
        now.duration_since(since) <= self.limits.idle_timeout
            && now.duration_since(tunnel.born) <= self.limits.age_max
            && tunnel.leases < self.limits.leases_max
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Box<Tunnel>, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CountIdle for Pool {
    fn idle(&self) -> usize {
        self.lock().len()
    }
}
