//! The status of the subscription, for `/status` and tests.

use serde::Serialize;
use time::OffsetDateTime;

/// The status of the subscription at one moment.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SubscriptionStatus {
    pub state: SubscriptionState,
    #[serde(with = "time::serde::rfc3339::option")]
    pub connected_at: Option<OffsetDateTime>,
    /// Generation of the credentials that authenticate the stream.
    pub generation: u64,
    /// Number of streams that were opened so far.
    pub opened: u64,
    /// Why there is no stream, or why the last one ended; absent while connected.
    pub last_error: Option<SubscriptionError>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub next_attempt: Option<OffsetDateTime>,
}

/// Whether the stream is connected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SubscriptionState {
    /// No CA is configured.
    #[default]
    Off,
    Connected,
    /// The last state that the CA sent stays in force.
    Disconnected,
}

/// Why the stream is not connected.
#[derive(Debug, Clone, Serialize)]
pub struct SubscriptionError {
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// A stable code for metrics and alerts.
    pub code: &'static str,
    /// The error message with its causes. Text from the CA is escaped.
    pub reason: String,
}
