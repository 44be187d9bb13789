//! The log on standard error: what it takes, in which queues it waits, and how what is lost shows.

mod repeats;

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata, warn};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::Layer as _;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{Log, LogFormat};
pub use repeats::{KINDS_MAX, RepeatLimiter, VARIANTS_MAX};

/// Lines of one queue that wait for a reader; further ones are dropped and counted, so that a blocked pipe never
/// stalls traffic.
pub const LOG_LINES_WAITING_MAX: usize = 4 * 1024;

/// The running log; dropping it writes what waits, but not for a reader that does not read.
#[derive(Debug)]
pub struct Logging {
    /// Dropped first: the last report of repeats goes through the queues.
    reporter: Reporter,
    dropped: Dropped,
    _flushed_at_end: [WorkerGuard; 2],
}

/// Counts the lines of both queues that were dropped.
#[derive(Debug, Clone)]
struct Dropped([ErrorCounter; 2]);

impl Dropped {
    fn lines(&self) -> usize {
        self.0.iter().map(ErrorCounter::dropped_lines).sum()
    }
}

impl Logging {
    /// Starts the log of this process.
    pub fn start(log: Log) -> std::io::Result<Self> {
        let (warnings, warnings_guard) = queue("log-warnings");
        let (details, details_guard) = queue("log-details");
        let dropped = Dropped([warnings.error_counter(), details.error_counter()]);
        let limiter = Arc::new(RepeatLimiter::default());
        let format = tracing_subscriber::fmt::layer()
            .with_writer(Queues { warnings, details })
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .with_target(false);
        let format = match log.format {
            LogFormat::Text => format.boxed(),
            LogFormat::Json => format.json().flatten_event(true).boxed(),
        };
        tracing_subscriber::registry()
            .with(format)
            .with(repeats::Limited(limiter.clone()))
            .with(LevelFilter::from_level(log.level))
            .init();
        let reporter = Reporter::start(limiter, dropped.clone(), log.repeats_interval)?;
        Ok(Self { reporter, dropped, _flushed_at_end: [warnings_guard, details_guard] })
    }

    /// Counts the lines that were dropped because nobody read them.
    pub fn dropped(&self) -> impl Fn() -> usize + Send + Sync + use<> {
        let dropped = self.dropped.clone();
        move || dropped.lines()
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        self.reporter.end();
    }
}

fn queue(thread: &str) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LOG_LINES_WAITING_MAX)
        .thread_name(thread)
        .finish(std::io::stderr())
}

/// Two queues, so that lines of debug and info never take the place of a warning.
struct Queues {
    warnings: NonBlocking,
    details: NonBlocking,
}

impl<'a> MakeWriter<'a> for Queues {
    type Writer = NonBlocking;

    fn make_writer(&'a self) -> NonBlocking {
        self.details.clone()
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> NonBlocking {
        if *metadata.level() <= Level::WARN { self.warnings.clone() } else { self.details.clone() }
    }
}

/// The thread that reports, once in each interval, what was only counted.
#[derive(Debug)]
struct Reporter {
    end: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Reporter {
    fn start(limiter: Arc<RepeatLimiter>, dropped: Dropped, interval: Duration) -> std::io::Result<Self> {
        let (end, ended) = sync_channel(0);
        let report = move || {
            let mut reported = 0;
            loop {
                let timed_out = ended.recv_timeout(interval) == Err(RecvTimeoutError::Timeout);
                limiter.report(interval);
                let lost = dropped.lines();
                if lost > reported {
                    warn!(lines = lost - reported, "log lines were lost: standard error is read too slowly");
                    reported = lost;
                }
                if !timed_out {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("log-repeats".to_owned()).spawn(report)?;
        Ok(Self { end: Some(end), thread: Some(thread) })
    }

    fn end(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that reports repeated log lines failed");
        }
    }
}
