//! Buffers that all connections of a thread share, and what a connection keeps for itself while it must.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::TcpStream;

use super::SEGMENT_BYTES;

/// Read at a time; measured: from 8 KiB to 64 KiB saves a third of the CPU, beyond it nothing.
const READ_BYTES: usize = 64 * 1024;
/// A record that was begun before (RFC 8446 §5.2: 2^14 + 256 bytes and a header) goes in front, or a whole handshake
/// message in pieces.
const KEPT_BYTES: usize = 64 * 1024;

thread_local! {
    /// What is read from peers.
    pub(super) static CIPHERTEXT: RefCell<Box<[u8]>> = RefCell::new(vec![0; KEPT_BYTES + READ_BYTES].into());
    /// What is sealed for peers. As large as it will be: what grows leaves holes in the heap.
    pub(super) static SEALED: RefCell<Outgoing> = RefCell::new(Outgoing::with_room(SEGMENT_BYTES));
}

/// Puts what is kept of the ciphertext and what the socket has, if it is to be read, into the scratch; says how much that
/// is. A connection that ends here has not said so (RFC 8446 §6.1).
pub(super) fn fill(
    cx: &mut Context<'_>,
    scratch: &mut [u8],
    kept: &[u8],
    from: Option<&mut TcpStream>,
) -> Poll<io::Result<usize>> {
    let Some((before, after)) =
        scratch.split_at_mut_checked(kept.len()).filter(|(_, after)| !after.is_empty())
    else {
        return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a TLS message is too long")));
    };
    let mut read = 0;
    if let Some(tcp) = from {
        let mut buffer = ReadBuf::new(after);
        ready!(Pin::new(tcp).poll_read(cx, &mut buffer))?;
        read = buffer.filled().len();
        if read == 0 {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
    }
    before.copy_from_slice(kept);
    Poll::Ready(Ok(kept.len() + read))
}

/// Ciphertext on its way out, in memory that is used again and not wiped for each use.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    filled: usize,
}

impl Outgoing {
    fn with_room(bytes: usize) -> Self {
        Self { bytes: vec![0; bytes], filled: 0 }
    }

    pub(super) fn clear(&mut self) {
        self.filled = 0;
    }

    pub(super) fn filled(&self) -> &[u8] {
        self.bytes.get(..self.filled).unwrap_or_default()
    }

    /// Room for at least so many bytes; what is written there counts after [`Self::advance`].
    pub(super) fn room(&mut self, count: usize) -> &mut [u8] {
        if self.bytes.len() < self.filled + count {
            self.bytes.resize(self.filled + count, 0);
        }
        self.bytes.get_mut(self.filled..).unwrap_or_default()
    }

    pub(super) fn advance(&mut self, count: usize) {
        self.filled += count;
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        if let Some(room) = self.room(bytes.len()).get_mut(..bytes.len()) {
            room.copy_from_slice(bytes);
            self.advance(bytes.len());
        }
    }

    pub(super) fn len(&self) -> usize {
        self.filled
    }

    /// What was put there since it had this length.
    pub(super) fn since(&mut self, length: usize) -> &mut [u8] {
        self.bytes.get_mut(length..self.filled).unwrap_or_default()
    }

    /// Takes back what was put there since it had this length.
    pub(super) fn back_to(&mut self, length: usize) {
        self.filled = length;
    }
}

/// Bytes whose next owner has not taken them yet; empty, it holds no memory.
#[derive(Debug, Default)]
pub struct Backlog {
    bytes: Vec<u8>,
    taken: usize,
}

impl Backlog {
    pub fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    /// What is still there.
    pub fn rest(&self) -> &[u8] {
        self.bytes.get(self.taken..).unwrap_or_default()
    }

    /// Takes so many away.
    pub fn take(&mut self, count: usize) {
        self.taken += count;
        if self.is_empty() {
            self.clear();
        }
    }

    pub fn clear(&mut self) {
        (self.bytes, self.taken) = (Vec::new(), 0);
    }

    /// Where more can be put behind.
    pub fn pending(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Writes until nothing is left.
    pub fn poll_drain(
        &mut self,
        mut write: impl FnMut(&[u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let written = ready!(write(self.rest()))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.take(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl From<Vec<u8>> for Backlog {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, taken: 0 }
    }
}
