//! The listening sockets of a handover: validation and selection.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};

use socket2::{Protocol, SockRef, Type};
use thiserror::Error;
use tokio::net::TcpListener;

use super::channel::ChannelError;
use super::message::ListenerKey;

/// Why a received socket is not the listener that its message describes.
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

/// The listeners that an old process offers. Unused ones are closed here; the old process still has them.
#[derive(Debug, Default)]
pub(super) struct OfferedListeners(Vec<(ListenerKey, std::net::TcpListener)>);

impl OfferedListeners {
    pub(super) fn add(&mut self, key: ListenerKey, sockets: Vec<OwnedFd>) -> Result<(), UnfitError> {
        let listener = listener(key.address, sockets)?;
        self.0.push((key, listener));
        Ok(())
    }

    /// Takes the socket with the wanted key. Otherwise takes one with the same address but another name or kind,
    /// because the address cannot be bound twice.
    pub(super) fn take(&mut self, wanted: &ListenerKey) -> Option<std::net::TcpListener> {
        let same = |(key, _): &(ListenerKey, _)| key == wanted;
        let bound = |(key, _): &(ListenerKey, _)| key.address == wanted.address && wanted.address.port() != 0;
        let at = self.0.iter().position(same).or_else(|| self.0.iter().position(bound))?;
        Some(self.0.swap_remove(at).1)
    }
}

/// Checks that there is exactly one socket and that it is a TCP listener at that address.
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

/// Duplicates a listener's descriptor, to be sent to another process.
pub(super) fn duplicate(listener: &TcpListener) -> io::Result<OwnedFd> {
    listener.as_fd().try_clone_to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::message::ListenerKind;
    use super::*;

    fn key(name: &str, address: SocketAddr) -> ListenerKey {
        ListenerKey { kind: ListenerKind::Inbound, name: name.to_owned(), address }
    }

    fn listening() -> (SocketAddr, OwnedFd) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        (listener.local_addr().unwrap(), listener.into())
    }

    #[test]
    fn a_listener_is_found_by_its_address_whatever_it_was_for() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut offered = OfferedListeners::default();
        let (renamed, socket) = listening();
        offered.add(key("old-name", renamed), vec![socket]).unwrap();
        let (one, socket) = listening();
        offered.add(key("one", any), vec![socket]).unwrap();
        let (other, socket) = listening();
        offered.add(key("other", any), vec![socket]).unwrap();
        let at = |taken: Option<std::net::TcpListener>| taken.map(|taken| taken.local_addr().unwrap());
        let wanted = ListenerKey { kind: ListenerKind::Outbound, ..key("new-name", renamed) };
        assert_eq!(at(offered.take(&wanted)), Some(renamed));
        assert_eq!(at(offered.take(&wanted)), None, "once");
        assert_eq!(at(offered.take(&key("other", any))), Some(other), "any port, by name");
        assert_eq!(at(offered.take(&key("third", any))), None);
        assert_eq!(at(offered.take(&key("one", any))), Some(one));
    }

    #[test]
    fn what_is_no_listener_at_that_address_is_refused() {
        let mut offered = OfferedListeners::default();
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
