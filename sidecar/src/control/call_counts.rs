//! Calls that no rule allows, counted apart until the CA is told of them: bounded, whoever calls and whatever they ask.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use postern_proto::identity::SpiffeId;
use postern_proto::wire::v1::call_report::Outcome;
use postern_proto::wire::v1::{CallReport, CallReports};
use time::OffsetDateTime;

/// So many different calls are counted apart until they are told; of further ones only the number is.
pub const CALLS_MAX: usize = 1_000;
/// And so many of one caller, so that none drives the others out.
pub const CALLS_OF_ONE_CALLER_MAX: usize = 100;
/// One report tells so many; the next tells more.
pub const CALLS_REPORTED_MAX: usize = 100;
/// A path, a method or a gap is kept up to so many bytes; what is cut ends in "…", which no rule can name.
pub const PATH_BYTES_MAX: usize = 512;
const METHOD_BYTES_MAX: usize = 32;
const GAP_BYTES_MAX: usize = 512;

/// One call that no rule allows.
#[derive(Debug, Clone, Copy)]
pub struct CallSeen<'a> {
    pub outcome: Outcome,
    pub from: &'a SpiffeId,
    /// The inbound's name.
    pub port: &'a str,
    /// Method and path; absent for a connection that carries no calls.
    pub call: Option<(&'a str, &'a str)>,
    /// What no rule had, in words.
    pub gap: &'a str,
    /// Of the policy that decided.
    pub policy_digest: &'a str,
}

/// What is not told yet.
#[derive(Debug, Default)]
pub struct CallCounts {
    counted: Mutex<Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    callers: HashMap<SpiffeId, HashMap<Kind, Times>>,
    kinds: usize,
    lost: u64,
}

/// What makes calls of one caller the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    outcome: Outcome,
    port: Box<str>,
    method: Box<str>,
    path: Box<str>,
    gap: Box<str>,
    policy_digest: Box<str>,
}

#[derive(Debug, Clone, Copy)]
struct Times {
    count: u64,
    first: i64,
    last: i64,
}

impl CallCounts {
    /// Counts one call.
    pub fn record(&self, seen: CallSeen<'_>, now: OffsetDateTime) {
        let (method, path) = seen.call.unwrap_or_default();
        let kind = Kind {
            outcome: seen.outcome,
            port: seen.port.into(),
            method: cut(method, METHOD_BYTES_MAX),
            path: cut(path, PATH_BYTES_MAX),
            gap: cut(seen.gap, GAP_BYTES_MAX),
            policy_digest: seen.policy_digest.into(),
        };
        self.lock().count(seen.from, kind, now.unix_timestamp());
    }

    /// Takes the next report, at most [`CALLS_REPORTED_MAX`] of what was counted; none when nothing was.
    pub fn take(&self) -> Option<CallReports> {
        let mut counted = self.lock();
        let mut calls = Vec::new();
        while calls.len() < CALLS_REPORTED_MAX
            && let Some(caller) = counted.callers.keys().next().cloned()
        {
            let of_caller = counted.callers.remove(&caller).unwrap_or_default();
            counted.kinds -= of_caller.len();
            calls.extend(of_caller.into_iter().map(|(kind, times)| kind.report(&caller, times)));
        }
        let lost = std::mem::take(&mut counted.lost);
        (lost > 0 || !calls.is_empty()).then_some(CallReports { calls, lost })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counted {
    fn count(&mut self, from: &SpiffeId, kind: Kind, now: i64) {
        let of_caller = self.callers.get_mut(from);
        if let Some(times) = of_caller.and_then(|kinds| kinds.get_mut(&kind)) {
            times.count += 1;
            times.last = now;
            return;
        }
        let of_caller = self.callers.get(from).map_or(0, HashMap::len);
        if self.kinds >= CALLS_MAX || of_caller >= CALLS_OF_ONE_CALLER_MAX {
            self.lost += 1;
            return;
        }
        self.kinds += 1;
        let once = Times { count: 1, first: now, last: now };
        self.callers.entry(from.clone()).or_default().insert(kind, once);
    }
}

impl Kind {
    fn report(self, from: &SpiffeId, times: Times) -> CallReport {
        CallReport {
            outcome: self.outcome.into(),
            from: from.to_string(),
            port: self.port.into(),
            method: self.method.into(),
            path: self.path.into(),
            gap: self.gap.into(),
            policy_digest: self.policy_digest.into(),
            count: times.count,
            first: times.first,
            last: times.last,
        }
    }
}

fn cut(text: &str, bytes_max: usize) -> Box<str> {
    if text.len() <= bytes_max {
        return text.into();
    }
    let end = text.floor_char_boundary(bytes_max);
    format!("{}…", text.get(..end).unwrap_or_default()).into()
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);

    fn id(name: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://shop.example/{name}")).unwrap()
    }

    fn record(counts: &CallCounts, from: &str, path: &str) {
        let (from, call) = (id(from), Some(("GET", path)));
        let gap = "no rule matches";
        let outcome = Outcome::Refused;
        counts.record(
            CallSeen { outcome, from: &from, port: "api", call, gap, policy_digest: "sha256:1" },
            NOW,
        );
    }

    /// Everything, report by report.
    fn taken(counts: &CallCounts) -> (Vec<CallReport>, u64) {
        let (mut calls, mut lost) = (Vec::new(), 0);
        while let Some(report) = counts.take() {
            assert!(report.calls.len() < CALLS_REPORTED_MAX + CALLS_OF_ONE_CALLER_MAX);
            calls.extend(report.calls);
            lost += report.lost;
        }
        (calls, lost)
    }

    #[test]
    fn the_same_call_is_one_entry_with_its_number_and_times() {
        let counts = CallCounts::default();
        assert!(counts.take().is_none());
        for _ in 0..3 {
            record(&counts, "orders", "/a");
        }
        record(&counts, "reports", "/a");
        let (mut calls, lost) = taken(&counts);
        calls.sort_by_key(|call| call.count);
        assert_eq!(
            (calls.len(), calls[1].count, calls[1].from.as_str(), lost),
            (2, 3, id("orders").as_str(), 0)
        );
        assert_eq!((calls[1].first, calls[1].last), (NOW.unix_timestamp(), NOW.unix_timestamp()));
        assert!(counts.take().is_none(), "what was told is not told again");
    }

    #[test]
    fn one_caller_of_many_paths_drives_no_other_out() {
        let counts = CallCounts::default();
        for n in 0..5_000 {
            record(&counts, "attacker", &format!("/{n}"));
        }
        record(&counts, "orders", "/a");
        let (calls, lost) = taken(&counts);
        assert_eq!(calls.len(), CALLS_OF_ONE_CALLER_MAX + 1);
        assert_eq!(lost, 5_000 - u64::try_from(CALLS_OF_ONE_CALLER_MAX).unwrap());
    }

    #[test]
    fn many_callers_are_bounded_too_and_known_calls_still_counted() {
        let counts = CallCounts::default();
        for n in 0..CALLS_MAX + 5 {
            record(&counts, &format!("x{n}"), "/a");
        }
        record(&counts, "x0", "/a");
        let (calls, lost) = taken(&counts);
        assert_eq!((calls.len(), lost), (CALLS_MAX, 5));
        assert!(calls.iter().any(|call| call.count == 2));
        record(&counts, "again", "/a");
        assert_eq!(taken(&counts).0.len(), 1, "told calls make room");
    }

    #[test]
    fn a_path_without_end_is_cut_so_that_no_rule_can_name_it() {
        let counts = CallCounts::default();
        record(&counts, "orders", &format!("/{}", "é".repeat(10_000)));
        let (calls, _) = taken(&counts);
        assert!(calls[0].path.len() <= PATH_BYTES_MAX + "…".len() && calls[0].path.ends_with('…'));
    }
}
