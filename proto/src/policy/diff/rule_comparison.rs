//! One rule beside the rules of another policy: its callers by its calls.

use std::collections::{BTreeMap, HashMap};

use time::OffsetDateTime;

use super::compare::{Budget, Comparison, End, Exhausted};
use super::parts::{Class, Entry, Part, classes, joined, part_counts};
use super::{Access, Change, Changes, Inbound};
use crate::identity::IdPattern;
use crate::policy::Service;
use crate::policy::call::CallPattern;
use crate::policy::index::RuleLists;
use crate::policy::rule::Rule;

/// The shared inbounds, by number, on which nothing of the other policy allows a part, each after which moment.
type Uncovered = Vec<(Option<OffsetDateTime>, Vec<usize>)>;

/// One rule on the inbounds that the other policy serves, too.
#[derive(Debug)]
pub(super) struct RuleComparison<'a, 'c> {
    pub(super) service: &'c Comparison<'a>,
    pub(super) other: &'a Service,
    pub(super) rule: &'a Rule,
    pub(super) shared: &'c [Inbound],
}

impl<'a> RuleComparison<'a, '_> {
    pub(super) fn run(&self, budget: &mut Budget, changes: &mut Changes) -> Result<(), Exhausted> {
        let table = self.table(budget)?;
        let from_counts = part_counts(self.rule.from.len(), &table.peers);
        let call_counts = part_counts(self.calls().len(), &table.calls);
        for (row, peers) in table.rows() {
            let mut columns: BTreeMap<usize, Vec<&Class<'_, CallPattern>>> = BTreeMap::new();
            for (kind, class) in row.iter().zip(&table.calls).filter(|(kind, _)| **kind != COVERED) {
                columns.entry(*kind).or_default().push(class);
            }
            for (kind, columns) in columns {
                for (after, numbers) in table.kinds.get(kind).into_iter().flatten() {
                    changes.push_with(|| {
                        let from = joined(&self.rule.from, &from_counts, &members(&peers));
                        let calls = joined(self.calls(), &call_counts, &members(&columns));
                        let inbounds = numbers.iter().filter_map(|number| self.shared.get(*number));
                        let calls = self.rule.calls.as_ref().map(|_| calls);
                        let access =
                            self.service.access(self.rule, &from, calls, inbounds.cloned().collect());
                        Change::Access(Access { after: *after, ..access })
                    });
                }
            }
        }
        Ok(())
    }

    fn table(&self, budget: &mut Budget) -> Result<Table<'a>, Exhausted> {
        let index = &self.other.index;
        let peers = classes(&self.rule.from, index, budget)?;
        let calls = match &self.rule.calls {
            Some(calls) => classes(calls, index, budget)?,
            None => vec![Class { parts: Vec::new(), covering: index.of_any_bytes() }],
        };
        let mut kinds: Vec<Uncovered> = vec![Vec::new()];
        let mut known: HashMap<Uncovered, usize> = HashMap::from([(Vec::new(), COVERED)]);
        let mut cells = Vec::with_capacity(peers.len());
        for peer in &peers {
            let mut row = Vec::with_capacity(calls.len());
            for call in &calls {
                let uncovered = self.uncovered(&peer.covering, &call.covering, budget)?;
                let next = kinds.len();
                row.push(*known.entry(uncovered).or_insert_with_key(|uncovered| {
                    kinds.push(uncovered.clone());
                    next
                }));
            }
            cells.push(row);
        }
        Ok(Table { peers, calls, kinds, cells })
    }

    fn calls(&self) -> &'a [CallPattern] {
        self.rule.calls.as_deref().unwrap_or_default()
    }

    /// Where nothing of the other policy allows what rules of both lists would, to the last moment of this rule.
    fn uncovered(
        &self,
        peers: &RuleLists<'_>,
        calls: &RuleLists<'_>,
        budget: &mut Budget,
    ) -> Result<Uncovered, Exhausted> {
        let end = End::of(self.rule);
        let mut everywhere = None;
        let mut on_port: HashMap<&str, End> = HashMap::new();
        let (numbers, looked_at) = peers.common(calls);
        budget.spend(1 + looked_at)?;
        for number in numbers {
            let Some(rule) = self.other.rules.get(number as usize) else { continue };
            let covers_until = End::of(rule);
            match rule.port.as_deref() {
                _ if rule.is_over(self.service.from_time) => {}
                None if covers_until >= end => return Ok(Vec::new()),
                None => everywhere = everywhere.max(Some(covers_until)),
                Some(port) => {
                    let last = on_port.entry(port).or_insert(covers_until);
                    *last = covers_until.max(*last);
                }
            }
        }
        budget.spend(self.shared.len())?;
        let mut uncovered: BTreeMap<Option<OffsetDateTime>, Vec<usize>> = BTreeMap::new();
        for (number, inbound) in self.shared.iter().enumerate() {
            let here = inbound.name.as_deref().and_then(|name| on_port.get(name)).copied();
            let after = match everywhere.max(here) {
                Some(until) if until >= end => continue,
                Some(End::At(until)) => Some(until),
                Some(End::Never) | None => None,
            };
            uncovered.entry(after).or_default().push(number);
        }
        Ok(uncovered.into_iter().collect())
    }
}

/// What is not covered, for each class of callers and each of calls.
struct Table<'a> {
    peers: Vec<Class<'a, IdPattern>>,
    calls: Vec<Class<'a, CallPattern>>,
    kinds: Vec<Uncovered>,
    /// The number of a kind for each caller and call.
    cells: Vec<Vec<usize>>,
}

/// The kind of what is covered everywhere.
const COVERED: usize = 0;

impl<'a> Table<'a> {
    /// The rows in which something is not covered, each with all the callers it holds for, in the order of the rule.
    fn rows(&self) -> Vec<(&[usize], Vec<&Class<'a, IdPattern>>)> {
        let mut places: HashMap<&[usize], usize> = HashMap::new();
        let mut rows: Vec<(&[usize], Vec<&Class<'a, IdPattern>>)> = Vec::new();
        let open = |row: &&Vec<usize>| row.iter().any(|kind| *kind != COVERED);
        for (row, peer) in self.cells.iter().zip(&self.peers).filter(|(row, _)| open(row)) {
            let place = *places.entry(row).or_insert(rows.len());
            match rows.get_mut(place) {
                Some((_, peers)) => peers.push(peer),
                None => rows.push((row, vec![peer])),
            }
        }
        rows
    }
}

fn members<'p, P: Entry>(classes: &[&'p Class<'_, P>]) -> Vec<&'p Part<P>> {
    classes.iter().flat_map(|class| &class.parts).collect()
}
