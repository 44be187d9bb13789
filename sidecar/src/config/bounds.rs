//! The defaults and bounds of `sidecar.toml`; `sidecar.example.toml` explains them.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// A configuration file has at most this many bytes.
pub const CONFIG_BYTES_MAX: usize = 1024 * 1024;

/// `[admin] listen`.
pub const ADMIN_DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15000);

/// `[limits] handshakes_pending_max`.
pub const HANDSHAKES_PENDING_DEFAULT: usize = 512;
pub const HANDSHAKES_PENDING_MAX: usize = 65_536;

/// `[limits] connections_max`.
pub const CONNECTIONS_DEFAULT: usize = 10_000;
pub const CONNECTIONS_MAX: usize = 1_000_000;

/// `[limits] handshake_timeout`.
pub const HANDSHAKE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// `[limits] connect_timeout`.
pub const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// Both timeouts lie between these.
pub const TIMEOUT_MIN: Duration = Duration::from_millis(10);
pub const TIMEOUT_MAX: Duration = Duration::from_secs(5 * 60);

/// `[shutdown] drain_delay`.
pub const DRAIN_DELAY_DEFAULT: Duration = Duration::from_secs(2);
pub const DRAIN_DELAY_MAX: Duration = Duration::from_secs(10 * 60);
/// `[shutdown] drain_deadline`.
pub const DRAIN_DEADLINE_DEFAULT: Duration = Duration::from_secs(30);
pub const DRAIN_DEADLINE_MAX: Duration = Duration::from_secs(60 * 60);

/// Inbounds and outbounds, each at most this many.
pub const LISTENERS_MAX: usize = 256;
/// `to` of an outbound has at most this many addresses.
pub const UPSTREAMS_MAX: usize = 64;
/// An inbound's or a service's name has at most this many bytes.
pub const NAME_BYTES_MAX: usize = 63;
