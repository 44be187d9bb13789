//! `ca.toml`, read into types that cannot be wrong.

mod raw;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use postern_proto::identity::TrustDomain;
use postern_server::config::ConfigError;

/// Where workloads reach the CA, unless said otherwise.
pub const LISTEN_DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7443);
/// A certificate lives this long unless said otherwise.
pub const SVID_TTL_DEFAULT: Duration = Duration::from_secs(60 * 60);
/// And never shorter or longer than this.
pub const SVID_TTL_MIN: Duration = Duration::from_secs(10);
pub const SVID_TTL_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// A shorter life is warned of: it leaves little time for a CA to come back.
pub const SVID_TTL_SHORT: Duration = Duration::from_secs(5 * 60);
/// How long after its end a certificate may still be renewed: a laptop sleeps over a weekend.
pub const RENEW_AFTER_EXPIRY_DEFAULT: Duration = Duration::from_secs(72 * 60 * 60);
pub const RENEW_AFTER_EXPIRY_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How long requests under way may take when the CA is told to end.
pub const DRAIN_DEADLINE_DEFAULT: Duration = Duration::from_secs(10);
pub const DRAIN_DEADLINE_MAX: Duration = Duration::from_secs(10 * 60);

/// A whole, valid configuration.
#[derive(Debug, Clone)]
pub struct Config {
    pub trust_domain: TrustDomain,
    pub data_dir: PathBuf,
    pub listen: SocketAddr,
    pub admin_socket: PathBuf,
    pub svid_ttl: Duration,
    /// Zero: an expired certificate is never renewed.
    pub renew_after_expiry: Duration,
    pub drain_deadline: Duration,
    pub limits: Limits,
    pub log: Log,
}

/// Bounds, each with a default.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Requests under way; one more is refused.
    pub requests_max: usize,
    /// Open connections of workloads; one more is refused.
    pub connections_max: usize,
    /// TLS handshakes under way; when one more comes, the oldest is dropped.
    pub handshakes_pending_max: usize,
    pub handshake_timeout: Duration,
    /// From a request's headers to its answer.
    pub request_timeout: Duration,
    /// A connection is asked to end after this, and to come again if it is needed.
    pub connection_age_max: Duration,
    /// Sidecars that listen; one more is refused.
    pub subscriptions_max: usize,
    /// Sidecars of one identity that listen; one more is refused.
    pub identity_subscriptions_max: usize,
    /// Kinds of reported calls that are kept; for a new one the oldest is dropped.
    pub call_rows_max: usize,
    /// Certificates for one identity, and apart from them its subscriptions: so many a second on average, so many at once.
    pub identity_rate: Rate,
    /// Requests from one address.
    pub address_rate: Rate,
}

/// A token bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    pub per_second: u32,
    pub burst: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests_max: 1024,
            connections_max: 25_000,
            handshakes_pending_max: 512,
            handshake_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(10),
            connection_age_max: Duration::from_secs(10 * 60),
            subscriptions_max: 20_000,
            identity_subscriptions_max: 64,
            call_rows_max: 10_000,
            identity_rate: Rate { per_second: 10, burst: 100 },
            address_rate: Rate { per_second: 1_000, burst: 5_000 },
        }
    }
}

/// What is written to standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    pub json: bool,
    pub level: tracing::Level,
}

impl Default for Log {
    fn default() -> Self {
        Self { json: false, level: tracing::Level::INFO }
    }
}

impl Config {
    /// All defaults.
    pub fn new(trust_domain: TrustDomain, data_dir: PathBuf) -> Self {
        Self {
            trust_domain,
            admin_socket: admin_socket_in(&data_dir),
            data_dir,
            listen: LISTEN_DEFAULT,
            svid_ttl: SVID_TTL_DEFAULT,
            renew_after_expiry: RENEW_AFTER_EXPIRY_DEFAULT,
            drain_deadline: DRAIN_DEADLINE_DEFAULT,
            limits: Limits::default(),
            log: Log::default(),
        }
    }

    /// Reads a file. Paths in it that are relative start at the file's own directory.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        raw::parse(file, &postern_server::config::read(file)?)
    }
}

/// Where the admin socket is unless said otherwise.
pub fn admin_socket_in(data_dir: &Path) -> PathBuf {
    data_dir.join("admin.sock")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        raw::parse(Path::new("/etc/postern/ca.toml"), text).map_err(|error| error.to_string())
    }

    const KEYS: [&str; 22] = [
        "trust_domain",
        "data_dir",
        "listen",
        "admin_socket",
        "svid_ttl",
        "renew_after_expiry",
        "drain_deadline",
        "requests_max",
        "connections_max",
        "handshakes_pending_max",
        "handshake_timeout",
        "request_timeout",
        "connection_age_max",
        "subscriptions_max",
        "identity_subscriptions_max",
        "call_rows_max",
        "identity_per_second",
        "identity_burst",
        "address_per_second",
        "address_burst",
        "format",
        "level",
    ];

    const LEAST: &str = "trust_domain = \"shop.example\"\ndata_dir = \"data\"\n";

    #[test]
    fn the_commented_example_holds_every_key_with_its_default() {
        let text = include_str!("../ca.example.toml");
        let read = parse(text).unwrap();
        let own = Config::new(TrustDomain::new("shop.example").unwrap(), "/etc/postern/data".into());
        assert_eq!(format!("{read:?}"), format!("{own:?}"));
        for key in KEYS {
            assert!(text.contains(&format!("{key} = ")), "{key} is not explained");
        }
    }

    #[test]
    fn two_keys_are_enough() {
        let config = parse(LEAST).unwrap();
        assert_eq!(config.admin_socket, Path::new("/etc/postern/data/admin.sock"));
        assert_eq!(config.listen, LISTEN_DEFAULT);
    }

    #[test]
    fn each_bad_value_is_told_with_file_line_key_value_and_rule() {
        for (line, needles) in [
            ("svid_ttl = \"5s\"", &["svid_ttl", "\"5s\"", "10s"][..]),
            ("svid_ttl = \"25h\"", &["svid_ttl", "\"25h\"", "24h"]),
            ("svid_ttl = \"soon\"", &["svid_ttl", "\"soon\"", "10s"]),
            ("listen = \"localhost\"", &["listen", "\"localhost\"", "127.0.0.1:7443"]),
            ("renew_after_expiry = \"999h\"", &["renew_after_expiry", "\"999h\""]),
            ("svid_tll = \"1h\"", &["svid_tll", "svid_ttl"]),
            ("svid_ttl = 3600", &["svid_ttl", "string"]),
            ("limits = { requests_max = 0 }", &["requests_max", "0", "at least 1"]),
            ("log = { level = \"loud\" }", &["level", "\"loud\"", "info"]),
        ] {
            let error = parse(&format!("{LEAST}{line}\n")).unwrap_err();
            for needle in needles.iter().chain(&["/etc/postern/ca.toml:3:"]) {
                assert!(error.contains(needle), "{needle} is missing in {error}");
            }
        }
    }

    #[test]
    fn all_bad_values_are_told_at_once() {
        let error =
            parse("trust_domain = \"Shop.example\"\ndata_dir = \"d\"\nsvid_ttl = \"1s\"\n").unwrap_err();
        assert!(error.contains("ca.toml:1:") && error.contains("\"shop.example\""), "{error}");
        assert!(error.contains("ca.toml:3:"), "{error}");
    }
}
