//! `sidecar.toml`, read into types that cannot be wrong.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use postern_proto::identity::SpiffeId;
use postern_proto::policy::Protocol;

/// A whole, valid configuration.
#[derive(Debug, Clone)]
pub struct Config {
    pub identity: IdentitySource,
    pub inbounds: Vec<Inbound>,
    pub outbounds: Vec<Outbound>,
    /// `[policy] file`; without it there is no policy, and every peer is refused.
    pub policy_file: Option<PathBuf>,
    pub admin: SocketAddr,
    pub limits: Limits,
    pub shutdown: Shutdown,
}

/// Where the own identity comes from.
#[derive(Debug, Clone)]
pub enum IdentitySource {
    /// From a Postern CA.
    Ca {
        /// `https://host:port`.
        ca: HostPort,
        /// Needed for the first enrolment only.
        join_token: Option<JoinTokenSource>,
        /// Keeps key and chain over a restart, files of mode 0600.
        state_dir: Option<PathBuf>,
    },
    /// From files that someone else renews, PEM, watched.
    Files { svid: PathBuf, key: PathBuf, bundle: PathBuf },
}

/// Where the join token is read, anew at each enrolment.
#[derive(Debug, Clone)]
pub enum JoinTokenSource {
    File(PathBuf),
    Env(String),
}

/// A host, by name or address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

/// mTLS from peers to the own app.
#[derive(Debug, Clone)]
pub struct Inbound {
    /// The port's name in policies.
    pub name: String,
    pub listen: SocketAddr,
    pub app: HostPort,
    pub protocol: Protocol,
}

/// The own app's way to one service.
#[derive(Debug, Clone)]
pub struct Outbound {
    pub listen: SocketAddr,
    pub target: Target,
    /// Tried in this order.
    pub to: Vec<HostPort>,
    pub protocol: Protocol,
}

/// Whose identity must answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A service's name, resolved by the policy.
    Service(String),
    /// `id = "spiffe://…"`.
    Id(SpiffeId),
}

/// Bounds, each with a default.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Handshakes under way per inbound; when one more comes, the oldest is dropped.
    pub handshakes_pending_max: usize,
    /// From accept to the end of the handshake.
    pub handshake_timeout: Duration,
    /// To reach an app or a peer.
    pub connect_timeout: Duration,
    /// Open connections per listener.
    pub connections_max: usize,
}

/// How it ends.
#[derive(Debug, Clone, Copy)]
pub struct Shutdown {
    /// Not ready, still accepting.
    pub drain_delay: Duration,
    /// From then on, open connections may end by themselves; afterwards they are cut.
    pub drain_deadline: Duration,
}
