//! One service under two policies: what the rules of one allow and nothing of the other does.

use std::collections::HashMap;

use time::OffsetDateTime;

use super::inbounds::Inbounds;
use super::rule_comparison::RuleComparison;
use super::{Access, Change, Changes, DIFF_STEPS_MAX, Inbound, place};
use crate::identity::IdPattern;
use crate::policy::call::CallPattern;
use crate::policy::rule::{Rule, RuleKey};
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
pub(super) enum End {
    At(OffsetDateTime),
    Never,
}

impl End {
    pub(super) fn of(rule: &Rule) -> Self {
        rule.about.expires.as_ref().map_or(Self::Never, |expires| Self::At(expires.last()))
    }
}

/// One service under two policies.
#[derive(Debug)]
pub(super) struct Comparison<'a> {
    allowing: &'a Policy,
    service: &'a Service,
    other: Option<&'a Service>,
    /// The same rules in the other policy.
    identical_rules: HashMap<RuleKey<'a>, End>,
    inbounds: Inbounds,
    pub(super) from_time: OffsetDateTime,
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
            identical_rules: rules.iter().map(|rule| (rule.key(), End::of(rule))).collect(),
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
                RuleComparison { service: self, other, rule, shared: &shared }.run(budget, changes)
            }
            _ => Ok(()),
        }
    }

    fn has_lasting_twin(&self, rule: &Rule) -> bool {
        self.identical_rules.get(&rule.key()).is_some_and(|end| *end >= End::of(rule))
    }

    pub(super) fn access(
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
