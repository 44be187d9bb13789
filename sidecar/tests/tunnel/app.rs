//! An app at one end of a connection, over real TCP: it does what it is told and checks each byte that it gets.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// The calling app says its number first, so that the called app knows whose connection it is.
pub const NUMBER_BYTES: usize = 4;
/// Said or taken at a time.
const CHUNK_BYTES: usize = 16 * 1024;

/// Which bytes these are: nobody else's are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    pub connection: u32,
    /// 0 is the calling app; the called app's attempts are counted from 1 on.
    pub attempt: u32,
}

impl Source {
    pub fn byte(self, at: usize) -> u8 {
        if self.attempt == 0
            && let Some(byte) = self.connection.to_be_bytes().get(at)
        {
            return *byte;
        }
        let seed = u64::from(self.connection) << 40 ^ u64::from(self.attempt) << 32 ^ at as u64;
        let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9).to_be_bytes()[1]
    }
}

/// What an app has done and seen.
#[derive(Default)]
pub struct Told {
    /// So many bytes it shall say; so many of them it has said.
    pub said: usize,
    pub sent: usize,
    /// It ends its direction cleanly behind them.
    pub finished: bool,
    /// It resets its connection.
    pub broken: bool,
    /// It takes so many bytes before it takes no more.
    pub window: usize,
    pub got: Vec<u8>,
    /// It saw a clean end.
    pub got_end: bool,
    /// Its connection is over.
    pub closed: bool,
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { said, sent, finished, broken, got, got_end, closed, .. } = self;
        write!(f, "said {said}, of which {sent} were sent, finished {finished}, broken {broken}; ")?;
        write!(f, "got {}, its end {got_end}, closed {closed}", got.len())
    }
}

/// The test's hand on an app.
#[derive(Debug, Clone)]
pub struct App {
    pub source: Source,
    told: Arc<Mutex<Told>>,
    changed: Arc<Notify>,
}

impl App {
    pub fn new(source: Source) -> Self {
        let app = Self { source, told: Arc::default(), changed: Arc::default() };
        app.told().said = if source.attempt == 0 { NUMBER_BYTES } else { 0 };
        app
    }

    pub fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap()
    }

    /// Changes what it shall do.
    pub fn act(&self, act: impl FnOnce(&mut Told)) {
        act(&mut self.told());
        self.changed.notify_one();
    }

    /// Has said all it has to say, and takes everything.
    pub fn release(&self) {
        self.act(|told| (told.window, told.finished) = (usize::MAX, true));
    }

    /// Does what it is told, until its connection is over.
    pub async fn run(self, mut stream: TcpStream) {
        if self.told().broken || self.carry(&mut stream).await.is_err() {
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
        drop(stream);
        self.told().closed = true;
    }

    async fn carry(&self, stream: &mut TcpStream) -> io::Result<()> {
        let (mut read, mut write) = stream.split();
        let (mut buffer, mut ended) = (vec![0; CHUNK_BYTES], false);
        loop {
            let (next, window, is_last) = {
                let told = self.told();
                if told.broken {
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
                let next = told.sent..told.said.min(told.sent + CHUNK_BYTES);
                (next, told.window.min(CHUNK_BYTES), told.finished && told.sent == told.said)
            };
            if is_last && !ended {
                ended = true;
                write.shutdown().await?;
            }
            if ended && self.told().got_end {
                return Ok(());
            }
            let (takes, chunk) = (window > 0 && !self.told().got_end, self.bytes(next));
            tokio::select! {
                () = self.changed.notified() => {}
                written = write.write(&chunk), if !chunk.is_empty() => self.told().sent += written?,
                got = read.read(&mut buffer[..window]), if takes => self.got(&buffer[..got?]),
            }
        }
    }

    fn bytes(&self, range: std::ops::Range<usize>) -> Vec<u8> {
        range.map(|at| self.source.byte(at)).collect()
    }

    fn got(&self, bytes: &[u8]) {
        let mut told = self.told();
        told.got_end = bytes.is_empty();
        told.window -= bytes.len();
        told.got.extend_from_slice(bytes);
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
