//! The writer thread of the access log, the only one that blocks on the output.

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

/// Readable by owner and group.
const FILE_MODE: u32 = 0o640;
const BUFFER_BYTES: usize = 64 * 1024;
/// Minimum interval between log messages about failed writes.
const FAILURE_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// A message to the writer thread.
pub(super) enum WriterMessage {
    Line {
        text: Vec<u8>,
        /// The client has presented no identity.
        unidentified: bool,
    },
    Reopen,
    /// Signals when all previous lines are written.
    Flush(SyncSender<()>),
}

/// The output of the access log.
pub(super) struct LogWriter {
    out: BufWriter<Box<dyn Write + Send>>,
    path: Option<PathBuf>,
    /// Number of lines in the buffer.
    waiting: u64,
    failed: Arc<AtomicU64>,
    /// Queue capacity, released when a line is received.
    unidentified_capacity: Arc<AtomicUsize>,
    last_failure_log: Option<Instant>,
}

impl LogWriter {
    pub(super) fn open(
        target: &AccessLogTarget,
        failed: Arc<AtomicU64>,
        unidentified_capacity: Arc<AtomicUsize>,
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
        Ok(Self { out, path, waiting: 0, failed, unidentified_capacity, last_failure_log: None })
    }

    /// Writes lines until all senders are dropped.
    pub(super) fn run(mut self, messages: &Receiver<WriterMessage>) {
        while let Ok(message) = messages.recv() {
            self.handle(message);
            while let Ok(message) = messages.try_recv() {
                self.handle(message);
            }
            self.flush();
        }
    }

    fn handle(&mut self, message: WriterMessage) {
        match message {
            WriterMessage::Line { text, unidentified } => {
                if unidentified {
                    self.unidentified_capacity.fetch_add(1, Ordering::Relaxed);
                }
                self.waiting += 1;
                if let Err(error) = self.out.write_all(&text) {
                    self.discard_buffer(&error);
                }
            }
            WriterMessage::Reopen => {
                self.flush();
                self.reopen();
            }
            WriterMessage::Flush(done) => {
                self.flush();
                // The receiver may no longer exist.
                let _receiver_gone = done.send(());
            }
        }
    }

    fn flush(&mut self) {
        match self.out.flush() {
            Ok(()) => self.waiting = 0,
            Err(error) => self.discard_buffer(&error),
        }
    }

    /// Discards the buffered lines, so that memory does not grow when the disk is full.
    fn discard_buffer(&mut self, error: &io::Error) {
        self.failed.fetch_add(self.waiting, Ordering::Relaxed);
        self.waiting = 0;
        let sink: Box<dyn Write + Send> = Box::new(io::sink());
        let out = std::mem::replace(&mut self.out, BufWriter::new(sink));
        let (target, _lost) = out.into_parts();
        self.out = BufWriter::with_capacity(BUFFER_BYTES, target);
        let now = Instant::now();
        if self
            .last_failure_log
            .is_none_or(|last_failure_log| now.duration_since(last_failure_log) > FAILURE_LOG_INTERVAL)
        {
            error!(%error, "the access log cannot be written; its lines are lost and counted");
            self.last_failure_log = Some(now);
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
    // Opening a FIFO that has no reader yet succeeds only for read and write (fifo(7)).
    let pipe = std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo());
    OpenOptions::new().create(true).append(true).read(pipe).mode(FILE_MODE).open(path)
}
