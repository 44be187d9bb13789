//! Derives how a message or connection ended from its error.

use std::error::Error;
use std::io;

use crate::observability::EndedWith;

/// The cause: a reset or close by the other side, or invalid data.
pub(super) fn of(error: &(dyn Error + 'static)) -> EndedWith {
    let causes = || std::iter::successors(Some(error), |error| (*error).source());
    let stream = causes().find_map(|error| error.downcast_ref::<h2::Error>());
    if let Some(error) = stream {
        return match error.reason() {
            Some(reason) if error.is_reset() && error.is_remote() => EndedWith::StreamReset(reason),
            Some(reason) if error.is_go_away() && error.is_remote() => EndedWith::GoAway(reason),
            Some(_) => EndedWith::Invalid,
            // If the connection has ended, h2 reports it in this way.
            None => match error.get_io() {
                Some(error) if error.kind() != io::ErrorKind::BrokenPipe => EndedWith::of_io(error),
                _ => EndedWith::Closed,
            },
        };
    }
    if causes()
        .filter_map(|error| error.downcast_ref::<hyper::Error>())
        .any(hyper::Error::is_incomplete_message)
    {
        return EndedWith::Closed;
    }
    causes().find_map(|error| error.downcast_ref::<io::Error>()).map_or(EndedWith::Invalid, EndedWith::of_io)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_errors_are_distinguished_from_invalid_http() {
        for (kind, with) in [
            (io::ErrorKind::ConnectionReset, EndedWith::Reset),
            (io::ErrorKind::BrokenPipe, EndedWith::Reset),
            (io::ErrorKind::UnexpectedEof, EndedWith::Closed),
            (io::ErrorKind::TimedOut, EndedWith::Dead),
            (io::ErrorKind::HostUnreachable, EndedWith::Dead),
            (io::ErrorKind::InvalidInput, EndedWith::Invalid),
        ] {
            assert_eq!(of(&io::Error::from(kind)), with, "{kind}");
        }
    }

    #[test]
    fn a_stream_that_we_give_up_ourselves_was_invalid() {
        assert_eq!(of(&h2::Error::from(h2::Reason::PROTOCOL_ERROR)), EndedWith::Invalid);
    }
}
