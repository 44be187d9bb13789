//! The configuration, `sidecar.toml`, parsed into validated types.

mod bounds;
mod convert;
mod http;
mod identity_source;
mod limits;
mod listeners;
mod raw;
mod restart;
mod rules;
#[cfg(test)]
mod tests;
mod tunnels;
mod values;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use postern_proto::identity::SpiffeId;
use postern_proto::policy::Protocol;
use postern_server::config::ConfigError;

pub use bounds::*;
pub use http::{AppHttp, Http};
pub use limits::{Limits, MaxAge};
pub use restart::Restart;
pub use tunnels::Tunnels;
pub use values::HostPortError;

/// A valid configuration.
#[derive(Debug, Clone)]
pub struct Config {
    pub identity: IdentitySource,
    pub inbounds: Vec<Inbound>,
    pub outbounds: Vec<Outbound>,
    /// `[policy] file`; without it there is no policy, and every peer is refused.
    pub policy_file: Option<PathBuf>,
    pub admin: SocketAddr,
    pub limits: Limits,
    pub http: Http,
    pub tunnels: Tunnels,
    pub shutdown: Shutdown,
    /// Disabled if absent.
    pub restart: Option<Restart>,
    pub log: Log,
    /// Disabled if absent.
    pub access_log: Option<AccessLogConfig>,
}

impl Config {
    /// Reads a file. Relative paths in it are relative to the file's directory.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = postern_server::config::read(file)?;
        Self::parse(file, &text)
    }

    /// Parses a text; `file` is its name in messages and the base of relative paths.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        raw::Document::new(file, text)?.try_into()
    }
}

impl Config {
    /// All configured listen addresses.
    pub fn listen_addresses(&self) -> impl Iterator<Item = SocketAddr> {
        let inbounds = self.inbounds.iter().map(|inbound| inbound.listen);
        let outbounds = self.outbounds.iter().map(|outbound| outbound.listen);
        inbounds.chain(outbounds).chain([self.admin])
    }
}

/// The source of the sidecar's identity.
#[derive(Debug, Clone)]
pub enum IdentitySource {
    /// From a Postern CA.
    Ca {
        /// `https://host:port`.
        ca: HostPort,
        /// Required only for the first enrolment.
        join_token: Option<JoinTokenSource>,
        /// Persists key and chain across restarts, in files of mode 0600.
        state_dir: Option<PathBuf>,
    },
    /// From PEM files that another program renews; they are watched for changes.
    Files { svid: PathBuf, key: PathBuf, bundle: PathBuf },
}

/// The source of the join token, read again at each enrolment.
#[derive(Debug, Clone)]
pub enum JoinTokenSource {
    File(PathBuf),
    Env(String),
}

/// A host name or address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A listener that accepts mTLS from peers and forwards to the local app.
#[derive(Debug, Clone)]
pub struct Inbound {
    /// The port's name in policies.
    pub name: String,
    pub listen: SocketAddr,
    pub app: HostPort,
    pub protocol: Protocol,
    /// For `http` inbounds: the HTTP version of the app.
    pub app_http: AppHttp,
    /// For `http` inbounds: how much a refused client is told.
    pub tell_callers: TellCallers,
    /// For `tcp` inbounds: passes the client's address and identity to the app.
    pub proxy_protocol: Option<ProxyProtocol>,
}

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    V2,
}

/// The level of detail in refusal responses; the log always has every detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TellCallers {
    /// Client, server, the reason why no rule matched, and the command that explains it.
    #[default]
    Everything,
    /// Only the refusal and its identifier, under which the log has the details.
    Nothing,
}

/// A listener that forwards from the local app to one service over mTLS.
#[derive(Debug, Clone)]
pub struct Outbound {
    pub listen: SocketAddr,
    pub target: Target,
    /// Hosts that resolve to instances of the service.
    pub to: Vec<HostPort>,
    pub protocol: Protocol,
    /// The port's name in the policy, if the server's sidecar is to check that it serves this port.
    pub port: Option<String>,
}

/// The identity that the server must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A service's name, resolved by the policy.
    Service(String),
    /// `id = "spiffe://…"`.
    Id(SpiffeId),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) => f.write_str(name),
            Self::Id(id) => id.fmt(f),
        }
    }
}

/// The shutdown sequence.
#[derive(Debug, Clone, Copy)]
pub struct Shutdown {
    /// Time during which the sidecar reports not ready but still accepts.
    pub drain_delay: Duration,
    /// Time after that for open connections to end by themselves; then they are terminated.
    pub drain_deadline: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { drain_delay: DRAIN_DELAY_DEFAULT, drain_deadline: DRAIN_DEADLINE_DEFAULT }
    }
}

/// The log on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    pub format: LogFormat,
    /// The lowest level that is written.
    pub level: tracing::Level,
    /// Repeated lines of one kind are counted and reported once per interval.
    pub repeats_interval: Duration,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            level: tracing::Level::INFO,
            repeats_interval: LOG_REPEATS_INTERVAL_DEFAULT,
        }
    }
}

/// `[access_log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessLogConfig {
    pub to: AccessLogTarget,
    /// Capacity of the queue, in lines; further lines are dropped and counted.
    pub lines_waiting_max: usize,
}

/// The output of the access log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLogTarget {
    Stdout,
    Stderr,
    File(PathBuf),
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Plain text.
    Text,
    /// One JSON object per line.
    Json,
}
