//! Buffers that all connections of a thread share, and what a connection keeps for itself while it must.

use std::cell::RefCell;
use std::io;
use std::task::{Poll, ready};

/// Read at a time; measured: from 8 KiB to 64 KiB saves a third of the CPU, beyond it nothing.
const READ_BYTES: usize = 64 * 1024;
/// A record that was begun before (RFC 8446 §5.2: 2^14 + 256 bytes and a header) goes in front, or a whole handshake
/// message in pieces.
const KEPT_BYTES: usize = 64 * 1024;

thread_local! {
    /// What is read from peers.
    pub(super) static CIPHERTEXT: RefCell<Box<[u8]>> = RefCell::new(vec![0; KEPT_BYTES + READ_BYTES].into());
    /// What is sealed for peers.
    pub(super) static SEALED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
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
