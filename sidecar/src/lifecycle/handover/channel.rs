//! The message channel between two processes of one user: messages, each with at most one socket (SCM_RIGHTS, unix(7)).

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

/// Creates a socket that preserves message boundaries (unix(7), SOCK_SEQPACKET).
pub(super) fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// One end of a channel.
#[derive(Debug)]
pub(super) struct Channel {
    /// A SOCK_SEQPACKET socket from [`socket`], despite its type.
    socket: UnixStream,
    /// Credentials of the other process, from when it connected or started to listen (SO_PEERCRED).
    pub(super) peer: UCred,
}

/// Why a handover failed on the channel.
#[derive(Debug, Error)]
pub enum ChannelError {
    #[error("the other process broke off")]
    BrokenOff,
    #[error("the other process said nothing for {after:?}")]
    Silent { after: Duration },
    #[error("the other process refused: {reason}")]
    Refused { reason: String },
    #[error("expected {expected}, the other process said {received}")]
    OutOfTurn { expected: &'static str, received: &'static str },
    #[error("expected a socket with the message, found {found}")]
    Sockets { found: usize },
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error("cannot talk to the other process")]
    Io(#[source] io::Error),
}

impl Channel {
    /// Connects to the process that listens at `path`.
    pub(super) fn connect(path: &Path) -> io::Result<Self> {
        let socket = socket()?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Self::new(UnixStream::from_std(net::UnixStream::from(socket))?)
    }

    pub(super) fn new(socket: UnixStream) -> io::Result<Self> {
        Ok(Self { peer: socket.peer_cred()?, socket })
    }

    pub(super) async fn send(&self, message: &Message) -> Result<(), ChannelError> {
        self.send_bytes(message, &[]).await
    }

    /// Sends a message with a duplicate of a socket.
    pub(super) async fn send_with_socket(
        &self,
        message: &Message,
        socket: BorrowedFd<'_>,
    ) -> Result<(), ChannelError> {
        self.send_bytes(message, &[socket]).await
    }

    async fn send_bytes(&self, message: &Message, sockets: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        let bytes = message.encode()?;
        let sending = self.socket.async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !sockets.is_empty() && !control.push(SendAncillaryMessage::ScmRights(sockets)) {
                return Err(io::Error::other("no room for a socket"));
            }
            Ok(sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?)
        });
        // SOCK_SEQPACKET sends a whole message.
        match timeout(SEND_TIMEOUT, sending).await {
            Ok(Ok(_whole)) => Ok(()),
            Ok(Err(error)) => Err(of_io(error)),
            Err(_late) => Err(ChannelError::Silent { after: SEND_TIMEOUT }),
        }
    }

    /// Receives one message. Sockets that arrive with it are closed.
    pub(super) async fn receive(&self, within: Duration) -> Result<Message, ChannelError> {
        Ok(self.receive_with_sockets(within).await?.0)
    }

    /// Receives one message and its sockets.
    pub(super) async fn receive_with_sockets(
        &self,
        within: Duration,
    ) -> Result<(Message, Vec<OwnedFd>), ChannelError> {
        let receiving = self.socket.async_io(Interest::READABLE, || receive(self.socket.as_fd()));
        let (bytes, sockets) = match timeout(within, receiving).await {
            Ok(received) => received.map_err(of_io)?,
            Err(_late) => return Err(ChannelError::Silent { after: within }),
        };
        match Message::decode(&bytes) {
            _ if bytes.is_empty() => Err(ChannelError::BrokenOff),
            Ok(Message::Refuse { reason }) => Err(ChannelError::Refused { reason }),
            received => Ok((received?, sockets)),
        }
    }
}

/// Receives one whole message. No message is empty, so zero bytes mean the end.
fn receive(socket: BorrowedFd<'_>) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    // One byte more than allowed, to detect a message that is too long.
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

/// Timeout of sending a message. Messages are short, so a receiver that has not read it by then is stuck.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
