//! `ca.toml` as it is written, and the one step from there to a valid configuration.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use postern_proto::identity::TrustDomain;
use serde::Deserialize;
use toml::Spanned;

use super::problem::Problem;
use super::{
    Config, ConfigError, DRAIN_DEADLINE_MAX, Limits, Log, RENEW_AFTER_EXPIRY_MAX, SVID_TTL_MAX, SVID_TTL_MIN,
};
use crate::duration::{self, ParseDurationError};

/// Every key, for suggestions.
pub(super) const KEYS: [&str; 22] = [
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
    let raw: Raw = toml::from_str(text).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        // The key stands on the line of what is wrong with it.
        let line_start =
            text.get(..span.start).and_then(|before| before.rfind('\n')).map_or(0, |end| end + 1);
        let line = text.get(line_start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
        let near = nearest(text.get(span.clone()).unwrap_or_default());
        let hint = near.map(|key| format!("; did you mean {key:?}?")).unwrap_or_default();
        let shown = format!("{}: {}{hint}", line.trim(), error.message().replace('\n', "; "));
        ConfigError::Invalid { problems: vec![Problem::new(file, text, span, shown)] }
    })?;
    let mut reader = Reader { file, text, problems: Vec::new() };
    let config = reader.config(&raw);
    match config {
        Some(config) if reader.problems.is_empty() => Ok(config),
        _ => Err(ConfigError::Invalid { problems: reader.problems }),
    }
}

/// The known key that an unknown one was meant to be.
fn nearest(key: &str) -> Option<&'static str> {
    let near = |known: &&str| *known != key && strsim::damerau_levenshtein(known, key) <= 2;
    KEYS.into_iter().find(near)
}

struct Reader<'a> {
    file: &'a Path,
    text: &'a str,
    problems: Vec<Problem>,
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
            ("handshake_timeout", &raw.handshake_timeout, &mut limits.handshake_timeout, TIMEOUT_MAX),
            ("request_timeout", &raw.request_timeout, &mut limits.request_timeout, TIMEOUT_MAX),
            ("connection_age_max", &raw.connection_age_max, &mut limits.connection_age_max, AGE_MAX),
        ] {
            *limit = self.duration(key, given.as_ref(), TIMEOUT_MIN..=most).unwrap_or(*limit);
        }
        for (key, given, count) in [
            ("requests_max", &raw.requests_max, &mut limits.requests_max),
            ("connections_max", &raw.connections_max, &mut limits.connections_max),
            ("handshakes_pending_max", &raw.handshakes_pending_max, &mut limits.handshakes_pending_max),
            ("subscriptions_max", &raw.subscriptions_max, &mut limits.subscriptions_max),
            (
                "identity_subscriptions_max",
                &raw.identity_subscriptions_max,
                &mut limits.identity_subscriptions_max,
            ),
            ("call_rows_max", &raw.call_rows_max, &mut limits.call_rows_max),
        ] {
            self.count(key, given.as_ref(), count);
        }
        let (identity, address) = (&mut limits.identity_rate, &mut limits.address_rate);
        for (key, given, count) in [
            ("identity_per_second", &raw.identity_per_second, &mut identity.per_second),
            ("identity_burst", &raw.identity_burst, &mut identity.burst),
            ("address_per_second", &raw.address_per_second, &mut address.per_second),
            ("address_burst", &raw.address_burst, &mut address.burst),
        ] {
            self.count(key, given.as_ref(), count);
        }
        limits
    }

    fn log(&mut self, raw: &RawLog) -> Log {
        let mut log = Log::default();
        if let Some(format) = &raw.format {
            let read = self.value("format", format, |text| match text {
                "text" => Ok(false),
                "json" => Ok(true),
                _ => Err("write \"text\" or \"json\""),
            });
            log.json = read.unwrap_or(log.json);
        }
        if let Some(level) = &raw.level {
            let rule = |_| "write \"error\", \"warn\", \"info\", \"debug\" or \"trace\"";
            log.level = self.value("level", level, |text| text.parse().map_err(rule)).unwrap_or(log.level);
        }
        log
    }

    fn duration(
        &mut self,
        key: &str,
        given: Option<&Spanned<String>>,
        allowed: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let (least, most) = (duration::show(*allowed.start()), duration::show(*allowed.end()));
        self.value(key, given?, |text| match duration::parse(text) {
            Ok(read) if allowed.contains(&read) => Ok(read),
            Ok(_) => Err(format!("it must lie between {least} and {most}")),
            Err(ParseDurationError) => Err(format!("{ParseDurationError}, between {least} and {most}")),
        })
    }

    fn count<N: TryFrom<i64>>(&mut self, key: &str, given: Option<&Spanned<i64>>, count: &mut N) {
        let Some(given) = given else { return };
        let value = *given.get_ref();
        match N::try_from(value).ok().filter(|_| (1..=COUNT_MAX).contains(&value)) {
            Some(read) => *count = read,
            None => {
                let text = format!("{key} = {value}: it must be at least 1 and at most {COUNT_MAX}");
                self.problems.push(Problem::new(self.file, self.text, given.span(), text));
            }
        }
    }

    fn value<T, E: Display>(
        &mut self,
        key: &str,
        given: &Spanned<String>,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let value = given.get_ref();
        let tell = |error| {
            let text = format!("{key} = {value:?}: {error}");
            self.problems.push(Problem::new(self.file, self.text, given.span(), text));
        };
        read(value).map_err(tell).ok()
    }

    /// A relative path starts where the file is.
    fn path(&self, given: &str) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("")).join(given)
    }
}
