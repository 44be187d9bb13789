//! Conversion of a parsed document to a [`Config`].

use std::time::Duration;

use postern_server::config::ConfigError;
use toml::Spanned;

use super::raw::{Document, Raw, RawAccessLog, RawLog, RawShutdown};
use super::rules::Rules;
use super::{
    ACCESS_LOG_LINES_WAITING_DEFAULT, ACCESS_LOG_LINES_WAITING_MAX, AccessLogConfig, AccessLogTarget, Config,
    DRAIN_DEADLINE_MAX, DRAIN_DELAY_MAX, LOG_REPEATS_INTERVAL_MAX, LOG_REPEATS_INTERVAL_MIN, Log, LogFormat,
    Shutdown,
};

impl TryFrom<Document<'_>> for Config {
    type Error = ConfigError;

    fn try_from(document: Document<'_>) -> Result<Self, ConfigError> {
        let Document { file, text, raw } = document;
        let mut rules = Rules::new(file, text);
        let config = rules.config(raw);
        let problems = rules.into_problems();
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(ConfigError::invalid(file, problems)),
        }
    }
}

impl Rules<'_> {
    fn config(&mut self, raw: Raw) -> Option<Config> {
        let identity = match raw.identity {
            Some(identity) => self.identity(identity),
            None => {
                self.refuse(0..0, "identity", "the section is missing; it says where the identity comes from")
            }
        };
        let listeners = self.listeners(raw.inbound, raw.outbound, raw.admin);
        let policy_file = self.path("policy.file", raw.policy.file);
        let limits = self.limits(raw.limits);
        let http = self.http(raw.http);
        let tunnels = self.tunnels(raw.tunnels);
        let shutdown = self.shutdown(raw.shutdown);
        let restart = self.restart(raw.restart, identity.as_ref());
        let log = self.log(raw.log);
        let access_log = raw.access_log.and_then(|raw| self.access_log(raw));
        let (inbounds, outbounds, admin) = listeners?;
        Some(Config {
            identity: identity?,
            inbounds,
            outbounds,
            policy_file,
            admin,
            limits,
            http,
            tunnels,
            shutdown,
            restart,
            log,
            access_log,
        })
    }

    fn shutdown(&mut self, raw: RawShutdown) -> Shutdown {
        let default = Shutdown::default();
        let delay = self.duration("shutdown.drain_delay", raw.drain_delay, Duration::ZERO..=DRAIN_DELAY_MAX);
        let deadline =
            self.duration("shutdown.drain_deadline", raw.drain_deadline, Duration::ZERO..=DRAIN_DEADLINE_MAX);
        Shutdown {
            drain_delay: delay.unwrap_or(default.drain_delay),
            drain_deadline: deadline.unwrap_or(default.drain_deadline),
        }
    }

    fn access_log(&mut self, raw: Spanned<RawAccessLog>) -> Option<AccessLogConfig> {
        let (section, raw) = (raw.span(), raw.into_inner());
        let lines =
            self.count("access_log.lines_waiting_max", raw.lines_waiting_max, ACCESS_LOG_LINES_WAITING_MAX);
        let to = self.demand(&section, "access_log.to", raw.to)?;
        let to = match to.as_ref().as_str() {
            "stdout" => AccessLogTarget::Stdout,
            "stderr" => AccessLogTarget::Stderr,
            _ => AccessLogTarget::File(self.path("access_log.to", Some(to))?),
        };
        let lines_waiting_max = lines.unwrap_or(ACCESS_LOG_LINES_WAITING_DEFAULT);
        Some(AccessLogConfig { to, lines_waiting_max })
    }

    fn log(&mut self, raw: RawLog) -> Log {
        let format =
            self.one_of("log.format", raw.format, &[("text", LogFormat::Text), ("json", LogFormat::Json)]);
        let level = self.one_of("log.level", raw.level, LEVELS);
        let repeats_interval = self.duration(
            "log.repeats_interval",
            raw.repeats_interval,
            LOG_REPEATS_INTERVAL_MIN..=LOG_REPEATS_INTERVAL_MAX,
        );
        let default = Log::default();
        Log {
            format: format.unwrap_or(default.format),
            level: level.unwrap_or(default.level),
            repeats_interval: repeats_interval.unwrap_or(default.repeats_interval),
        }
    }
}

const LEVELS: &[(&str, tracing::Level)] = &[
    ("error", tracing::Level::ERROR),
    ("warn", tracing::Level::WARN),
    ("info", tracing::Level::INFO),
    ("debug", tracing::Level::DEBUG),
    ("trace", tracing::Level::TRACE),
];
