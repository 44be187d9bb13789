//! `[limits]`: limits and timeouts of connections.

use std::time::Duration;

use super::raw::{RawLimits, Text};
use super::rules::Rules;
use super::{
    CONNECT_TIMEOUT_DEFAULT, CONNECTION_IDLE_TIMEOUT_DEFAULT, CONNECTIONS_DEFAULT, CONNECTIONS_MAX,
    CONNECTIONS_PER_PEER_PART, DEAD_AFTER_DEFAULT, DEAD_AFTER_MIN, HALF_CLOSED_TIMEOUT_DEFAULT,
    HANDSHAKE_TIMEOUT_DEFAULT, HANDSHAKES_PENDING_DEFAULT, HANDSHAKES_PENDING_MAX, HANDSHAKES_PENDING_PART,
    IDLE_TIMEOUT_MAX, LASTING_MAX, LASTING_MIN, PEER_SERIES_DEFAULT, PEER_SERIES_MAX, TIMEOUT_MAX,
    TIMEOUT_MIN,
};
use postern_server::config::{format_duration, parse_duration};

/// Limits, each with a default.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections per inbound that carry no traffic yet. One more drops the oldest.
    pub handshakes_pending_max: usize,
    /// From accept to the end of the handshake.
    pub handshake_timeout: Duration,
    /// Timeout of a connection attempt to an app or a peer.
    pub connect_timeout: Duration,
    /// Open connections per listener.
    pub connections_max: usize,
    /// Open connections of one identity at one inbound.
    pub connections_per_peer_max: usize,
    /// A peer that acknowledges nothing for this time is considered dead.
    pub dead_after: Duration,
    /// Timeout of a TCP connection without data in either direction.
    pub idle_timeout: Duration,
    /// Timeout of a TCP connection of which one direction has ended, without data in the other.
    pub half_closed_timeout: Duration,
    pub max_connection_age: MaxAge,
    /// Maximum number of peers with their own metric series, counted per listener.
    pub peer_series_max: usize,
}

/// Maximum age of a connection that is not re-authenticated with newer certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MaxAge {
    #[default]
    Off,
    After(Duration),
    /// Until the first of the two certificates of its handshake expires.
    Svid,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshakes_pending_max: HANDSHAKES_PENDING_DEFAULT,
            handshake_timeout: HANDSHAKE_TIMEOUT_DEFAULT,
            connect_timeout: CONNECT_TIMEOUT_DEFAULT,
            connections_max: CONNECTIONS_DEFAULT,
            connections_per_peer_max: CONNECTIONS_DEFAULT.div_ceil(CONNECTIONS_PER_PEER_PART),
            dead_after: DEAD_AFTER_DEFAULT,
            idle_timeout: CONNECTION_IDLE_TIMEOUT_DEFAULT,
            half_closed_timeout: HALF_CLOSED_TIMEOUT_DEFAULT,
            max_connection_age: MaxAge::default(),
            peer_series_max: PEER_SERIES_DEFAULT,
        }
    }
}

impl Rules<'_> {
    pub(super) fn limits(&mut self, raw: RawLimits) -> Limits {
        let default = Limits::default();
        let pending =
            self.count("limits.handshakes_pending_max", raw.handshakes_pending_max, HANDSHAKES_PENDING_MAX);
        let connections = self.count("limits.connections_max", raw.connections_max, CONNECTIONS_MAX);
        let connections = connections.unwrap_or(default.connections_max);
        let per_peer =
            self.count("limits.connections_per_peer_max", raw.connections_per_peer_max, connections);
        let handshake =
            self.duration("limits.handshake_timeout", raw.handshake_timeout, TIMEOUT_MIN..=TIMEOUT_MAX);
        let connect = self.duration("limits.connect_timeout", raw.connect_timeout, TIMEOUT_MIN..=TIMEOUT_MAX);
        let dead_after =
            self.duration("limits.dead_after", raw.dead_after, DEAD_AFTER_MIN..=IDLE_TIMEOUT_MAX);
        let idle = self.duration("limits.idle_timeout", raw.idle_timeout, LASTING_MIN..=LASTING_MAX);
        let half_closed =
            self.duration("limits.half_closed_timeout", raw.half_closed_timeout, LASTING_MIN..=LASTING_MAX);
        let peer_series = self.count("limits.peer_series_max", raw.peer_series_max, PEER_SERIES_MAX);
        let age = self.max_age("limits.max_connection_age", raw.max_connection_age);
        Limits {
            handshakes_pending_max: pending
                .unwrap_or(default.handshakes_pending_max)
                .min(connections.div_ceil(HANDSHAKES_PENDING_PART)),
            handshake_timeout: handshake.unwrap_or(default.handshake_timeout),
            connect_timeout: connect.unwrap_or(default.connect_timeout),
            connections_max: connections,
            connections_per_peer_max: per_peer.unwrap_or(connections.div_ceil(CONNECTIONS_PER_PEER_PART)),
            dead_after: dead_after.unwrap_or(default.dead_after),
            idle_timeout: idle.unwrap_or(default.idle_timeout),
            half_closed_timeout: half_closed.unwrap_or(default.half_closed_timeout),
            max_connection_age: age.unwrap_or_default(),
            peer_series_max: peer_series.unwrap_or(default.peer_series_max),
        }
    }

    fn max_age(&mut self, key: &str, value: Text) -> Option<MaxAge> {
        let value = value?;
        match (value.as_ref().as_str(), parse_duration(value.as_ref())) {
            ("off", _) => Some(MaxAge::Off),
            ("svid", _) => Some(MaxAge::Svid),
            (_, Ok(age)) if (LASTING_MIN..=LASTING_MAX).contains(&age) => Some(MaxAge::After(age)),
            _ => {
                let (min, max) = (format_duration(LASTING_MIN), format_duration(LASTING_MAX));
                let rule = format!("must be \"off\", \"svid\" or from {min} to {max}, written as \"1h\"");
                self.refuse_value(key, &value, &rule)
            }
        }
    }
}

impl MaxAge {
    /// The value in configuration syntax.
    pub fn show(self) -> String {
        match self {
            Self::Off => "off".to_owned(),
            Self::After(age) => format_duration(age),
            Self::Svid => "svid".to_owned(),
        }
    }
}
