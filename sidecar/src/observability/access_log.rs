//! The access log: one JSON line per connection or request, written when it ends. Traffic never waits for the log.

mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use postern_proto::policy::{Decision, Policy, RuleRef};
use serde::Serialize;
use serde::ser::{SerializeStruct as _, Serializer};
use thiserror::Error;
use time::OffsetDateTime;

use crate::config::AccessLogTarget;
use crate::observability::Direction;
use crate::observability::Ended;
use crate::observability::refusals::{Called, Instance};
use writer::{LogWriter, WriterMessage};

/// Maximum size of a path or a refusal detail in a line, in bytes.
pub const TEXT_BYTES_MAX: usize = 8 * 1024;
/// At shutdown, maximum time to wait for the remaining lines to be written.
const LAST_LINES_WAIT: Duration = Duration::from_secs(2);

/// A handle of the access log. If the queue is full, lines are dropped and counted.
#[derive(Debug, Default)]
pub struct AccessLog {
    queue: Option<SyncSender<WriterMessage>>,
    /// Remaining queue capacity for lines about clients without an identity: half of the queue is reserved for others.
    unidentified_capacity: Arc<AtomicUsize>,
    dropped: AtomicU64,
    failed: Arc<AtomicU64>,
}

/// Why the access log could not be opened.
#[derive(Debug, Error)]
pub enum AccessLogError {
    #[error("cannot write the access log {path}")]
    Open {
        path: String,
        #[source]
        error: std::io::Error,
    },
    #[error("cannot start the access log's thread")]
    Thread(#[source] std::io::Error),
}

impl AccessLog {
    /// Opens the target and starts the writer thread, with a queue of `lines_max` lines.
    pub fn open(target: &AccessLogTarget, lines_max: usize) -> Result<Self, AccessLogError> {
        let failed = Arc::<AtomicU64>::default();
        let unidentified_capacity = Arc::new(AtomicUsize::new(lines_max.div_ceil(2)));
        let writer = LogWriter::open(target, failed.clone(), unidentified_capacity.clone())?;
        let (queue, lines) = sync_channel(lines_max);
        let thread = std::thread::Builder::new().name("access-log".to_owned());
        // The thread ends after the queue is dropped and the last line is written, or with the process.
        let _detached = thread.spawn(move || writer.run(&lines)).map_err(AccessLogError::Thread)?;
        Ok(Self { queue: Some(queue), unidentified_capacity, dropped: AtomicU64::new(0), failed })
    }

    /// Whether the access log is enabled, so that callers can skip building entries.
    pub fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    /// Queues one line, or drops it if the queue is full.
    pub fn write(&self, line: &AccessLogEntry<'_>) {
        let Some(queue) = &self.queue else { return };
        let Ok(mut text) = serde_json::to_vec(line) else { return self.count_dropped() };
        text.push(b'\n');
        let unidentified = !line.from.starts_with("spiffe://");
        if unidentified && !self.reserve_unidentified() {
            return self.count_dropped();
        }
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            queue.try_send(WriterMessage::Line { text, unidentified })
        {
            if unidentified {
                self.unidentified_capacity.fetch_add(1, Ordering::Relaxed);
            }
            self.count_dropped();
        }
    }

    fn reserve_unidentified(&self) -> bool {
        let take = |capacity: usize| capacity.checked_sub(1);
        self.unidentified_capacity.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    fn count_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Numbers of lines that were dropped because the queue was full, and that could not be written.
    pub fn lost_lines(&self) -> (u64, u64) {
        (self.dropped.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }

    /// Reopens the file, after log rotation has moved it.
    pub fn reopen(&self) {
        if let Some(queue) = &self.queue
            && queue.try_send(WriterMessage::Reopen).is_err()
        {
            tracing::warn!("the access log is too far behind to be opened anew; try again");
        }
    }

    /// Waits until the queued lines are written, for at most `LAST_LINES_WAIT`.
    pub fn flush(&self) {
        let Some(queue) = &self.queue else { return };
        let (done, wait) = sync_channel(1);
        let deadline = Instant::now() + LAST_LINES_WAIT;
        let mut message = WriterMessage::Flush(done);
        while let Err(TrySendError::Full(back)) = queue.try_send(message) {
            if Instant::now() >= deadline {
                return;
            }
            message = back;
            std::thread::yield_now();
        }
        // A timeout is ignored: the process ends.
        let _flushed = wait.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

/// The outcome of one connection or request.
#[derive(Debug, Clone, Default)]
pub struct AccessRecord {
    pub decision: Option<&'static str>,
    pub rule: Option<Arc<RuleRef>>,
    /// Digest (`sha256:…`) of the policy that made the decision.
    pub policy: Option<Arc<str>>,
    /// A stable code, unless the connection or request was simply allowed.
    pub reason: Option<&'static str>,
    pub detail: Option<String>,
    pub status: Option<u16>,
    pub address: Option<String>,
    pub trace_id: Option<String>,
    /// The identifier of the refusal that was sent to the client.
    pub instance: Option<Instance>,
    pub ended: Option<Ended>,
}

impl AccessRecord {
    /// Records the policy's decision.
    pub fn decided(&mut self, decision: &Decision, policy: &Policy) {
        self.decision = Some(decision.as_str());
        self.policy = Some(policy.digest_shared());
        match decision {
            Decision::Allow { rule } => self.rule = Some(rule.clone()),
            Decision::Deny { .. } | Decision::Observed { .. } => self.detail = Some(decision.reason()),
        }
    }

    /// Records that it was refused or aborted.
    pub fn refused(&mut self, reason: &'static str, detail: &str) {
        self.decision.get_or_insert("refused");
        (self.reason, self.detail) = (Some(reason), Some(detail.to_owned()));
    }
}

/// One line of the log; docs/ACCESS_LOG.md describes its keys.
#[derive(Debug)]
pub struct AccessLogEntry<'a> {
    pub time: OffsetDateTime,
    pub direction: Direction,
    pub protocol: &'static str,
    /// The client's SPIFFE ID, or its address if it presented none.
    pub from: &'a str,
    pub called: &'a Called,
    /// Method and path.
    pub call: Option<(&'a str, &'a str)>,
    pub record: &'a AccessRecord,
    /// Bytes from the peer to the app, and from the app to the peer.
    pub bytes: (u64, u64),
    pub duration: Duration,
    /// The connection's number in `/connections`; absent if several connections share one.
    pub connection: Option<u64>,
}

impl Serialize for AccessLogEntry<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { record, called, .. } = self;
        let (to_app, to_peer) = self.bytes;
        let (bytes_in, bytes_out) = match self.direction {
            Direction::Inbound => (to_app, to_peer),
            Direction::Outbound => (to_peer, to_app),
        };
        let rule = record.rule.as_ref().map(|rule| Rule { file: &rule.file, line: rule.line });
        let mut line = serializer.serialize_struct("line", 26)?;
        line.serialize_field("time", &Timestamp(self.time))?;
        line.serialize_field("direction", &self.direction)?;
        line.serialize_field("protocol", self.protocol)?;
        line.serialize_field("decision", record.decision.unwrap_or("allow"))?;
        line.serialize_field("reason", &record.reason)?;
        line.serialize_field("detail", &record.detail.as_deref().map(truncate))?;
        line.serialize_field("from", self.from)?;
        line.serialize_field("to", &called.id)?;
        line.serialize_field("service", &called.service)?;
        line.serialize_field("port", &called.port)?;
        line.serialize_field("address", &record.address.as_ref().or(called.address.as_ref()))?;
        line.serialize_field("method", &self.call.map(|(method, _)| method))?;
        line.serialize_field("path", &self.call.map(|(_, path)| truncate(path)))?;
        line.serialize_field("status", &record.status)?;
        line.serialize_field("rule", &rule)?;
        line.serialize_field("policy", &record.policy.as_deref())?;
        line.serialize_field("bytes_in", &bytes_in)?;
        line.serialize_field("bytes_out", &bytes_out)?;
        line.serialize_field("duration_ms", &(self.duration.as_micros() as f64 / 1e3))?;
        line.serialize_field("trace_id", &record.trace_id)?;
        line.serialize_field("connection", &self.connection)?;
        line.serialize_field("instance", &record.instance.map(|instance| instance.to_string()))?;
        let ended = record.ended;
        line.serialize_field("ended_by", &ended.map(|ended| ended.by.as_str(self.direction)))?;
        line.serialize_field("ended_with", &ended.map(|ended| ended.with))?;
        line.end()
    }
}

#[derive(Serialize)]
struct Rule<'a> {
    file: &'a str,
    line: u32,
}

/// RFC 3339 in UTC, to the millisecond.
struct Timestamp(OffsetDateTime);

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (at, millisecond) = (self.0, self.0.millisecond());
        let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
        let (hour, minute, second) = (at.hour(), at.minute(), at.second());
        serializer.collect_str(&format_args!(
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z"
        ))
    }
}

/// Truncates a text that may come from a peer to [`TEXT_BYTES_MAX`].
fn truncate(text: &str) -> &str {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}
