//! Calls that no rule allows, as sidecars report them: one row for each kind, in memory and bounded.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use postern_proto::identity::SpiffeId;
use postern_proto::wire::v1::CallReport;
use postern_proto::wire::v1::call_report::Outcome;

/// One identity's sidecars hold at most one in so many of the rows, so that they drive no other's out.
const SHARE_OF_ONE: usize = 10;
/// A port's name, a method and a digest have at most so many bytes.
const WORD_BYTES_MAX: usize = 128;
/// A path and a gap have at most so many bytes; sidecars cut theirs shorter.
const TEXT_BYTES_MAX: usize = 1024;

/// The rows, each with its number; a newer row has a greater one.
#[derive(Debug)]
pub(super) struct CallRows {
    rows_max: usize,
    rows: BTreeMap<u64, CallRow>,
    numbers: HashMap<CallKind, u64>,
    /// All rows, and those of each identity, the one whose last call is longest ago first.
    by_age: BTreeSet<Age>,
    of_identity: HashMap<SpiffeId, BTreeSet<Age>>,
    added: u64,
    lost: u64,
}

/// When a row's last call was, and its number.
type Age = (i64, u64);

/// What makes calls the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CallKind {
    pub outcome: Outcome,
    pub from: SpiffeId,
    pub to: SpiffeId,
    pub port: String,
    /// Empty for a connection that carries no calls.
    pub method: String,
    pub path: String,
    /// What no rule had.
    pub gap: String,
}

/// Calls of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallRow {
    pub kind: CallKind,
    /// Of the policy that decided the last of them.
    pub policy_digest: String,
    pub count: u64,
    /// Unix seconds.
    pub first: i64,
    pub last: i64,
}

impl CallRow {
    /// Reads what a sidecar of `to` reports at `now`, in Unix seconds; nothing where it is no report.
    pub fn of_report(to: &SpiffeId, report: CallReport, now: i64) -> Option<Self> {
        let outcome = report.outcome();
        let CallReport { from, port, method, path, gap, policy_digest, count, first, last, .. } = report;
        let words = [&port, &method, &policy_digest].iter().all(|word| word.len() <= WORD_BYTES_MAX);
        let texts = [&path, &gap].iter().all(|text| text.len() <= TEXT_BYTES_MAX);
        if !words || !texts || outcome == Outcome::Unspecified {
            return None;
        }
        let from = SpiffeId::parse(&from).ok()?;
        let kind = CallKind { outcome, from, to: to.clone(), port, method, path, gap };
        // No clock that is fast makes a row look younger than what comes later.
        let last = last.min(now);
        Some(Self { kind, policy_digest, count, first: first.min(last), last })
    }
}

impl CallRows {
    pub(super) fn new(rows_max: usize) -> Self {
        let (rows, numbers) = (BTreeMap::new(), HashMap::new());
        let (by_age, of_identity) = (BTreeSet::new(), HashMap::new());
        Self { rows_max, rows, numbers, by_age, of_identity, added: 0, lost: 0 }
    }

    /// Adds calls to the row of their kind. A new row without room takes the place of the one whose last call is
    /// longest ago: of the same identity, where that has its share, else of all.
    pub(super) fn add(&mut self, new: CallRow) {
        let known = self.numbers.get(&new.kind).copied();
        if let Some((number, mut row)) = known.and_then(|number| self.take(number)) {
            row.count = row.count.saturating_add(new.count);
            (row.first, row.last) = (row.first.min(new.first), row.last.max(new.last));
            row.policy_digest = new.policy_digest;
            return self.put(number, row);
        }
        let own = self.of_identity.get(&new.kind.to);
        if own.is_some_and(|own| own.len() >= (self.rows_max / SHARE_OF_ONE).max(1)) {
            self.drop_row(own.and_then(BTreeSet::first).copied());
        } else if self.rows.len() >= self.rows_max {
            self.drop_row(self.by_age.first().copied());
        }
        self.added += 1;
        self.put(self.added, new);
    }

    /// Counts calls that are in no row.
    pub(super) fn lose(&mut self, calls: u64) {
        self.lost = self.lost.saturating_add(calls);
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// At most `limit` rows after a number.
    pub(super) fn after(&self, number: u64, limit: usize) -> Vec<(u64, CallRow)> {
        let rows = self.rows.range(number.saturating_add(1)..).take(limit);
        rows.map(|(number, row)| (*number, row.clone())).collect()
    }

    fn drop_row(&mut self, row: Option<Age>) {
        if let Some((_, row)) = row.and_then(|(_, number)| self.take(number)) {
            self.lose(row.count);
        }
    }

    fn put(&mut self, number: u64, row: CallRow) {
        let age = (row.last, number);
        self.by_age.insert(age);
        self.of_identity.entry(row.kind.to.clone()).or_default().insert(age);
        self.numbers.insert(row.kind.clone(), number);
        self.rows.insert(number, row);
    }

    fn take(&mut self, number: u64) -> Option<(u64, CallRow)> {
        let row = self.rows.remove(&number)?;
        let age = (row.last, number);
        self.by_age.remove(&age);
        self.numbers.remove(&row.kind);
        if let Some(own) = self.of_identity.get_mut(&row.kind.to) {
            own.remove(&age);
            if own.is_empty() {
                self.of_identity.remove(&row.kind.to);
            }
        }
        Some((number, row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(path: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://shop.example/{path}")).unwrap()
    }

    fn report(path: &str, count: u64, at: i64) -> CallReport {
        CallReport {
            outcome: Outcome::Refused.into(),
            from: id("reports").to_string(),
            port: "api".to_owned(),
            method: "POST".to_owned(),
            path: path.to_owned(),
            gap: "no rule names this caller".to_owned(),
            policy_digest: "sha256:00".to_owned(),
            count,
            first: at,
            last: at,
        }
    }

    fn row(to: &str, path: &str, count: u64, at: i64) -> CallRow {
        CallRow::of_report(&id(to), report(path, count, at), 1_000).unwrap()
    }

    #[test]
    fn calls_of_one_kind_are_one_row_whoever_reports_them_and_when() {
        let mut rows = CallRows::new(100);
        rows.add(row("payments", "/charge", 2, 10));
        rows.add(row("payments", "/charge", 3, 5));
        rows.add(row("payments", "/refund", 1, 10));
        rows.add(row("orders", "/charge", 1, 10));
        let all = rows.after(0, 10);
        assert_eq!(all.len(), 3);
        let (number, first) = &all[0];
        assert_eq!((*number, first.count, first.first, first.last), (1, 5, 5, 10));
        assert_eq!(rows.after(1, 1)[0].1.kind.path, "/refund");
    }

    #[test]
    fn what_is_longest_ago_gives_way_and_one_identity_keeps_to_its_share() {
        let mut rows = CallRows::new(20);
        rows.add(row("quiet", "/once", 7, 0));
        for number in 0..50 {
            rows.add(row("noisy", &format!("/{number}"), 1, 100 + number));
        }
        assert_eq!((rows.rows.len(), rows.lost()), (3, 48));
        for number in 0..30 {
            rows.add(row(&format!("s{number}"), "/", 1, 200 + number));
        }
        assert_eq!((rows.rows.len(), rows.numbers.len(), rows.by_age.len()), (20, 20, 20));
        assert_eq!(rows.of_identity.len(), 20);
        assert_eq!(rows.lost(), 48 + 7 + 2 + 10);
    }

    #[test]
    fn no_clock_is_ahead_of_the_cas() {
        let row = row("payments", "/", 1, i64::MAX);
        assert_eq!((row.first, row.last), (1_000, 1_000));
    }

    #[test]
    fn what_is_no_report_is_not_read_as_one() {
        for bad in [
            CallReport { from: "orders".to_owned(), ..report("/", 1, 0) },
            CallReport { outcome: 0, ..report("/", 1, 0) },
            CallReport { outcome: 9, ..report("/", 1, 0) },
            CallReport { port: "p".repeat(WORD_BYTES_MAX + 1), ..report("/", 1, 0) },
            report(&"p".repeat(TEXT_BYTES_MAX + 1), 1, 0),
        ] {
            assert_eq!(CallRow::of_report(&id("payments"), bad, 1_000), None);
        }
    }
}
