//! `ca.toml` as it is written, and the one step from there to a valid configuration.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use postern_proto::identity::TrustDomain;
use postern_server::config::{ConfigError, ConfigProblem, DurationError, format_duration, parse_duration};
use serde::Deserialize;
use toml::Spanned;

use super::{Config, DRAIN_DEADLINE_MAX, Limits, Log, RENEW_AFTER_EXPIRY_MAX, SVID_TTL_MAX, SVID_TTL_MIN};

const COUNT_MAX: i64 = 10_000_000;
const TIMEOUT_MIN: Duration = Duration::from_millis(10);
const TIMEOUT_MAX: Duration = Duration::from_secs(5 * 60);
const AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    trust_domain: Spanned<String>,
    data_dir: Spanned<String>,
    listen: Option<Spanned<String>>,
    admin_socket: Option<Spanned<String>>,
    svid_ttl: Option<Spanned<String>>,
    renew_after_expiry: Option<Spanned<String>>,
    drain_deadline: Option<Spanned<String>>,
    #[serde(default)]
    limits: RawLimits,
    #[serde(default)]
    log: RawLog,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLimits {
    requests_max: Option<Spanned<i64>>,
    connections_max: Option<Spanned<i64>>,
    handshakes_pending_max: Option<Spanned<i64>>,
    handshake_timeout: Option<Spanned<String>>,
    request_timeout: Option<Spanned<String>>,
    connection_age_max: Option<Spanned<String>>,
    subscriptions_max: Option<Spanned<i64>>,
    identity_subscriptions_max: Option<Spanned<i64>>,
    call_rows_max: Option<Spanned<i64>>,
    identity_per_second: Option<Spanned<i64>>,
    identity_burst: Option<Spanned<i64>>,
    address_per_second: Option<Spanned<i64>>,
    address_burst: Option<Spanned<i64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLog {
    format: Option<Spanned<String>>,
    level: Option<Spanned<String>>,
}

/// Reads a text; `file` is its name in messages and the start of relative paths.
pub(super) fn parse(file: &Path, text: &str) -> Result<Config, ConfigError> {
    let raw: Raw = toml::from_str(text)
        .map_err(|error| ConfigError::invalid(file, vec![ConfigProblem::of_syntax(text, &error)]))?;
    let mut reader = Reader { file, text, problems: Vec::new() };
    let config = reader.config(&raw);
    match config {
        Some(config) if reader.problems.is_empty() => Ok(config),
        _ => Err(ConfigError::invalid(file, reader.problems)),
    }
}

struct Reader<'a> {
    file: &'a Path,
    text: &'a str,
    problems: Vec<ConfigProblem>,
}

impl Reader<'_> {
    fn config(&mut self, raw: &Raw) -> Option<Config> {
        let trust_domain = self.value("trust_domain", &raw.trust_domain, TrustDomain::new);
        let data_dir = self.path(raw.data_dir.get_ref());
        let ttl = self.duration("svid_ttl", raw.svid_ttl.as_ref(), SVID_TTL_MIN..=SVID_TTL_MAX);
        let after = self.duration(
            "renew_after_expiry",
            raw.renew_after_expiry.as_ref(),
            Duration::ZERO..=RENEW_AFTER_EXPIRY_MAX,
        );
        let drain =
            self.duration("drain_deadline", raw.drain_deadline.as_ref(), Duration::ZERO..=DRAIN_DEADLINE_MAX);
        let listen = raw.listen.as_ref().and_then(|listen| {
            let rule = |_| "write an address and a port, as in \"127.0.0.1:7443\"";
            self.value("listen", listen, |text| text.parse::<SocketAddr>().map_err(rule))
        });
        let limits = self.limits(&raw.limits);
        let log = self.log(&raw.log);
        let mut config = Config::new(trust_domain?, data_dir);
        config.listen = listen.unwrap_or(config.listen);
        config.svid_ttl = ttl.unwrap_or(config.svid_ttl);
        config.renew_after_expiry = after.unwrap_or(config.renew_after_expiry);
        config.drain_deadline = drain.unwrap_or(config.drain_deadline);
        if let Some(socket) = &raw.admin_socket {
            config.admin_socket = self.path(socket.get_ref());
        }
        (config.limits, config.log) = (limits, log);
        Some(config)
    }

    fn limits(&mut self, raw: &RawLimits) -> Limits {
        let mut limits = Limits::default();
        for (key, given, limit, most) in [
            ("limits.handshake_timeout", &raw.handshake_timeout, &mut limits.handshake_timeout, TIMEOUT_MAX),
            ("limits.request_timeout", &raw.request_timeout, &mut limits.request_timeout, TIMEOUT_MAX),
            ("limits.connection_age_max", &raw.connection_age_max, &mut limits.connection_age_max, AGE_MAX),
        ] {
            *limit = self.duration(key, given.as_ref(), TIMEOUT_MIN..=most).unwrap_or(*limit);
        }
        for (key, given, count) in [
            ("limits.requests_max", &raw.requests_max, &mut limits.requests_max),
            ("limits.connections_max", &raw.connections_max, &mut limits.connections_max),
            (
                "limits.handshakes_pending_max",
                &raw.handshakes_pending_max,
                &mut limits.handshakes_pending_max,
            ),
            ("limits.subscriptions_max", &raw.subscriptions_max, &mut limits.subscriptions_max),
            (
                "limits.identity_subscriptions_max",
                &raw.identity_subscriptions_max,
                &mut limits.identity_subscriptions_max,
            ),
            ("limits.call_rows_max", &raw.call_rows_max, &mut limits.call_rows_max),
        ] {
            self.count(key, given.as_ref(), count);
        }
        let (identity, address) = (&mut limits.identity_rate, &mut limits.address_rate);
        for (key, given, count) in [
            ("limits.identity_per_second", &raw.identity_per_second, &mut identity.per_second),
            ("limits.identity_burst", &raw.identity_burst, &mut identity.burst),
            ("limits.address_per_second", &raw.address_per_second, &mut address.per_second),
            ("limits.address_burst", &raw.address_burst, &mut address.burst),
        ] {
            self.count(key, given.as_ref(), count);
        }
        limits
    }

    fn log(&mut self, raw: &RawLog) -> Log {
        let mut log = Log::default();
        if let Some(format) = &raw.format {
            let read = self.value("log.format", format, |text| match text {
                "text" => Ok(false),
                "json" => Ok(true),
                _ => Err("write \"text\" or \"json\""),
            });
            log.json = read.unwrap_or(log.json);
        }
        if let Some(level) = &raw.level {
            let rule = |_| "write \"error\", \"warn\", \"info\", \"debug\" or \"trace\"";
            log.level =
                self.value("log.level", level, |text| text.parse().map_err(rule)).unwrap_or(log.level);
        }
        log
    }

    fn duration(
        &mut self,
        key: &str,
        given: Option<&Spanned<String>>,
        allowed: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let (least, most) = (format_duration(*allowed.start()), format_duration(*allowed.end()));
        self.value(key, given?, |text| match parse_duration(text) {
            Ok(read) if allowed.contains(&read) => Ok(read),
            Ok(_) => Err(format!("it must lie between {least} and {most}")),
            Err(DurationError) => Err(format!("{DurationError}, between {least} and {most}")),
        })
    }

    fn count<N: TryFrom<i64>>(&mut self, key: &str, given: Option<&Spanned<i64>>, count: &mut N) {
        let Some(given) = given else { return };
        let value = *given.get_ref();
        match N::try_from(value).ok().filter(|_| (1..=COUNT_MAX).contains(&value)) {
            Some(read) => *count = read,
            None => {
                let rule = format!("it must be at least 1 and at most {COUNT_MAX}");
                self.problems.push(ConfigProblem::at(self.text, given.span(), key.to_owned(), rule));
            }
        }
    }

    fn value<T, E: Display>(
        &mut self,
        key: &str,
        given: &Spanned<String>,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let report = |error: E| {
            let problem = ConfigProblem::at(self.text, given.span(), key.to_owned(), error.to_string());
            self.problems.push(problem);
        };
        read(given.get_ref()).map_err(report).ok()
    }

    /// A relative path starts where the file is.
    fn path(&self, given: &str) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("")).join(given)
    }
}
