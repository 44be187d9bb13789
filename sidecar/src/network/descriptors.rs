//! File descriptor limits. The sidecar raises its limit as far as allowed, and reserves descriptors that connections
//! cannot use, so that accept, the admin endpoint, the CA client and files keep working under load.
//!
//! A new descriptor has the lowest free number (POSIX, File Descriptor Allocation). So its number is a lower bound of
//! the number of descriptors in use, and no counter is needed. The limit is read each time, which takes 0.1
//! microseconds, because another process may change it (prlimit(1)).

use std::io;
use std::os::fd::AsRawFd;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

use crate::config::Config;

/// Number of reserved descriptors: 64 for the admin endpoint, and 64 for the CA client, name resolution, files and
/// connections that are about to be refused.
pub const RESERVED: u64 = 128;
/// At most 1/2 of a low limit is reserved.
const RESERVED_PART: u64 = 2;
/// A proxied connection needs two descriptors.
const EACH_CONNECTION: u64 = 2;
/// Pending handshakes may use 1/4 of the descriptors available to connections.
const HANDSHAKES_PART: u64 = 4;
/// Connections of one identity may use 1/2 of them, which leaves the rest to other identities.
const PEER_PART: u64 = 2;

/// Raises the descriptor limit to the maximum, and lowers the `[limits]` that exceed it.
pub fn prepare(config: &mut Config) {
    let asked = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: asked.maximum, maximum: asked.maximum });
    if let Err(error) = raised {
        let error = io::Error::from(error);
        warn!(%error, from = asked.current, to = asked.maximum, "cannot raise the limit of file descriptors");
    }
    let Some(limit) = limit() else { return info!("file descriptors are not limited") };
    info!(limit, reserved = reserved(limit), "file descriptors");
    lower_limits(config, limit);
}

/// Lowers the limits with which handshakes or one identity could use all descriptors, and warns if `connections_max`
/// cannot be reached.
fn lower_limits(config: &mut Config, limit: u64) {
    let listeners = (config.inbounds.len() + config.outbounds.len()) as u64;
    let others = in_use().unwrap_or_default() + listeners;
    let left = (limit - reserved(limit)).saturating_sub(others);
    let limits = &mut config.limits;
    let wanted = listeners.saturating_mul(limits.connections_max as u64);
    let reachable = left / EACH_CONNECTION;
    if wanted > reachable {
        let why = "the listeners together cannot reach connections_max: raise the limit of file descriptors (LimitNOFILE=)";
        warn!(limit, reachable, wanted, why, "few file descriptors");
    }
    let lower = |value: &mut usize, most: u64| {
        *value = (*value).min(usize::try_from(most).unwrap_or(usize::MAX)).max(1);
    };
    let inbounds = (config.inbounds.len() as u64).max(1);
    let before = (limits.handshakes_pending_max, limits.connections_per_peer_max);
    lower(&mut limits.handshakes_pending_max, left / HANDSHAKES_PART / inbounds);
    lower(&mut limits.connections_per_peer_max, left / PEER_PART / EACH_CONNECTION);
    if before != (limits.handshakes_pending_max, limits.connections_per_peer_max) {
        let (handshakes_pending_max, connections_per_peer_max) =
            (limits.handshakes_pending_max, limits.connections_per_peer_max);
        warn!(handshakes_pending_max, connections_per_peer_max, "lowered, to leave others file descriptors");
    }
}

/// Maximum number of open descriptors of this process; `None` if there is no limit.
pub fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Number of reserved descriptors for a limit.
fn reserved(limit: u64) -> u64 {
    RESERVED.min(limit / RESERVED_PART)
}

/// Whether the connection's descriptor is a reserved one, so that the connection must be closed.
pub fn is_reserved(connection: &impl AsRawFd) -> bool {
    let number = u64::try_from(connection.as_raw_fd()).unwrap_or(u64::MAX);
    limit().is_some_and(|limit| number >= limit - reserved(limit))
}

/// Number of open descriptors, including the one that is used to count them.
pub fn in_use() -> io::Result<u64> {
    Ok(std::fs::read_dir("/proc/self/fd")?.count() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "[identity]\nsvid_file = \"a\"\nkey_file = \"b\"\nbundle_file = \"c\"\n\
        [[inbound]]\nname = \"a\"\nlisten = \"127.0.0.1:1\"\napp = \"127.0.0.1:2\"\nprotocol = \"tcp\"\n";

    fn config() -> Config {
        Config::parse(std::path::Path::new("sidecar.toml"), CONFIG).unwrap()
    }

    #[test]
    fn a_low_limit_is_shared_by_halves() {
        assert_eq!([0, 1, 64, 256, 1024].map(reserved), [0, 0, 32, 128, 128]);
    }

    #[test]
    fn under_a_low_limit_neither_strangers_nor_one_identity_can_take_all() {
        let mut config = config();
        lower_limits(&mut config, 512);
        let (pending, one) =
            (config.limits.handshakes_pending_max as u64, config.limits.connections_per_peer_max as u64);
        let connections = (512 - RESERVED) / EACH_CONNECTION;
        assert!((1..=connections / 2).contains(&pending), "{pending}");
        assert!((1..=connections / 2).contains(&one), "{one}");
        lower_limits(&mut config, 8);
        assert_eq!((config.limits.handshakes_pending_max, config.limits.connections_per_peer_max), (1, 1));
    }

    #[test]
    fn a_high_limit_changes_nothing() {
        let (mut fitted, config) = (config(), config());
        lower_limits(&mut fitted, 1_048_576);
        assert_eq!(fitted.limits.handshakes_pending_max, config.limits.handshakes_pending_max);
        assert_eq!(fitted.limits.connections_per_peer_max, config.limits.connections_per_peer_max);
    }

    #[test]
    fn an_open_file_is_counted_and_is_not_in_the_reserve() {
        let before = in_use().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        // Other tests open and close descriptors concurrently.
        assert!(before > 2 && !is_reserved(&file));
    }
}
