//! The handover messages: one JSON object each, limited in size, without secrets.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The supported protocol versions. `hello` and `refuse` are the same in all of them.
pub(super) const VERSION_OLDEST: u32 = 1;
pub(super) const VERSION_NEWEST: u32 = 1;

/// Maximum size of a message, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 4096;

/// The messages, in protocol order. Unknown fields are ignored, for later versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Message {
    /// New process: requests the listeners.
    Hello { oldest: u32, newest: u32 },
    /// Old process: the number of listeners that follow.
    Offer { version: u32, listeners: usize },
    /// Old process: one listener; its socket is attached.
    Listener(ListenerKey),
    /// New process: it has identity, policy and all its listeners.
    Ready,
    /// Old process: agrees, and accepts until it receives `Serving`.
    Yours,
    /// New process: accepts; the old one may stop.
    Serving,
    /// Either process: aborts, with the reason.
    Refuse { reason: String },
}

/// The key of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerKey {
    pub kind: ListenerKind,
    /// An inbound's name or an outbound's target.
    pub name: String,
    /// The configured address; port 0 is any port.
    pub address: SocketAddr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListenerKind {
    Inbound,
    Outbound,
    Admin,
}

impl fmt::Display for ListenerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            ListenerKind::Inbound => write!(f, "inbound {}", self.name),
            ListenerKind::Outbound => write!(f, "outbound {}", self.name),
            ListenerKind::Admin => f.write_str("admin"),
        }
    }
}

/// Why bytes are not a valid message.
#[derive(Debug, Error)]
pub enum MessageError {
    #[error("a message has more than the {MESSAGE_BYTES_MAX} bytes allowed")]
    TooLong,
    #[error("{bytes} bytes are no message of a restart")]
    Unreadable {
        bytes: usize,
        #[source]
        cause: serde_json::Error,
    },
}

impl Message {
    pub(super) fn hello() -> Self {
        Self::Hello { oldest: VERSION_OLDEST, newest: VERSION_NEWEST }
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>, MessageError> {
        let bytes = serde_json::to_vec(self).map_err(|cause| MessageError::Unreadable { bytes: 0, cause })?;
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(MessageError::TooLong);
        }
        Ok(bytes)
    }

    /// Decodes a message and escapes the control characters of its text for the log.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(MessageError::TooLong);
        }
        let unreadable = |cause| MessageError::Unreadable { bytes: bytes.len(), cause };
        Ok(match serde_json::from_slice(bytes).map_err(unreadable)? {
            Self::Refuse { reason } => Self::Refuse { reason: without_control_characters(&reason) },
            message => message,
        })
    }

    /// The message's name, for errors.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Hello { .. } => "hello",
            Self::Offer { .. } => "offer",
            Self::Listener(_) => "listener",
            Self::Ready => "ready",
            Self::Yours => "yours",
            Self::Serving => "serving",
            Self::Refuse { .. } => "refuse",
        }
    }
}

fn without_control_characters(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().collect() } else { String::from(c) };
    text.chars().map(escape).collect()
}

/// The newest version that both processes support.
pub(super) fn negotiate(oldest: u32, newest: u32) -> Option<u32> {
    let version = newest.min(VERSION_NEWEST);
    (version >= VERSION_OLDEST && version >= oldest).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_is_read_as_it_was_said() {
        let key = ListenerKey {
            kind: ListenerKind::Outbound,
            name: "payments".into(),
            address: "[::1]:9001".parse().unwrap(),
        };
        for message in [
            Message::hello(),
            Message::Offer { version: 1, listeners: 513 },
            Message::Listener(key),
            Message::Ready,
            Message::Yours,
            Message::Serving,
            Message::Refuse { reason: "no".into() },
        ] {
            let bytes = message.encode().unwrap();
            assert_eq!(Message::decode(&bytes).unwrap(), message);
            assert!(String::from_utf8(bytes).unwrap().contains(message.name()));
        }
    }

    #[test]
    fn invalid_message_is_refused() {
        let long = format!("{{\"refuse\":{{\"reason\":\"{}\"}}}}", "x".repeat(MESSAGE_BYTES_MAX));
        assert!(matches!(Message::decode(long.as_bytes()), Err(MessageError::TooLong)));
        assert!(matches!(
            Message::Refuse { reason: "x".repeat(MESSAGE_BYTES_MAX) }.encode(),
            Err(MessageError::TooLong)
        ));
        for text in
            ["", "GET / HTTP/1.1\r\n\r\n", "{}", "\"hello\"", "{\"hello\":{}}", "\"ready\" \"ready\"", "\0"]
        {
            assert!(
                matches!(Message::decode(text.as_bytes()), Err(MessageError::Unreadable { .. })),
                "{text}"
            );
        }
        let negative = r#"{"offer":{"version":1,"listeners":-1}}"#;
        assert!(Message::decode(negative.as_bytes()).is_err());
    }

    #[test]
    fn a_later_version_may_add_fields_and_text_is_fit_for_a_log() {
        let later = r#"{"hello":{"oldest":1,"newest":7,"colour":"blue"}}"#;
        assert_eq!(Message::decode(later.as_bytes()).unwrap(), Message::Hello { oldest: 1, newest: 7 });
        let lines = r#"{"refuse":{"reason":"a\nlevel=ERROR \u001b[2J"}}"#;
        let Message::Refuse { reason } = Message::decode(lines.as_bytes()).unwrap() else { panic!() };
        assert!(!reason.contains(['\n', '\u{1b}']), "{reason}");
        let quoted = Message::Refuse { reason: r#"port "api" isn't free: C:\x"#.to_owned() };
        assert_eq!(
            Message::decode(&quoted.encode().unwrap()).unwrap(),
            quoted,
            "quotes are no harm to a log"
        );
    }

    #[test]
    fn the_newest_common_version_is_spoken() {
        assert_eq!(negotiate(1, 1), Some(1));
        assert_eq!(negotiate(1, 9), Some(1));
        assert_eq!(negotiate(2, 9), None);
        assert_eq!(negotiate(0, 0), None);
        assert_eq!(negotiate(3, 2), None, "nonsense");
    }
}
