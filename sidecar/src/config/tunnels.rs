//! `[tunnels]`: limits of the pooled tunnels to other sidecars.

use std::time::Duration;

use super::raw::RawTunnels;
use super::rules::Rules;
use super::{
    IDLE_TIMEOUT_MAX, TIMEOUT_MIN, TUNNEL_AGE_DEFAULT, TUNNEL_IDLE_TIMEOUT_DEFAULT, TUNNEL_LEASES_DEFAULT,
    TUNNEL_LEASES_MAX, TUNNELS_IDLE_DEFAULT, TUNNELS_IDLE_MAX,
};

/// Limits of the tunnels of one outbound, each with a default.
#[derive(Debug, Clone, Copy)]
pub struct Tunnels {
    /// Maximum number of idle tunnels.
    pub idle_max: usize,
    /// Idle timeout; the server's side waits twice as long.
    pub idle_timeout: Duration,
    /// Maximum age at which a tunnel is reused.
    pub age_max: Duration,
    /// App connections that one tunnel carries, one after the other.
    pub leases_max: u64,
}

impl Default for Tunnels {
    fn default() -> Self {
        Self {
            idle_max: TUNNELS_IDLE_DEFAULT,
            idle_timeout: TUNNEL_IDLE_TIMEOUT_DEFAULT,
            age_max: TUNNEL_AGE_DEFAULT,
            leases_max: TUNNEL_LEASES_DEFAULT as u64,
        }
    }
}

impl Rules<'_> {
    pub(super) fn tunnels(&mut self, raw: RawTunnels) -> Tunnels {
        let default = Tunnels::default();
        let idle = self.count("tunnels.idle_max", raw.idle_max, TUNNELS_IDLE_MAX);
        let leases = self.count("tunnels.leases_max", raw.leases_max, TUNNEL_LEASES_MAX);
        let times = TIMEOUT_MIN..=IDLE_TIMEOUT_MAX;
        let idle_timeout = self.duration("tunnels.idle_timeout", raw.idle_timeout, times.clone());
        let age = self.duration("tunnels.age_max", raw.age_max, times);
        Tunnels {
            idle_max: idle.unwrap_or(default.idle_max),
            idle_timeout: idle_timeout.unwrap_or(default.idle_timeout),
            age_max: age.unwrap_or(default.age_max),
            leases_max: leases.map_or(default.leases_max, |leases| leases as u64),
        }
    }
}
