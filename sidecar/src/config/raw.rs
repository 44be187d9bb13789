//! The deserialized `sidecar.toml`: keys and types, before validation.

use std::path::Path;

use postern_server::config::{ConfigError, ConfigProblem};
use serde::Deserialize;
use toml::Spanned;

/// A file whose keys are all known and have the right type.
pub(super) struct Document<'a> {
    pub(super) file: &'a Path,
    pub(super) text: &'a str,
    pub(super) raw: Raw,
}

impl<'a> Document<'a> {
    pub(super) fn new(file: &'a Path, text: &'a str) -> Result<Self, ConfigError> {
        let raw = toml::from_str(text)
            .map_err(|error| ConfigError::invalid(file, vec![ConfigProblem::of_syntax(text, &error)]))?;
        Ok(Self { file, text, raw })
    }
}

pub(super) type Text = Option<Spanned<String>>;
pub(super) type Count = Option<Spanned<i64>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) identity: Option<Spanned<RawIdentity>>,
    #[serde(default)]
    pub(super) inbound: Vec<Spanned<RawInbound>>,
    #[serde(default)]
    pub(super) outbound: Vec<Spanned<RawOutbound>>,
    #[serde(default)]
    pub(super) policy: RawPolicy,
    #[serde(default)]
    pub(super) admin: RawAdmin,
    #[serde(default)]
    pub(super) limits: RawLimits,
    #[serde(default)]
    pub(super) http: RawHttp,
    #[serde(default)]
    pub(super) tunnels: RawTunnels,
    #[serde(default)]
    pub(super) shutdown: RawShutdown,
    #[serde(default)]
    pub(super) restart: RawRestart,
    #[serde(default)]
    pub(super) log: RawLog,
    pub(super) access_log: Option<Spanned<RawAccessLog>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawIdentity {
    pub(super) ca: Text,
    pub(super) join_token_file: Text,
    pub(super) join_token_env: Text,
    pub(super) state_dir: Text,
    pub(super) svid_file: Text,
    pub(super) key_file: Text,
    pub(super) bundle_file: Text,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawInbound {
    pub(super) name: Text,
    pub(super) listen: Text,
    pub(super) app: Text,
    pub(super) protocol: Text,
    pub(super) app_http: Text,
    pub(super) tell_callers: Text,
    pub(super) proxy_protocol: Text,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOutbound {
    pub(super) listen: Text,
    pub(super) service: Text,
    pub(super) id: Text,
    pub(super) to: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) protocol: Text,
    pub(super) port: Text,
    #[serde(default)]
    pub(super) allow_non_loopback: bool,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPolicy {
    pub(super) file: Text,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAdmin {
    pub(super) listen: Text,
    #[serde(default)]
    pub(super) allow_non_loopback: bool,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimits {
    pub(super) handshakes_pending_max: Count,
    pub(super) connections_max: Count,
    pub(super) connections_per_peer_max: Count,
    pub(super) handshake_timeout: Text,
    pub(super) connect_timeout: Text,
    pub(super) dead_after: Text,
    pub(super) idle_timeout: Text,
    pub(super) half_closed_timeout: Text,
    pub(super) max_connection_age: Text,
    pub(super) peer_series_max: Count,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHttp {
    pub(super) header_bytes_max: Count,
    pub(super) headers_max: Count,
    pub(super) uri_bytes_max: Count,
    pub(super) streams_max: Count,
    pub(super) http2_connections_max: Count,
    pub(super) requests_per_peer_max: Count,
    pub(super) expanded_bytes_per_peer_max: Count,
    pub(super) header_timeout: Text,
    pub(super) idle_timeout: Text,
    pub(super) stream_idle_timeout: Text,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTunnels {
    pub(super) idle_max: Count,
    pub(super) idle_timeout: Text,
    pub(super) age_max: Text,
    pub(super) leases_max: Count,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawShutdown {
    pub(super) drain_delay: Text,
    pub(super) drain_deadline: Text,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRestart {
    pub(super) socket: Text,
    pub(super) ready_within: Text,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLog {
    pub(super) format: Text,
    pub(super) level: Text,
    pub(super) repeats_interval: Text,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAccessLog {
    pub(super) to: Text,
    pub(super) lines_waiting_max: Count,
}
