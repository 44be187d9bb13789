//! One conversation of two processes of one user: whole messages, each with at most one socket (SCM_RIGHTS, unix(7)).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net;
use std::path::Path;
use std::time::Duration;

use rustix::cmsg_space;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg, sendmsg,
    socket_with,
};
use thiserror::Error;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::net::unix::UCred;
use tokio::time::timeout;

use super::message::{MESSAGE_BYTES_MAX, Message, MessageError};

/// Keeps messages whole (unix(7), SOCK_SEQPACKET).
pub(super) fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// One side of a conversation.
#[derive(Debug)]
pub(super) struct Channel {
    /// Called a stream by its type; but it is made by [`socket`].
    socket: UnixStream,
    /// The process on the other side, when it connected or began to listen (SO_PEERCRED).
    pub(super) peer: UCred,
}

/// Why a conversation cannot go on.
#[derive(Debug, Error)]
pub enum ChannelError {
    #[error("the other process broke off")]
    BrokenOff,
    #[error("the other process said nothing for {after:?}")]
    Silent { after: Duration },
    #[error("the other process refused: {reason}")]
    Refused { reason: String },
    #[error("expected {expected}, the other process said {said}")]
    OutOfTurn { expected: &'static str, said: &'static str },
    #[error("expected a socket with the message, found {found}")]
    Sockets { found: usize },
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error("cannot talk to the other process")]
    Io(#[source] io::Error),
}

impl Channel {
    /// Connects to whoever listens there.
    pub(super) fn connect(path: &Path) -> io::Result<Self> {
        let socket = socket()?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Self::new(UnixStream::from_std(net::UnixStream::from(socket))?)
    }

    pub(super) fn new(socket: UnixStream) -> io::Result<Self> {
        Ok(Self { peer: socket.peer_cred()?, socket })
    }

    pub(super) async fn say(&self, message: &Message) -> Result<(), ChannelError> {
        self.send(message, &[]).await
    }

    /// Says something with a socket, which both then have.
    pub(super) async fn say_with(
        &self,
        message: &Message,
        socket: BorrowedFd<'_>,
    ) -> Result<(), ChannelError> {
        self.send(message, &[socket]).await
    }

    async fn send(&self, message: &Message, sockets: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        let bytes = message.encode()?;
        let sending = self.socket.async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !sockets.is_empty() && !control.push(SendAncillaryMessage::ScmRights(sockets)) {
                return Err(io::Error::other("no room for a socket"));
            }
            Ok(sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?)
        });
        // A message leaves whole.
        match timeout(SAID_WITHIN, sending).await {
            Ok(Ok(_whole)) => Ok(()),
            Ok(Err(error)) => Err(of_io(error)),
            Err(_late) => Err(ChannelError::Silent { after: SAID_WITHIN }),
        }
    }

    /// Hears one message. Sockets that come with one which has none are closed.
    pub(super) async fn hear(&self, within: Duration) -> Result<Message, ChannelError> {
        Ok(self.hear_with(within).await?.0)
    }

    /// Hears one message and what sockets came with it.
    pub(super) async fn hear_with(&self, within: Duration) -> Result<(Message, Vec<OwnedFd>), ChannelError> {
        let hearing = self.socket.async_io(Interest::READABLE, || receive(self.socket.as_fd()));
        let (bytes, sockets) = match timeout(within, hearing).await {
            Ok(heard) => heard.map_err(of_io)?,
            Err(_late) => return Err(ChannelError::Silent { after: within }),
        };
        match Message::decode(&bytes) {
            _ if bytes.is_empty() => Err(ChannelError::BrokenOff),
            Ok(Message::Refuse { reason }) => Err(ChannelError::Refused { reason }),
            heard => Ok((heard?, sockets)),
        }
    }
}

/// One whole message; none has no bytes, so that no bytes are the end.
fn receive(socket: BorrowedFd<'_>) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    // One more than is allowed, so that it shows.
    let mut bytes = vec![0; MESSAGE_BYTES_MAX + 1];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received =
        recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "more sockets than one came with a message"));
    }
    bytes.truncate(received.bytes);
    let mut sockets = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            sockets.extend(received);
        }
    }
    Ok((bytes, sockets))
}

fn of_io(error: io::Error) -> ChannelError {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ChannelError::BrokenOff,
        _ => ChannelError::Io(error),
    }
}

/// What is said is short; whoever does not take it for so long never will.
const SAID_WITHIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
