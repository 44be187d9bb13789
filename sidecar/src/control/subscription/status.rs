//! How the stream from the CA stands, for `/status` and tests.

use serde::Serialize;
use time::OffsetDateTime;

/// The subscription at one moment.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SubscriptionStatus {
    pub state: SubscriptionState,
    #[serde(with = "time::serde::rfc3339::option")]
    pub connected_at: Option<OffsetDateTime>,
    /// Of the own identity that vouches for the stream.
    pub generation: u64,
    /// How many streams were opened so far.
    pub opened: u64,
    /// What stands in the way, or ended the last stream; absent while connected.
    pub last_error: Option<SubscriptionError>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub next_attempt: Option<OffsetDateTime>,
}

/// Whether the CA can be heard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SubscriptionState {
    /// There is no CA in the configuration.
    #[default]
    Off,
    Connected,
    /// What the CA said last stays in force meanwhile.
    Disconnected,
}

/// Why the CA cannot be heard.
#[derive(Debug, Clone, Serialize)]
pub struct SubscriptionError {
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// A stable word for metrics and alerts.
    pub code: &'static str,
    /// In words, with its causes. Text from others in it is escaped.
    pub reason: String,
}
