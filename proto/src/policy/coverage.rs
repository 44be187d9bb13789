//! Rules without which nothing would change, because another rule of the same service allows all they allow.

use std::collections::HashMap;

use super::index::RuleLists;
use super::rule::Rule;
use super::service::{Protocol, Service};
use crate::identity::IdPattern;
use crate::policy::CallPattern;

/// `**` is looked at as `*` and `*/**` this often: a rule may cover it by such parts.
const SPLIT_LEVELS_MAX: usize = 8;
/// Lists of rules longer than this are kept as sets once they have been met.
const SHORT_LIST: usize = 64;

/// Pairs of a covered rule and the first rule of the file that covers it. Of two that cover each other, the later
/// is the covered one.
pub(super) fn covered_rules(service: &Service) -> Vec<(&Rule, &Rule)> {
    let mut sets = ListSets::new(service);
    let coverers: Vec<RuleSet> = service.rules.iter().map(|rule| sets.covering_rule(rule)).collect();
    let covers = |b: usize, a: usize| {
        let (Some(wide), Some(narrow)) = (service.rules.get(b), service.rules.get(a)) else { return false };
        coverers.get(a).is_some_and(|set| set.has(b))
            && lasts(wide, narrow)
            && reaches_ports(service, wide, narrow)
    };
    let first_coverer = |a: usize| {
        let candidates = coverers.get(a).into_iter().flat_map(RuleSet::iter).filter(|b| *b != a);
        candidates.into_iter().find(|b| covers(*b, a) && !(a < *b && covers(a, *b)))
    };
    let pairs = service.rules.iter().enumerate().filter_map(|(a, rule)| {
        let coverer = service.rules.get(first_coverer(a)?)?;
        Some((rule, coverer))
    });
    pairs.collect()
}

/// Whether `wide` holds at least as long as `narrow`.
fn lasts(wide: &Rule, narrow: &Rule) -> bool {
    match (&wide.about.expires, &narrow.about.expires) {
        (None, _) => true,
        (Some(wide), Some(narrow)) => wide.last() >= narrow.last(),
        (Some(_), None) => false,
    }
}

/// Whether `wide` is for every port on which `narrow` can allow anything.
fn reaches_ports(service: &Service, wide: &Rule, narrow: &Rule) -> bool {
    let Some(wide_port) = wide.port.as_deref() else { return true };
    let reachable = |protocol: &Protocol| narrow.calls.is_none() || *protocol == Protocol::Http;
    match narrow.port.as_deref() {
        Some(port) => port == wide_port,
        None => service
            .ports
            .iter()
            .flatten()
            .all(|(name, protocol)| !reachable(protocol) || **name == *wide_port),
    }
}

/// Turns lists of rules into sets, remembering the long ones.
struct ListSets<'a> {
    service: &'a Service,
    long: HashMap<*const u32, RuleSet>,
}

impl<'a> ListSets<'a> {
    fn new(service: &'a Service) -> Self {
        Self { service, long: HashMap::new() }
    }

    /// The rules that cover every peer and every call of a rule, itself included.
    fn covering_rule(&mut self, rule: &Rule) -> RuleSet {
        let mut all = RuleSet::full(self.service.rules.len());
        for peer in &rule.from {
            all.keep(&self.covering_peer(peer, SPLIT_LEVELS_MAX));
        }
        match &rule.calls {
            None => all.keep(&self.union(&self.service.index.of_any_bytes())),
            Some(calls) => {
                for call in calls {
                    all.keep(&self.covering_call(call, SPLIT_LEVELS_MAX));
                }
            }
        }
        all
    }

    fn covering_peer(&mut self, peer: &IdPattern, levels: usize) -> RuleSet {
        let mut set = self.union(&self.service.index.covering_peer(peer));
        if let (Some(parts), true) = (peer.split_rest(), levels > 0) {
            let mut by_parts = RuleSet::full(self.service.rules.len());
            for part in &parts {
                by_parts.keep(&self.covering_peer(part, levels - 1));
            }
            set.add(&by_parts);
        }
        set
    }

    fn covering_call(&mut self, call: &CallPattern, levels: usize) -> RuleSet {
        let mut set = self.union(&self.service.index.covering_call(call));
        if let (Some(parts), true) = (call.split_rest(), levels > 0) {
            let mut by_parts = RuleSet::full(self.service.rules.len());
            for part in &parts {
                by_parts.keep(&self.covering_call(part, levels - 1));
            }
            set.add(&by_parts);
        }
        set
    }

    fn union(&mut self, lists: &RuleLists<'_>) -> RuleSet {
        let rules = self.service.rules.len();
        let mut set = RuleSet::empty(rules);
        for list in lists.lists() {
            if list.len() <= SHORT_LIST {
                list.iter().for_each(|number| set.insert(*number as usize));
            } else {
                let long = self.long.entry(list.as_ptr()).or_insert_with(|| {
                    let mut long = RuleSet::empty(rules);
                    list.iter().for_each(|number| long.insert(*number as usize));
                    long
                });
                set.add(long);
            }
        }
        set
    }
}

/// A set of rule numbers.
#[derive(Debug, Clone)]
struct RuleSet(Vec<u64>);

impl RuleSet {
    fn empty(rules: usize) -> Self {
        Self(vec![0; rules.div_ceil(64)])
    }

    fn full(rules: usize) -> Self {
        Self(vec![u64::MAX; rules.div_ceil(64)])
    }

    fn insert(&mut self, number: usize) {
        if let Some(word) = self.0.get_mut(number / 64) {
            *word |= 1 << (number % 64);
        }
    }

    fn has(&self, number: usize) -> bool {
        self.0.get(number / 64).is_some_and(|word| word & (1 << (number % 64)) != 0)
    }

    fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word |= other);
    }

    fn keep(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word &= other);
    }

    fn iter(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().flat_map(|(at, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = left.trailing_zeros();
                left &= left.checked_sub(1)?;
                Some(at * 64 + bit as usize)
            })
        })
    }
}
