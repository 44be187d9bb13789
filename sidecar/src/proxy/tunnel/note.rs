//! The problem document of a REFUSE or RESET, as far as it is usable.

use serde::Deserialize;

/// The peer's refusal (RFC 9457). It is text from the peer: display it escaped.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Note {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    title: String,
    detail: Option<String>,
    /// The number of the entry in the peer's log.
    pub instance: Option<String>,
}

impl Note {
    /// Parses a document; an invalid one yields an empty note.
    pub fn read(document: &[u8]) -> Self {
        serde_json::from_slice(document).unwrap_or_default()
    }

    /// The reason code, as far as known.
    pub fn reason(&self) -> &'static str {
        let code = self.kind.strip_prefix("urn:postern:").unwrap_or_default();
        REASONS.iter().find_map(|(theirs, ours)| (*theirs == code).then_some(*ours)).unwrap_or("refused")
    }

    /// The detail.
    pub fn detail(&self) -> &str {
        match &self.detail {
            Some(detail) => detail,
            None if self.title.is_empty() => "it does not say why",
            None => &self.title,
        }
    }
}

/// The server's reason codes, and the client's codes for them.
const REASONS: &[(&str, &str)] = &[
    ("denied", "access_denied"),
    ("no_policy", "access_denied"),
    ("withdrawn", "withdrawn"),
    ("revoked", "certificate_revoked"),
    ("root_removed", "unknown_ca"),
    ("peer_expired", "certificate_expired"),
    ("wrong_port", "wrong_port"),
    ("app_unreachable", "app_unreachable"),
    ("connections_per_peer_max", "connections_per_peer_max"),
    ("idle_timeout", "idle_timeout"),
    ("half_closed_timeout", "half_closed_timeout"),
    ("no_identity", "peer_failed"),
    ("own_identity_expired", "peer_failed"),
    ("own_identity_revoked", "peer_failed"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_read_and_anything_else_says_nothing() {
        let note = Note::read(
            br#"{"type":"urn:postern:denied","title":"t","status":403,"detail":"no rule","more":1}"#,
        );
        assert_eq!((note.reason(), note.detail()), ("access_denied", "no rule"));
        for nothing in [&b""[..], b"{", b"[1]", b"\xff", br#"{"type":5}"#] {
            let note = Note::read(nothing);
            assert_eq!((note.reason(), note.detail()), ("refused", "it does not say why"));
        }
    }
}
