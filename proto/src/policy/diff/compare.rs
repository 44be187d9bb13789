//! One service under two policies: what the rules of one allow and nothing of the other does.

use std::collections::{BTreeMap, HashMap};

use time::OffsetDateTime;

use super::inbounds::Inbounds;
use super::parts::{Class, Entry, Part, classes, joined, part_counts};
use super::{Access, Change, Changes, DIFF_STEPS_MAX, Inbound, place};
use crate::identity::IdPattern;
use crate::policy::call::CallPattern;
use crate::policy::index::RuleLists;
use crate::policy::rule::{Rule, RuleSense};
use crate::policy::service::Mode;
use crate::policy::{Policy, Service};

/// What may still be looked up.
#[derive(Debug)]
pub(super) struct Budget {
    steps_left: usize,
}

/// The budget is spent.
#[derive(Debug)]
pub(super) struct Exhausted;

impl Default for Budget {
    fn default() -> Self {
        Self { steps_left: DIFF_STEPS_MAX }
    }
}

impl Budget {
    pub(super) fn spend(&mut self, steps: usize) -> Result<(), Exhausted> {
        self.steps_left = self.steps_left.checked_sub(steps).ok_or(Exhausted)?;
        Ok(())
    }
}

/// When a rule ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    At(OffsetDateTime),
    Never,
}

impl End {
    fn of(rule: &Rule) -> Self {
        rule.about.expires.as_ref().map_or(Self::Never, |expires| Self::At(expires.last()))
    }
}

/// The shared inbounds, by number, on which nothing of the other policy allows a part, each after which moment.
type Uncovered = Vec<(Option<OffsetDateTime>, Vec<usize>)>;

/// One service under two policies.
#[derive(Debug)]
pub(super) struct Comparison<'a> {
    allowing: &'a Policy,
    service: &'a Service,
    other: Option<&'a Service>,
    /// The same rules in the other policy.
    twins: HashMap<RuleSense<'a>, End>,
    inbounds: Inbounds,
    from_time: OffsetDateTime,
}

impl<'a> Comparison<'a> {
    pub(super) fn new(
        allowing: &'a Policy,
        service: &'a Service,
        other: Option<&'a Service>,
        from_time: OffsetDateTime,
    ) -> Self {
        let rules = other.map(|other| other.rules.as_slice()).unwrap_or_default();
        Self {
            allowing,
            service,
            other,
            twins: rules.iter().map(|rule| (rule.sense(), End::of(rule))).collect(),
            inbounds: Inbounds::new(service, other),
            from_time,
        }
    }

    pub(super) fn run(&self, budget: &mut Budget, changes: &mut Changes) {
        self.observed(changes);
        for rule in self.service.rules.iter().filter(|rule| !rule.is_over(self.from_time)) {
            if self.rule(rule, budget, changes).is_err() {
                changes.push(Change::NotCompared { rule: rule.about.clone() });
            }
        }
    }

    /// Where only one of the two observes, there is a caller whom no rule of the other covers: one of a trust domain
    /// that no rule names, or any with CONNECT.
    fn observed(&self, changes: &mut Changes) {
        let Inbounds { mut foreign, shared } = self.inbounds.clone();
        if !self.other.is_some_and(|other| other.mode == Mode::Observe) {
            foreign.extend(shared);
        }
        if self.service.mode == Mode::Observe && !foreign.is_empty() {
            changes.push(Change::Observed {
                service: self.service.name().to_owned(),
                identity: self.service.identity().clone(),
                inbounds: foreign,
                place: place(self.allowing, self.service),
            });
        }
    }

    fn rule(&self, rule: &'a Rule, budget: &mut Budget, changes: &mut Changes) -> Result<(), Exhausted> {
        if self.inbounds.foreign.is_empty() && self.has_lasting_twin(rule) {
            return Ok(());
        }
        budget.spend(self.inbounds.foreign.len() + self.inbounds.shared.len())?;
        let Inbounds { foreign, shared } = self.inbounds.of_rule(rule);
        if !foreign.is_empty() {
            changes.push(Change::Access(self.access(rule, &rule.from, rule.calls.clone(), foreign)));
        }
        match self.other {
            _ if shared.is_empty() || self.has_lasting_twin(rule) => Ok(()),
            Some(other) if other.mode == Mode::Enforce => {
                let comparison = RuleComparison { service: self, other, rule, shared: &shared };
                comparison.run(budget, changes)
            }
            _ => Ok(()),
        }
    }

    fn has_lasting_twin(&self, rule: &Rule) -> bool {
        self.twins.get(&rule.sense()).is_some_and(|end| *end >= End::of(rule))
    }

    fn access(
        &self,
        rule: &Rule,
        from: &[IdPattern],
        calls: Option<Vec<CallPattern>>,
        inbounds: Vec<Inbound>,
    ) -> Access {
        Access {
            rule: rule.about.clone(),
            service: self.service.identity().clone(),
            from: from.iter().map(|peer| self.allowing.spelling_of(peer)).collect(),
            calls,
            inbounds,
            after: None,
        }
    }
}

/// One rule on the inbounds that the other policy serves, too.
struct RuleComparison<'a, 'c> {
    service: &'c Comparison<'a>,
    other: &'a Service,
    rule: &'a Rule,
    shared: &'c [Inbound],
}

impl<'a> RuleComparison<'a, '_> {
    fn run(&self, budget: &mut Budget, changes: &mut Changes) -> Result<(), Exhausted> {
        let index = &self.other.index;
        let peers = classes(&self.rule.from, index, budget)?;
        let calls = match &self.rule.calls {
            Some(calls) => classes(calls, index, budget)?,
            None => vec![Class { parts: Vec::new(), covering: index.of_any_bytes() }],
        };
        let mut kinds: Vec<Uncovered> = vec![Vec::new()];
        let mut known: HashMap<Uncovered, usize> = HashMap::from([(Vec::new(), 0)]);
        let mut rows: HashMap<Vec<usize>, Vec<&Class<'_, IdPattern>>> = HashMap::new();
        for peer in &peers {
            let mut row = Vec::with_capacity(calls.len());
            for call in &calls {
                let uncovered = self.uncovered(&peer.covering, &call.covering, budget)?;
                let next = kinds.len();
                let kind = *known.entry(uncovered).or_insert_with_key(|uncovered| {
                    kinds.push(uncovered.clone());
                    next
                });
                row.push(kind);
            }
            if row.iter().any(|kind| *kind != 0) {
                rows.entry(row).or_default().push(peer);
            }
        }
        let counts = (part_counts(self.rule.from.len(), &peers), part_counts(self.calls().len(), &calls));
        let mut rows: Vec<_> = rows.into_iter().collect();
        rows.sort_by_key(|(_, peers)| first_entry(peers));
        for (row, peers) in rows {
            let from = joined(&self.rule.from, &counts.0, &members(&peers));
            for (number, kind) in kinds.iter().enumerate().skip(1) {
                let columns = row.iter().zip(&calls).filter(|(kind, _)| **kind == number);
                let columns: Vec<_> = columns.map(|(_, class)| class).collect();
                if columns.is_empty() {
                    continue;
                }
                let calls = joined(self.calls(), &counts.1, &members(&columns));
                self.report(kind, &from, self.rule.calls.as_ref().map(|_| calls), changes);
            }
        }
        Ok(())
    }

    fn calls(&self) -> &'a [CallPattern] {
        self.rule.calls.as_deref().unwrap_or_default()
    }

    fn report(
        &self,
        kind: &Uncovered,
        from: &[IdPattern],
        calls: Option<Vec<CallPattern>>,
        changes: &mut Changes,
    ) {
        for (after, numbers) in kind {
            let inbounds = numbers.iter().filter_map(|number| self.shared.get(*number)).cloned().collect();
            let access = self.service.access(self.rule, from, calls.clone(), inbounds);
            changes.push(Change::Access(Access { after: *after, ..access }));
        }
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

fn members<'p, P: Entry>(classes: &[&'p Class<'_, P>]) -> Vec<&'p Part<P>> {
    classes.iter().flat_map(|class| &class.parts).collect()
}

fn first_entry<P>(classes: &[&Class<'_, P>]) -> Option<usize> {
    classes.iter().flat_map(|class| &class.parts).map(|part| part.entry).min()
}
