//! `sidecar.toml`, read into types that cannot be wrong.

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
    pub http: Http,
    pub tunnels: Tunnels,
    pub shutdown: Shutdown,
    /// Off where absent.
    pub restart: Option<Restart>,
    pub log: Log,
    /// Off where absent.
    pub access_log: Option<AccessLogConfig>,
}

impl Config {
    /// Reads a file. Paths in it that are relative start at the file's own directory.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = postern_server::config::read(file)?;
        Self::parse(file, &text)
    }

    /// Reads a text; `file` is its name in messages and the start of relative paths.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        raw::Document::new(file, text)?.try_into()
    }
}

impl Config {
    /// All that is listened on.
    pub fn listen_addresses(&self) -> impl Iterator<Item = SocketAddr> {
        let inbounds = self.inbounds.iter().map(|inbound| inbound.listen);
        let outbounds = self.outbounds.iter().map(|outbound| outbound.listen);
        inbounds.chain(outbounds).chain([self.admin])
    }
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

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// mTLS from peers to the own app.
#[derive(Debug, Clone)]
pub struct Inbound {
    /// The port's name in policies.
    pub name: String,
    pub listen: SocketAddr,
    pub app: HostPort,
    pub protocol: Protocol,
    /// Of an `http` inbound.
    pub app_http: AppHttp,
    /// Of an `http` inbound.
    pub tell_callers: TellCallers,
    /// Of a `tcp` inbound: how the app is told who calls.
    pub proxy_protocol: Option<ProxyProtocol>,
}

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    V2,
}

/// How much a refused caller is told; the log always has it all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TellCallers {
    /// Who it is, whom it called, what no rule had, and the command that explains more.
    #[default]
    Everything,
    /// That it is refused, and under which number the log has the rest.
    Nothing,
}

/// The own app's way to one service.
#[derive(Debug, Clone)]
pub struct Outbound {
    pub listen: SocketAddr,
    pub target: Target,
    /// Each leads to instances of the service.
    pub to: Vec<HostPort>,
    pub protocol: Protocol,
    /// The port's name in the policy, where the called side shall make sure that it is this one.
    pub port: Option<String>,
}

/// Whose identity must answer.
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

/// How it ends.
#[derive(Debug, Clone, Copy)]
pub struct Shutdown {
    /// Not ready, still accepting.
    pub drain_delay: Duration,
    /// From then on, open connections may end by themselves; afterwards they are cut.
    pub drain_deadline: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { drain_delay: DRAIN_DELAY_DEFAULT, drain_deadline: DRAIN_DEADLINE_DEFAULT }
    }
}

/// What is written to standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    pub format: LogFormat,
    /// The least important kind of line that is written.
    pub level: tracing::Level,
    /// Lines of the same kind are counted, and reported once in this time.
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
    /// Lines that wait to be written; further ones are dropped and counted.
    pub lines_waiting_max: usize,
}

/// Where the access log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLogTarget {
    Stdout,
    Stderr,
    File(PathBuf),
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
