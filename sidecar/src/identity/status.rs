//! The own identity at one moment, for status, metrics and readiness.

use postern_proto::identity::SpiffeId;
use serde::{Serialize, Serializer};
use time::OffsetDateTime;

/// The own identity at one moment, for `/status`, metrics and readiness. Whether it has expired, the reader's clock
/// says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct IdentityStatus {
    /// Absent until there is a certificate.
    #[serde(serialize_with = "as_text")]
    pub id: Option<SpiffeId>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub not_before: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub not_after: Option<OffsetDateTime>,
    /// Of [`super::credentials::Credentials`]: 0 until there are any.
    pub generation: u64,
    /// How often a certificate was replaced by a newer one.
    pub rotations: u64,
    /// How often getting one failed.
    pub failures: u64,
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_success: Option<OffsetDateTime>,
    /// What stands in the way since the last success, if anything.
    pub last_error: Option<IdentityError>,
    /// When the CA is asked next; absent where the identity comes from files.
    #[serde(with = "time::serde::rfc3339::option")]
    pub next_attempt: Option<OffsetDateTime>,
}

/// A failure to get a fresh identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IdentityError {
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// A stable word for metrics and alerts.
    pub code: &'static str,
    /// In words, with its causes. Text from others in it is escaped.
    pub reason: String,
}

fn as_text<S: Serializer>(id: &Option<SpiffeId>, serializer: S) -> Result<S::Ok, S::Error> {
    id.as_ref().map(SpiffeId::as_str).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_has_a_json_form() {
        let json = serde_json::to_value(IdentityStatus::default()).unwrap();
        assert_eq!((json["id"].is_null(), json["rotations"].as_u64()), (true, Some(0)));
    }
}
