//! Counters of calls that no rule allows, until they are reported to the CA. Their number is bounded whatever peers
//! call.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use postern_proto::identity::SpiffeId;
use postern_proto::wire::v1::call_report::Outcome;
use postern_proto::wire::v1::{CallReport, CallReports};
use time::OffsetDateTime;

/// Maximum number of distinct calls between reports. Further ones only increase `lost`.
pub const CALLS_MAX: usize = 1_000;
/// Maximum number of distinct calls of one caller, so that it cannot displace other callers.
pub const CALLS_OF_ONE_CALLER_MAX: usize = 100;
/// Target number of calls in one report; the rest follows in the next report.
pub const CALLS_REPORTED_MAX: usize = 100;
/// Maximum size of a path, in bytes. A truncated text ends in "…", which no rule can contain.
pub const PATH_BYTES_MAX: usize = 512;
const METHOD_BYTES_MAX: usize = 32;
const GAP_BYTES_MAX: usize = 512;

/// A call that no rule allows.
#[derive(Debug, Clone, Copy)]
pub struct UnallowedCall<'a> {
    pub outcome: Outcome,
    pub from: &'a SpiffeId,
    /// The inbound's name.
    pub port: &'a str,
    /// Method and path; absent for a connection without calls.
    pub call: Option<(&'a str, &'a str)>,
    /// Why no rule matched, as text.
    pub gap: &'a str,
    /// Digest of the policy that made the decision.
    pub policy_digest: &'a str,
}

/// The counters that are not reported yet.
#[derive(Debug, Default)]
pub struct CallCounts {
    counted: Mutex<CallTable>,
}

#[derive(Debug, Default)]
struct CallTable {
    callers: HashMap<SpiffeId, HashMap<CallKey, CallCount>>,
    distinct: usize,
    lost: u64,
}

/// The key by which calls of one caller are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct CallKey {
    outcome: Outcome,
    port: Box<str>,
    method: Box<str>,
    path: Box<str>,
    gap: Box<str>,
    policy_digest: Box<str>,
}

#[derive(Debug, Clone, Copy)]
struct CallCount {
    count: u64,
    first: i64,
    last: i64,
}

impl CallCounts {
    /// Counts one call.
    pub fn record(&self, observed: UnallowedCall<'_>, now: OffsetDateTime) {
        let (method, path) = observed.call.unwrap_or_default();
        let key = CallKey {
            outcome: observed.outcome,
            port: observed.port.into(),
            method: truncate(method, METHOD_BYTES_MAX),
            path: truncate(path, PATH_BYTES_MAX),
            gap: truncate(observed.gap, GAP_BYTES_MAX),
            policy_digest: observed.policy_digest.into(),
        };
        self.lock().count(observed.from, key, now.unix_timestamp());
    }

    /// Removes and returns the next report; `None` if nothing was counted. It takes whole callers until it has at least
    /// [`CALLS_REPORTED_MAX`] calls.
    pub fn take(&self) -> Option<CallReports> {
        let mut counted = self.lock();
        let mut calls = Vec::new();
        while calls.len() < CALLS_REPORTED_MAX
            && let Some(caller) = counted.callers.keys().next().cloned()
        {
            let of_caller = counted.callers.remove(&caller).unwrap_or_default();
            counted.distinct -= of_caller.len();
            calls.extend(of_caller.into_iter().map(|(key, times)| key.report(&caller, times)));
        }
        let lost = std::mem::take(&mut counted.lost);
        (lost > 0 || !calls.is_empty()).then_some(CallReports { calls, lost })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, CallTable> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CallTable {
    fn count(&mut self, from: &SpiffeId, key: CallKey, now: i64) {
        let of_caller = self.callers.get_mut(from);
        if let Some(times) = of_caller.and_then(|distinct| distinct.get_mut(&key)) {
            times.count += 1;
            times.last = now;
            return;
        }
        let of_caller = self.callers.get(from).map_or(0, HashMap::len);
        if self.distinct >= CALLS_MAX || of_caller >= CALLS_OF_ONE_CALLER_MAX {
            self.lost += 1;
            return;
        }
        self.distinct += 1;
        let once = CallCount { count: 1, first: now, last: now };
        self.callers.entry(from.clone()).or_default().insert(key, once);
    }
}

impl CallKey {
    fn report(self, from: &SpiffeId, times: CallCount) -> CallReport {
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

fn truncate(text: &str, bytes_max: usize) -> Box<str> {
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
            UnallowedCall { outcome, from: &from, port: "api", call, gap, policy_digest: "sha256:1" },
            NOW,
        );
    }

    /// All reported calls and the number of lost ones.
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
