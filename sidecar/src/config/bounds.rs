//! The defaults and bounds of `sidecar.toml`; `sidecar.example.toml` explains them.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// `[admin] listen`.
pub const ADMIN_DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15000);

/// `[limits] handshakes_pending_max`.
pub const HANDSHAKES_PENDING_DEFAULT: usize = 512;
pub const HANDSHAKES_PENDING_MAX: usize = 65_536;
/// It is at most 1/2 of `connections_max`, so that pending handshakes leave room for established connections.
pub const HANDSHAKES_PENDING_PART: usize = 2;

/// `[limits] connections_max`.
pub const CONNECTIONS_DEFAULT: usize = 10_000;
pub const CONNECTIONS_MAX: usize = 1_000_000;

/// `[limits] connections_per_peer_max`: by default one identity may have 1/2 of `connections_max`, which leaves as much
/// to all others.
pub const CONNECTIONS_PER_PEER_PART: usize = 2;

/// `[limits] handshake_timeout`.
pub const HANDSHAKE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// `[limits] idle_timeout`: long enough for pools and sessions that are used once a day. `dead_after` detects a dead
/// peer much earlier.
pub const CONNECTION_IDLE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(25 * 60 * 60);
/// `[limits] half_closed_timeout`.
pub const HALF_CLOSED_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10 * 60);
/// Range of both and of `[limits] max_connection_age`.
pub const LASTING_MIN: Duration = Duration::from_secs(1);
pub const LASTING_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// `[limits] peer_series_max`.
pub const PEER_SERIES_DEFAULT: usize = 1_000;
pub const PEER_SERIES_MAX: usize = 100_000;

/// `[limits] connect_timeout`.
pub const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// `[limits] dead_after`, from [`DEAD_AFTER_MIN`] to [`IDLE_TIMEOUT_MAX`].
pub const DEAD_AFTER_DEFAULT: Duration = Duration::from_secs(30);
pub const DEAD_AFTER_MIN: Duration = Duration::from_secs(2);
/// Range of both timeouts.
pub const TIMEOUT_MIN: Duration = Duration::from_millis(10);
pub const TIMEOUT_MAX: Duration = Duration::from_secs(5 * 60);

/// `[http] header_bytes_max`: size of a header block, in bytes.
pub const HEADER_BYTES_DEFAULT: usize = 32 * 1024;
pub const HEADER_BYTES_MAX: usize = 1024 * 1024;
/// `[http] headers_max`: number of fields in a header block.
pub const HEADERS_DEFAULT: usize = 100;
pub const HEADERS_MAX: usize = 10_000;
/// `[http] uri_bytes_max`.
pub const URI_BYTES_DEFAULT: usize = 16 * 1024;
/// The parser reads no longer URI.
pub const URI_BYTES_MAX: usize = 65_534;
/// `[http] streams_max`: concurrent requests on one HTTP/2 connection.
pub const STREAMS_DEFAULT: usize = 100;
pub const STREAMS_MAX: usize = 10_000;
/// `[http] http2_connections_max`: with the default `streams_max` of a peer's sidecar on each, this allows more
/// concurrent requests than one identity may have at one inbound.
pub const HTTP2_CONNECTIONS_DEFAULT: usize = 128;
pub const HTTP2_CONNECTIONS_MAX: usize = 10_000;
/// `[http] requests_per_peer_max`: concurrent requests of one identity, over all its connections to one inbound.
pub const REQUESTS_PER_PEER_DEFAULT: usize = 10_000;
pub const REQUESTS_PER_PEER_MAX: usize = 1_000_000;
/// `[http] expanded_bytes_per_peer_max`: the number of bytes by which HPACK decompression may expand the heads of one
/// identity's concurrent requests. The expanded heads are written to the app. Ordinary clients gain some hundred bytes
/// per request.
pub const EXPANDED_BYTES_PER_PEER_DEFAULT: usize = 4 * 1024 * 1024;
pub const EXPANDED_BYTES_PER_PEER_MAX: usize = 1024 * 1024 * 1024;
/// `[http] header_timeout`: from the first to the last byte of a header block.
pub const HEADER_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// `[http] idle_timeout`: a connection without a request.
pub const IDLE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5 * 60);
/// `[http] stream_idle_timeout`: a request without data in either direction.
pub const STREAM_IDLE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60 * 60);
/// Both idle timeouts are between [`TIMEOUT_MIN`] and this.
pub const IDLE_TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// `[tunnels] idle_max`: idle tunnels of one outbound.
pub const TUNNELS_IDLE_DEFAULT: usize = 256;
pub const TUNNELS_IDLE_MAX: usize = 10_000;
/// `[tunnels] idle_timeout`.
pub const TUNNEL_IDLE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
/// `[tunnels] age_max`.
pub const TUNNEL_AGE_DEFAULT: Duration = Duration::from_secs(60 * 60);
/// `[tunnels] leases_max`: app connections that one tunnel carries, one after the other.
pub const TUNNEL_LEASES_DEFAULT: usize = 1_000_000;
pub const TUNNEL_LEASES_MAX: usize = 1_000_000_000;

/// `[shutdown] drain_delay`.
pub const DRAIN_DELAY_DEFAULT: Duration = Duration::from_secs(2);
pub const DRAIN_DELAY_MAX: Duration = Duration::from_secs(10 * 60);
/// `[shutdown] drain_deadline`.
pub const DRAIN_DEADLINE_DEFAULT: Duration = Duration::from_secs(30);
pub const DRAIN_DEADLINE_MAX: Duration = Duration::from_secs(60 * 60);

/// `[restart] socket`: the maximum length of a socket address (unix(7): 108 bytes with the terminator), minus the
/// suffix of its temporary name.
pub const RESTART_SOCKET_BYTES_MAX: usize = 108 - 1 - ".new".len();
/// `[restart] ready_within`.
pub const READY_WITHIN_DEFAULT: Duration = Duration::from_secs(30);
pub const READY_WITHIN_MIN: Duration = Duration::from_millis(100);
pub const READY_WITHIN_MAX: Duration = Duration::from_secs(10 * 60);

/// Maximum number of inbounds, and of outbounds.
pub const LISTENERS_MAX: usize = 256;
/// Maximum number of addresses in `to` of an outbound.
pub const UPSTREAMS_MAX: usize = 64;
/// Maximum length of an inbound's or a service's name, in bytes.
pub const NAME_BYTES_MAX: usize = 63;

/// `[log] repeats_interval`.
pub const LOG_REPEATS_INTERVAL_DEFAULT: Duration = Duration::from_secs(10);
pub const LOG_REPEATS_INTERVAL_MIN: Duration = Duration::from_secs(1);
pub const LOG_REPEATS_INTERVAL_MAX: Duration = Duration::from_secs(60 * 60);

/// `[access_log] lines_waiting_max`.
pub const ACCESS_LOG_LINES_WAITING_DEFAULT: usize = 16_384;
pub const ACCESS_LOG_LINES_WAITING_MAX: usize = 1_000_000;
