//! Listening sockets by what they are for: those that an old process offers, and those that this one has.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};

use socket2::{Protocol, SockRef, Type};
use thiserror::Error;
use tokio::net::TcpListener;

use super::channel::ChannelError;
use super::message::Key;

/// Why what came with a message is not the listener that it was called.
#[derive(Debug, Error)]
pub enum UnfitError {
    #[error("is no TCP socket that listens")]
    NotListening,
    #[error("listens on {found}")]
    Elsewhere { found: SocketAddr },
    #[error("cannot be looked at")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Channel(#[from] ChannelError),
}

/// What an old process offers. What is not taken is closed here; the old one still has it.
#[derive(Debug, Default)]
pub(super) struct Offered(Vec<(Key, std::net::TcpListener)>);

impl Offered {
    pub(super) fn add(&mut self, key: Key, sockets: Vec<OwnedFd>) -> Result<(), UnfitError> {
        let listener = listener(key.address, sockets)?;
        self.0.push((key, listener));
        Ok(())
    }

    /// The socket that is bound as `wanted` asks. One that had another name or use is the same address all the same,
    /// which cannot be opened a second time.
    pub(super) fn take(&mut self, wanted: &Key) -> Option<std::net::TcpListener> {
        let same = |(key, _): &(Key, _)| key == wanted;
        let bound = |(key, _): &(Key, _)| key.address == wanted.address && wanted.address.port() != 0;
        let at = self.0.iter().position(same).or_else(|| self.0.iter().position(bound))?;
        Some(self.0.swap_remove(at).1)
    }
}

/// Takes a socket for a listener only if it is one, at that address.
fn listener(address: SocketAddr, mut sockets: Vec<OwnedFd>) -> Result<std::net::TcpListener, UnfitError> {
    let found = sockets.len();
    let (Some(socket), true) = (sockets.pop(), sockets.is_empty()) else {
        return Err(ChannelError::Sockets { found }.into());
    };
    {
        let socket = SockRef::from(&socket);
        let tcp = socket.r#type()? == Type::STREAM && socket.protocol()? == Some(Protocol::TCP);
        if !tcp || !socket.is_listener()? {
            return Err(UnfitError::NotListening);
        }
    }
    let listener = std::net::TcpListener::from(socket);
    let found = listener.local_addr()?;
    if found.ip() != address.ip() || (found.port() != address.port() && address.port() != 0) {
        return Err(UnfitError::Elsewhere { found });
    }
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A second handle on what a listener listens with, to be given away.
pub(super) fn second(listener: &TcpListener) -> io::Result<OwnedFd> {
    listener.as_fd().try_clone_to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::message::Kind;
    use super::*;

    fn key(name: &str, address: SocketAddr) -> Key {
        Key { kind: Kind::Inbound, name: name.to_owned(), address }
    }

    fn listening() -> (SocketAddr, OwnedFd) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        (listener.local_addr().unwrap(), listener.into())
    }

    #[test]
    fn a_listener_is_found_by_its_address_whatever_it_was_for() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut offered = Offered::default();
        let (renamed, socket) = listening();
        offered.add(key("old-name", renamed), vec![socket]).unwrap();
        let (one, socket) = listening();
        offered.add(key("one", any), vec![socket]).unwrap();
        let (other, socket) = listening();
        offered.add(key("other", any), vec![socket]).unwrap();
        let at = |taken: Option<std::net::TcpListener>| taken.map(|taken| taken.local_addr().unwrap());
        let wanted = Key { kind: Kind::Outbound, ..key("new-name", renamed) };
        assert_eq!(at(offered.take(&wanted)), Some(renamed));
        assert_eq!(at(offered.take(&wanted)), None, "once");
        assert_eq!(at(offered.take(&key("other", any))), Some(other), "any port, by name");
        assert_eq!(at(offered.take(&key("third", any))), None);
        assert_eq!(at(offered.take(&key("one", any))), Some(one));
    }

    #[test]
    fn what_is_no_listener_at_that_address_is_refused() {
        let mut offered = Offered::default();
        let (address, socket) = listening();
        let mut refused = |address, sockets| offered.add(key("api", address), sockets).unwrap_err();
        let elsewhere = "127.0.0.2:1".parse().unwrap();
        let same = socket.try_clone().unwrap();
        assert!(
            matches!(refused(elsewhere, vec![same]), UnfitError::Elsewhere { found } if found == address)
        );
        let connected = std::net::TcpStream::connect(address).unwrap().into();
        assert!(matches!(refused(address, vec![connected]), UnfitError::NotListening));
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into();
        assert!(matches!(refused(address, vec![udp]), UnfitError::NotListening));
        let file = std::fs::File::open("/dev/null").unwrap().into();
        assert!(matches!(refused(address, vec![file]), UnfitError::Io(_)));
        let none = refused(address, Vec::new());
        assert!(matches!(none, UnfitError::Channel(ChannelError::Sockets { found: 0 })));
        let two = refused(address, vec![socket.try_clone().unwrap(), socket]);
        assert!(matches!(two, UnfitError::Channel(ChannelError::Sockets { found: 2 })));
    }
}
