//! Scratch buffers that all connections of a thread share, and the leftovers that a connection keeps.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::TcpStream;

use super::SEGMENT_BYTES;

/// Bytes read at a time. Measured: this size takes a third less CPU than 8 KiB; larger ones gain nothing.
const READ_BYTES: usize = 64 * 1024;
/// Room before the read bytes for an incomplete record (RFC 8446 §5.2: 2^14 + 256 bytes and a header), or a complete
/// fragmented handshake message.
const KEPT_BYTES: usize = 64 * 1024;

thread_local! {
    /// Bytes read from peers.
    pub(super) static CIPHERTEXT: RefCell<Box<[u8]>> = RefCell::new(vec![0; KEPT_BYTES + READ_BYTES].into());
    /// Bytes sealed for peers. Allocated at full size: a growing buffer would fragment the heap.
    pub(super) static SEALED: RefCell<Outgoing> = RefCell::new(Outgoing::with_room(SEGMENT_BYTES));
}

/// Copies the kept ciphertext into the scratch buffer, followed by what the socket has, if it is to be read. Returns
/// the length. EOF here is a truncation (RFC 8446 §6.1).
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

/// An output buffer for ciphertext, reused without clearing.
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

    /// Room for at least `count` bytes. Written bytes count after [`Self::advance`].
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

    /// The bytes appended since the given length.
    pub(super) fn since(&mut self, length: usize) -> &mut [u8] {
        self.bytes.get_mut(length..self.filled).unwrap_or_default()
    }

    /// Truncates to the given length.
    pub(super) fn back_to(&mut self, length: usize) {
        self.filled = length;
    }
}

/// Bytes that the receiver has not accepted yet. Holds no memory while empty.
#[derive(Debug, Default)]
pub struct Backlog {
    bytes: Vec<u8>,
    taken: usize,
}

impl Backlog {
    pub fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    /// The remaining bytes.
    pub fn rest(&self) -> &[u8] {
        self.bytes.get(self.taken..).unwrap_or_default()
    }

    /// Removes the first `count` bytes.
    pub fn take(&mut self, count: usize) {
        self.taken += count;
        if self.is_empty() {
            self.clear();
        }
    }

    pub fn clear(&mut self) {
        (self.bytes, self.taken) = (Vec::new(), 0);
    }

    /// The buffer to append to.
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
