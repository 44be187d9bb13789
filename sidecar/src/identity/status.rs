//! The status of the sidecar's identity.

use postern_proto::identity::SpiffeId;
use serde::{Serialize, Serializer};
use time::OffsetDateTime;

/// The sidecar's identity at one moment, for `/status`, metrics and readiness. It holds no `expired` flag: readers
/// compare `not_after` with their clock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct IdentityStatus {
    /// Absent until there is a certificate.
    #[serde(serialize_with = "as_text")]
    pub id: Option<SpiffeId>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub not_before: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub not_after: Option<OffsetDateTime>,
    /// Generation of [`super::credentials::Credentials`]; 0 until there are any.
    pub generation: u64,
    /// Number of times that a certificate was replaced by a newer one.
    pub rotations: u64,
    /// Number of failed attempts.
    pub failures: u64,
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_success: Option<OffsetDateTime>,
    /// The last error since the last success, if any.
    pub last_error: Option<IdentityError>,
    /// Time of the next request to the CA; absent if the identity comes from files.
    #[serde(with = "time::serde::rfc3339::option")]
    pub next_attempt: Option<OffsetDateTime>,
}

/// A failed attempt to get a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IdentityError {
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// A stable code for metrics and alerts.
    pub code: &'static str,
    /// The error message with its causes. Text from the CA or from files is escaped.
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
