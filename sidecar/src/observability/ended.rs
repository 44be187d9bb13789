//! Termination details of a connection or request: which side ended it, and how.

use std::io;

use serde::ser::{Serialize, Serializer};

use super::direction::Direction;

/// Which side ended a connection or request, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    pub by: EndedBy,
    pub with: EndedWith,
}

/// The side that ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndedBy {
    /// The client: the peer at an inbound, the app at an outbound.
    Caller,
    /// The server: the app at an inbound, the peer at an outbound.
    Called,
    /// This sidecar.
    Sidecar,
}

impl EndedBy {
    pub const ALL: [Self; 3] = [Self::Caller, Self::Called, Self::Sidecar];

    pub fn as_str(self, direction: Direction) -> &'static str {
        match (self, direction) {
            (Self::Caller, _) => "caller",
            (Self::Called, Direction::Inbound) => "app",
            (Self::Called, Direction::Outbound) => "peer",
            (Self::Sidecar, _) => "sidecar",
        }
    }
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndedWith {
    /// A complete stream or message.
    Fin,
    /// The connection was closed before the stream was complete.
    Closed,
    /// The connection was reset.
    Reset,
    /// RST_STREAM (RFC 9113 §6.4).
    StreamReset(h2::Reason),
    /// GOAWAY (RFC 9113 §6.8).
    GoAway(h2::Reason),
    /// The peer stopped acknowledging.
    Dead,
    /// Invalid protocol data.
    Invalid,
    /// Terminated by the sidecar; `reason` holds the cause.
    Cut,
}

impl EndedWith {
    /// Classifies the I/O error that ended a connection.
    pub fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
                Self::Reset
            }
            io::ErrorKind::UnexpectedEof => Self::Closed,
            io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown => Self::Dead,
            _ => Self::Invalid,
        }
    }
}

impl Serialize for EndedWith {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Fin => serializer.serialize_str("fin"),
            Self::Closed => serializer.serialize_str("closed"),
            Self::Reset => serializer.serialize_str("reset"),
            Self::StreamReset(reason) => serializer.collect_str(&format_args!("reset {reason:?}")),
            Self::GoAway(reason) => serializer.collect_str(&format_args!("goaway {reason:?}")),
            Self::Dead => serializer.serialize_str("dead"),
            Self::Invalid => serializer.serialize_str("invalid"),
            Self::Cut => serializer.serialize_str("cut"),
        }
    }
}
