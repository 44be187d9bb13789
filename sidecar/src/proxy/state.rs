//! The state that all connections of this sidecar share: policy, register, pools, limits and logs.

mod reevaluation;

use std::sync::{Arc, Weak};

use postern_proto::policy::Protocol;
use serde_json::Value;

use super::connections::{OwnService, Register};
use super::listen_addresses::ListenAddresses;
use super::peer_limits::PeerLimits;
use super::tunnel::{Pool, PoolRegister};
use super::upstream::{UpstreamRegister, Upstreams};
use crate::clock::Clock;
use crate::config::{Config, HostPort};
use crate::control::ControlState;
use crate::network::descriptors;
use crate::observability::Direction;
use crate::observability::access_log::AccessLog;
use crate::observability::metrics::ListenerSeries;
use crate::observability::refusals::Refusals;
pub use reevaluation::EXPIRY_LOOK_INTERVAL;

/// The shared state of the data plane.
#[derive(Debug)]
pub struct ProxyState {
    pub control: Arc<ControlState>,
    pub register: Arc<Register>,
    /// Connections per peer, for each inbound.
    pub(crate) peer_limits: Vec<Arc<PeerLimits>>,
    pub refusals: Refusals,
    pub access_log: AccessLog,
    pub upstreams: UpstreamRegister,
    pub listening: ListenAddresses,
    pub pools: PoolRegister,
}

impl ProxyState {
    pub fn new(config: Config, clock: Arc<dyn Clock>) -> Self {
        let control = Arc::new(ControlState::new(config, clock));
        let own = OwnService { credentials: control.credentials.clone(), policy: control.policy.clone() };
        let register = Arc::new(Register::new(control.metrics.clone(), &control.config, own));
        let peer_limits = control.config.inbounds.iter().map(|_| Arc::default()).collect();
        Self {
            register,
            peer_limits,
            refusals: Refusals::new(control.metrics.clone(), control.clock.clone()),
            access_log: AccessLog::default(),
            upstreams: UpstreamRegister::default(),
            listening: ListenAddresses::default(),
            pools: PoolRegister::default(),
            control,
        }
    }

    /// The addresses behind this listener, which `/status` shows from now on.
    pub fn upstreams(&self, series: Arc<ListenerSeries>, listener: usize, to: &[HostPort]) -> Arc<Upstreams> {
        let (limits, name_servers) = (self.control.config.limits, self.control.name_servers.clone());
        let upstreams = Upstreams::new(to, series, limits, name_servers, self.control.metrics.clone());
        self.upstreams.enter(listener, &upstreams);
        upstreams
    }

    /// Updates gauges that are not maintained on change, and counts the bytes that open connections have carried.
    pub fn measure(&self) {
        self.register.count_bytes();
        let inbounds = self.control.config.inbounds.iter().map(|one| (one.protocol, one.name.clone()));
        self.measure_waiting(Direction::Inbound, inbounds);
        let outbounds =
            self.control.config.outbounds.iter().map(|one| (one.protocol, one.target.to_string()));
        self.measure_waiting(Direction::Outbound, outbounds);
        let most_of_one_peer =
            self.peer_limits.iter().map(|peer_limits| peer_limits.most()).max().unwrap_or(0);
        match descriptors::in_use() {
            Ok(open) => self.control.metrics.levels.measured(most_of_one_peer, open, descriptors::limit()),
            Err(error) => tracing::debug!(%error, "cannot count file descriptors"),
        }
    }

    fn measure_waiting(&self, direction: Direction, listeners: impl Iterator<Item = (Protocol, String)>) {
        for (index, (_, name)) in
            listeners.enumerate().filter(|(_, (protocol, _))| *protocol == Protocol::Http)
        {
            self.control.metrics.levels.waiting(direction, name, self.upstreams.waiting(direction, index));
        }
    }

    /// A tunnel pool of this outbound, which `/connections` shows.
    pub fn pool(&self, series: &ListenerSeries) -> Arc<Pool> {
        let pool = Arc::new(Pool::new(self.control.config.tunnels));
        self.pools.enter(series.listener.clone(), &pool);
        let counted: Weak<Pool> = Arc::downgrade(&pool);
        series.pool.enter(counted);
        pool
    }

    /// The content of `/connections`: live connections and idle tunnels.
    pub fn connections(&self) -> Value {
        let mut shown = self.register.shown();
        if let Some(fields) = shown.as_object_mut() {
            fields.insert("pools".to_owned(), self.pools.shown().into());
        }
        shown
    }
}
