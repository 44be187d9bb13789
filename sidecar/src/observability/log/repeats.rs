//! The limiter of repeated log lines: the first line of a kind is written, further ones are counted and reported once
//! per interval. So peers cannot flood the log, and a scanner's lines do not hide other denials.

mod kind;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{Event, Level, Subscriber, error, info, warn};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use kind::{LineKind, LogLine};

/// Maximum number of kinds between two reports, separately for lines about peers with an identity and for all others.
/// Further lines are counted as one kind per callsite.
pub const KINDS_MAX: usize = 1_024;
/// Maximum number of distinct lines of one kind that are written between two reports.
pub const VARIANTS_MAX: usize = 8;

/// The lines written since the last report and the counts of their repeats.
#[derive(Debug, Default)]
pub struct RepeatLimiter {
    /// Lines about peers with an identity have their own table, which other lines cannot fill.
    identified: Mutex<HashMap<LineKind, Repeats>>,
    others: Mutex<HashMap<LineKind, Repeats>>,
}

/// The lines of one kind.
#[derive(Debug)]
struct Repeats {
    level: Level,
    /// Hash of each written line, and the number of its repeats.
    variants: Vec<(u64, u64)>,
    /// Number of lines that were not written.
    count: u64,
    last: Option<LogLine>,
}

impl RepeatLimiter {
    /// Returns whether to write a line; otherwise counts it.
    fn allows(&self, kind: LineKind, level: Level, line: LogLine) -> bool {
        let mut kinds = self.table(&kind);
        let kind = if kinds.len() < KINDS_MAX || kinds.contains_key(&kind) { kind } else { kind.overflow() };
        let repeats = kinds.entry(kind).or_insert_with(|| Repeats {
            level,
            variants: Vec::new(),
            count: 0,
            last: None,
        });
        repeats.record(line)
    }

    /// Reports the lines that were not written since the last report, one `interval` ago. A kind without repeats is
    /// removed: its next line is written.
    pub fn report(&self, interval: Duration) {
        for table in [&self.identified, &self.others] {
            let reports: Vec<_> = {
                let mut kinds = lock(table);
                kinds.retain(|_, repeats| repeats.count > 0);
                kinds
                    .iter_mut()
                    .map(|(kind, repeats)| (kind.clone(), repeats.level, repeats.reset()))
                    .collect()
            };
            // Write outside of the lock, which every log line acquires.
            for (kind, level, (count, last)) in reports {
                write(&kind, level, count, &last, interval);
            }
        }
    }

    fn table(&self, kind: &LineKind) -> MutexGuard<'_, HashMap<LineKind, Repeats>> {
        lock(if kind.is_identified() { &self.identified } else { &self.others })
    }
}

impl Repeats {
    fn record(&mut self, line: LogLine) -> bool {
        if let Some((_, again)) = self.variants.iter_mut().find(|(hash, _)| *hash == line.hash()) {
            *again += 1;
        } else if self.variants.len() < VARIANTS_MAX {
            self.variants.push((line.hash(), 0));
            return true;
        }
        self.count += 1;
        self.last = Some(line);
        false
    }

    fn reset(&mut self) -> (u64, Option<LogLine>) {
        self.variants.retain(|(_, again)| *again > 0);
        self.variants.iter_mut().for_each(|(_, again)| *again = 0);
        (std::mem::take(&mut self.count), self.last.take())
    }
}

fn lock(table: &Mutex<HashMap<LineKind, Repeats>>) -> MutexGuard<'_, HashMap<LineKind, Repeats>> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes one line for all counted repeats.
fn write(kind: &LineKind, level: Level, repeated: u64, last: &Option<LogLine>, interval: Duration) {
    let field = |name| kind.field(name);
    let (direction, from, peer) = (field("direction"), field("from"), field("peer"));
    let (to, service, port) = (field("to"), field("service"), field("port"));
    let (reason, name) = (field("reason").or(field("code")), field("name"));
    let last = last.as_ref().map(LogLine::text);
    let message = kind.message();
    macro_rules! report {
        ($level:ident) => {
            $level!(
                target: kind::REPORT_TARGET,
                direction, from, peer, to, service, port, reason, name, repeated, ?interval, last,
                "{message}: and {repeated} more like it"
            )
        };
    }
    match level {
        Level::ERROR => report!(error),
        Level::WARN => report!(warn),
        _ => report!(info),
    }
}

/// Applies a limiter to lines of level info and above; lower levels are not limited.
pub(super) struct RepeatLimitLayer(pub(super) std::sync::Arc<RepeatLimiter>);

impl<S: Subscriber> Layer<S> for RepeatLimitLayer {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let (metadata, level) = (event.metadata(), *event.metadata().level());
        if level > Level::INFO || metadata.target() == kind::REPORT_TARGET {
            return true;
        }
        let (kind, line) = kind::classify(event);
        self.0.allows(kind, level, line)
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use tracing_subscriber::fmt::MakeWriter;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    /// A writer that captures the output.
    #[derive(Debug, Clone, Default)]
    struct CapturedOutput(Arc<Mutex<Vec<u8>>>);

    impl io::Write for CapturedOutput {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for CapturedOutput {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    impl CapturedOutput {
        fn take(&self) -> Vec<String> {
            let bytes = std::mem::take(&mut *self.0.lock().unwrap());
            String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
        }
    }

    /// Runs `log` with a limiter and a capturing writer.
    fn limited(log: impl FnOnce(&RepeatLimiter, &CapturedOutput)) {
        let (limiter, written) = (Arc::new(RepeatLimiter::default()), CapturedOutput::default());
        let format = tracing_subscriber::fmt::layer().with_writer(written.clone()).with_ansi(false);
        let subscriber = tracing_subscriber::registry().with(format).with(RepeatLimitLayer(limiter.clone()));
        tracing::subscriber::with_default(subscriber, || log(&limiter, &written));
    }

    fn refuse(from: &str, reason: &str, detail: &str) {
        let (direction, service) = ("inbound", Some("payments"));
        warn!(direction, from, service, reason, detail, instance = from.len(), "refused");
    }

    #[test]
    fn a_repeated_refusal_is_written_once_and_then_counted() {
        limited(|limiter, written| {
            for port in 1..=5_312 {
                refuse(&format!("192.0.2.7:{port}"), "not_tls", "not TLS");
            }
            assert_eq!(written.take().len(), 1);
            limiter.report(INTERVAL);
            let report = written.take();
            assert_eq!(report.len(), 1, "{report:?}");
            let words =
                ["refused: and 5311 more like it", "repeated=5311", "10s", "not_tls", "192.0.2.7:5312"];
            assert!(words.iter().all(|word| report[0].contains(word)), "{report:?}");
            limiter.report(INTERVAL);
            assert!(written.take().is_empty(), "nothing came again");
            refuse("192.0.2.7:9", "not_tls", "not TLS");
            assert_eq!(written.take().len(), 1, "a kind that was quiet is written again");
        });
    }

    #[test]
    fn a_kind_that_goes_on_is_one_line_per_interval() {
        limited(|limiter, written| {
            refuse("192.0.2.7:1", "not_tls", "not TLS");
            for _ in 0..5 {
                written.take();
                refuse("192.0.2.7:1", "not_tls", "not TLS");
                limiter.report(INTERVAL);
                assert_eq!(written.take().len(), 1);
            }
        });
    }

    #[test]
    fn different_lines_of_one_kind_are_written_up_to_their_bound() {
        limited(|limiter, written| {
            for number in 0..VARIANTS_MAX + 3 {
                refuse("spiffe://shop.example/a", "denied", &format!("no rule allows GET /{number}"));
            }
            assert_eq!(written.take().len(), VARIANTS_MAX);
            limiter.report(INTERVAL);
            let report = written.take();
            assert!(
                report[0].contains("repeated=3") && report[0].contains(&format!("GET /{}", VARIANTS_MAX + 2))
            );
        });
    }

    #[test]
    fn a_million_strangers_and_reasons_take_no_room_from_a_known_identity() {
        limited(|_, written| {
            for number in 0..KINDS_MAX * 3 {
                refuse("192.0.2.7:1", &format!("reason_{number}"), "not TLS");
            }
            assert_eq!(written.take().len(), KINDS_MAX + VARIANTS_MAX);
            refuse("spiffe://shop.example/a", "denied", "no rule");
            assert_eq!(written.take().len(), 1);
        });
    }

    #[test]
    fn identities_are_told_apart_up_to_a_bound() {
        limited(|limiter, written| {
            for number in 0..KINDS_MAX + 10 {
                refuse(&format!("spiffe://shop.example/{number}"), "denied", "no rule");
            }
            assert_eq!(written.take().len(), KINDS_MAX + VARIANTS_MAX);
            limiter.report(INTERVAL);
            let report = written.take();
            assert!(report[0].contains("repeated=2"), "{report:?}");
        });
    }

    #[test]
    fn lines_of_debug_are_not_limited() {
        limited(|_, written| {
            (0..100).for_each(|_| tracing::debug!("a connection broke"));
            assert_eq!(written.take().len(), 100);
        });
    }
}
