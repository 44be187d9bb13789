//! The log on standard error: filter, queues, and a counter of dropped lines.

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

/// Capacity of each queue, in lines. Further lines are dropped and counted, so that a blocked pipe never stalls
/// traffic.
pub const LOG_LINES_WAITING_MAX: usize = 4 * 1024;

/// A guard of the running log. Dropping it flushes the queues, but does not wait for a blocked reader.
#[derive(Debug)]
pub struct Logging {
    /// Stopped first: its last report of repeated lines goes through the queues.
    reporter: Reporter,
    dropped: DroppedLines,
    _flush_guards: [WorkerGuard; 2],
}

/// The counters of dropped lines of both queues.
#[derive(Debug, Clone)]
struct DroppedLines([ErrorCounter; 2]);

impl DroppedLines {
    fn count(&self) -> usize {
        self.0.iter().map(ErrorCounter::dropped_lines).sum()
    }
}

impl Logging {
    /// Starts the log of this process.
    pub fn start(log: Log) -> std::io::Result<Self> {
        let (warnings, warnings_guard) = queue("log-warnings");
        let (details, details_guard) = queue("log-details");
        let dropped = DroppedLines([warnings.error_counter(), details.error_counter()]);
        let limiter = Arc::new(RepeatLimiter::default());
        let format = tracing_subscriber::fmt::layer()
            .with_writer(LevelQueues { warnings, details })
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .with_target(false);
        let format = match log.format {
            LogFormat::Text => format.boxed(),
            LogFormat::Json => format.json().flatten_event(true).boxed(),
        };
        tracing_subscriber::registry()
            .with(format)
            .with(repeats::RepeatLimitLayer(limiter.clone()))
            .with(LevelFilter::from_level(log.level))
            .init();
        let reporter = Reporter::start(limiter, dropped.clone(), log.repeats_interval)?;
        Ok(Self { reporter, dropped, _flush_guards: [warnings_guard, details_guard] })
    }

    /// Returns a function that counts the dropped lines.
    pub fn dropped(&self) -> impl Fn() -> usize + Send + Sync + use<> {
        let dropped = self.dropped.clone();
        move || dropped.count()
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        self.reporter.stop();
    }
}

fn queue(thread: &str) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LOG_LINES_WAITING_MAX)
        .thread_name(thread)
        .finish(std::io::stderr())
}

/// Two queues, so that debug and info lines never displace warnings.
struct LevelQueues {
    warnings: NonBlocking,
    details: NonBlocking,
}

impl<'a> MakeWriter<'a> for LevelQueues {
    type Writer = NonBlocking;

    fn make_writer(&'a self) -> NonBlocking {
        self.details.clone()
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> NonBlocking {
        if *metadata.level() <= Level::WARN { self.warnings.clone() } else { self.details.clone() }
    }
}

/// The thread that reports the counted repeats once per interval.
#[derive(Debug)]
struct Reporter {
    end: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Reporter {
    fn start(
        limiter: Arc<RepeatLimiter>,
        dropped: DroppedLines,
        interval: Duration,
    ) -> std::io::Result<Self> {
        let (end, ended) = sync_channel(0);
        let report = move || {
            let mut reported = 0;
            loop {
                let timed_out = ended.recv_timeout(interval) == Err(RecvTimeoutError::Timeout);
                limiter.report(interval);
                let lost = dropped.count();
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

    fn stop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that reports repeated log lines failed");
        }
    }
}
