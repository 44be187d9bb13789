//! How a connection or request ended: by which side, and with what.

use std::io;

use serde::ser::{Serialize, Serializer};

use super::direction::Direction;

/// Who ended a connection or a request, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    pub by: EndedBy,
    pub with: EndedWith,
}

/// Who ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndedBy {
    /// The peer at an inbound, the own app at an outbound.
    Caller,
    /// The own app at an inbound, the peer at an outbound.
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

/// With what it was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndedWith {
    /// Its end, after everything.
    Fin,
    /// The end of its connection, before its own.
    Closed,
    /// A reset of its connection.
    Reset,
    /// RST_STREAM (RFC 9113 §6.4).
    StreamReset(h2::Reason),
    /// GOAWAY (RFC 9113 §6.8).
    GoAway(h2::Reason),
    /// Silence: nothing was acknowledged.
    Dead,
    /// What could not be understood.
    Invalid,
    /// `reason` says why.
    Cut,
}

impl EndedWith {
    /// How a connection ended that broke with this error.
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
