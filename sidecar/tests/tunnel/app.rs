//! The app's end of a connection, as a thing that does what it is told and checks each byte that it gets.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use postern_sidecar::relay::AppStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Which bytes these are: nobody else's are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    pub connection: u32,
    /// 0 is the calling app; the called app's attempts are counted from 1 on.
    pub attempt: u32,
}

impl Source {
    pub fn byte(self, at: usize) -> u8 {
        let seed = u64::from(self.connection) << 40 ^ u64::from(self.attempt) << 32 ^ at as u64;
        let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9).to_be_bytes()[1]
    }
}

/// What an app has done and seen.
#[derive(Default)]
pub struct Told {
    /// So many bytes it has said; the relay has read so many of them.
    pub said: usize,
    pub read: usize,
    /// It has ended its direction cleanly.
    pub finished: bool,
    /// It was reset.
    pub broken: bool,
    /// It takes so many bytes before it takes no more.
    pub window: usize,
    pub got: Vec<u8>,
    /// It saw a clean end.
    pub got_end: bool,
    /// Its connection was closed by the sidecar.
    pub closed: bool,
    wakers: Vec<Waker>,
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { said, read, finished, broken, got, got_end, closed, .. } = self;
        write!(f, "said {said}, of which {read} were read, finished {finished}, broken {broken}; ")?;
        write!(f, "got {}, its end {got_end}, closed {closed}", got.len())
    }
}

/// The test's hand on an app.
#[derive(Debug, Clone)]
pub struct App {
    pub source: Source,
    told: Arc<Mutex<Told>>,
}

impl App {
    pub fn new(source: Source) -> Self {
        Self { source, told: Arc::default() }
    }

    pub fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap()
    }

    /// Does something, after which the relay looks again.
    pub fn act(&self, act: impl FnOnce(&mut Told)) {
        let wakers = {
            let mut told = self.told();
            act(&mut told);
            std::mem::take(&mut told.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The sidecar's end of the connection.
    pub fn stream(&self) -> Stream {
        Stream { app: self.clone() }
    }

    /// Whether these are the first bytes that `other` has said.
    pub fn heard(&self, other: &App) -> bool {
        let said = other.told().said;
        let told = self.told();
        told.got.len() <= said
            && (told.got.iter().enumerate()).all(|(at, byte)| *byte == other.source.byte(at))
    }

    /// Whether everything that `other` said came, and its end.
    pub fn heard_all(&self, other: &App) -> bool {
        let (finished, said) = {
            let told = other.told();
            (told.finished, told.said)
        };
        if !self.heard(other) {
            return false;
        }
        let told = self.told();
        finished && told.got_end && told.got.len() == said
    }
}

/// What the sidecar holds; dropping it closes the app's connection.
#[derive(Debug)]
pub struct Stream {
    app: App,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.app.told().closed = true;
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut told = self.app.told();
        if told.broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if told.read == told.said && !told.finished {
            told.wakers.push(cx.waker().clone());
            return Poll::Pending;
        }
        let count = (told.said - told.read).min(buffer.remaining());
        let bytes: Vec<u8> = (told.read..told.read + count).map(|at| self.app.source.byte(at)).collect();
        buffer.put_slice(&bytes);
        told.read += count;
        Poll::Ready(Ok(()))
    }
}

impl AppStream for Stream {
    fn take_error(&self) -> Option<io::Error> {
        self.app.told().broken.then(|| io::ErrorKind::ConnectionReset.into())
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut told = self.app.told();
        assert!(!told.got_end, "bytes after the end");
        if told.broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let count = bytes.len().min(told.window);
        if count == 0 {
            told.wakers.push(cx.waker().clone());
            return Poll::Pending;
        }
        told.window -= count;
        told.got.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut told = self.app.told();
        if told.broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        told.got_end = true;
        Poll::Ready(Ok(()))
    }
}
