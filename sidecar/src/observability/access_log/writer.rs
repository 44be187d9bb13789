//! The thread that writes lines: only it ever waits for whoever reads them.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};

use tracing::{error, info};

use super::AccessLogError;
use crate::config::AccessLogTarget;

/// Owner and group may read it.
const FILE_MODE: u32 = 0o640;
const BUFFER_BYTES: usize = 64 * 1024;
/// A target that cannot be written to is told so often at most.
const FAILURE_TOLD_INTERVAL: Duration = Duration::from_secs(60);

/// What the thread is told.
pub(super) enum Message {
    AccessLogEntry {
        text: Vec<u8>,
        /// Its caller has shown no identity.
        unidentified: bool,
    },
    Reopen,
    /// Says when all before it is written.
    Flush(SyncSender<()>),
}

/// The target and how it fares.
pub(super) struct Writer {
    out: BufWriter<Box<dyn Write + Send>>,
    path: Option<PathBuf>,
    /// Lines in the buffer.
    waiting: u64,
    failed: Arc<AtomicU64>,
    /// Given back when a line is taken.
    room_for_unidentified: Arc<AtomicUsize>,
    told: Option<Instant>,
}

impl Writer {
    pub(super) fn open(
        target: &AccessLogTarget,
        failed: Arc<AtomicU64>,
        room_for_unidentified: Arc<AtomicUsize>,
    ) -> Result<Self, AccessLogError> {
        let (out, path): (Box<dyn Write + Send>, _) = match target {
            AccessLogTarget::Stdout => (Box::new(io::stdout()), None),
            AccessLogTarget::Stderr => (Box::new(io::stderr()), None),
            AccessLogTarget::File(path) => {
                let failed = |error| AccessLogError::Open { path: path.display().to_string(), error };
                (Box::new(open(path).map_err(failed)?), Some(path.clone()))
            }
        };
        let out = BufWriter::with_capacity(BUFFER_BYTES, out);
        Ok(Self { out, path, waiting: 0, failed, room_for_unidentified, told: None })
    }

    /// Writes until nobody is left who could send a line.
    pub(super) fn run(mut self, messages: &Receiver<Message>) {
        while let Ok(message) = messages.recv() {
            self.take(message);
            while let Ok(message) = messages.try_recv() {
                self.take(message);
            }
            self.flush();
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::AccessLogEntry { text, unidentified } => {
                if unidentified {
                    self.room_for_unidentified.fetch_add(1, Ordering::Relaxed);
                }
                self.waiting += 1;
                if let Err(error) = self.out.write_all(&text) {
                    self.fail(&error);
                }
            }
            Message::Reopen => {
                self.flush();
                self.reopen();
            }
            Message::Flush(done) => {
                self.flush();
                // Whoever asked may have gone.
                let _told = done.send(());
            }
        }
    }

    fn flush(&mut self) {
        match self.out.flush() {
            Ok(()) => self.waiting = 0,
            Err(error) => self.fail(&error),
        }
    }

    /// What is buffered is lost, so that a full disk is not a growing process.
    fn fail(&mut self, error: &io::Error) {
        self.failed.fetch_add(self.waiting, Ordering::Relaxed);
        self.waiting = 0;
        let sink: Box<dyn Write + Send> = Box::new(io::sink());
        let out = std::mem::replace(&mut self.out, BufWriter::new(sink));
        let (target, _lost) = out.into_parts();
        self.out = BufWriter::with_capacity(BUFFER_BYTES, target);
        let now = Instant::now();
        if self.told.is_none_or(|told| now.duration_since(told) > FAILURE_TOLD_INTERVAL) {
            error!(%error, "the access log cannot be written; its lines are lost and counted");
            self.told = Some(now);
        }
    }

    fn reopen(&mut self) {
        let Some(path) = &self.path else { return };
        match open(path) {
            Ok(file) => {
                self.out = BufWriter::with_capacity(BUFFER_BYTES, Box::new(file));
                info!(path = %path.display(), "access log opened anew");
            }
            Err(error) => {
                error!(path = %path.display(), %error, "the access log cannot be opened anew; the old file is used on")
            }
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    // A pipe that nobody reads yet can be opened only by one who could read it, too (fifo(7)).
    let pipe = std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo());
    OpenOptions::new().create(true).append(true).read(pipe).mode(FILE_MODE).open(path)
}
