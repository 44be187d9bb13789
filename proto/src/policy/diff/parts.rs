//! The entries of a rule as parts that one entry of another policy covers whole or not at all.

use std::collections::HashMap;

use super::compare::{Budget, Exhausted};
use crate::identity::IdPattern;
use crate::policy::call::CallPattern;
use crate::policy::index::{RuleIndex, RuleLists};

/// Parts of entries that the same rules of the other policy cover.
#[derive(Debug)]
pub(super) struct Class<'a, P> {
    pub(super) parts: Vec<Part<P>>,
    pub(super) covering: RuleLists<'a>,
}

/// A piece of one entry: all of it, or what a `**` matches of one length.
#[derive(Debug, Clone)]
pub(super) struct Part<P> {
    /// Which entry of the rule's list.
    pub(super) entry: usize,
    pub(super) pattern: P,
}

/// What `from` and `calls` are lists of.
pub(super) trait Entry: Clone {
    /// With how many segments the last pattern of the index ends that could cover a part of this one.
    fn depth_max(&self, index: &RuleIndex) -> usize;
    fn depth(&self) -> usize;
    /// For one that ends in `**`: the parts with one more segment, the one that still ends in `**` last.
    fn split(&self) -> Option<Vec<Self>>;
    /// Whether anything is short enough to match.
    fn is_possible(&self) -> bool;
    fn covering<'a>(&self, index: &'a RuleIndex) -> RuleLists<'a>;
}

impl Entry for IdPattern {
    fn depth_max(&self, index: &RuleIndex) -> usize {
        if self.path().has_rest() { index.depth_of_peer(self) } else { 0 }
    }

    fn depth(&self) -> usize {
        self.path().segments().len()
    }

    fn split(&self) -> Option<Vec<Self>> {
        self.split_rest().map(Vec::from)
    }

    fn is_possible(&self) -> bool {
        self.has_short_ids()
    }

    fn covering<'a>(&self, index: &'a RuleIndex) -> RuleLists<'a> {
        index.covering_peer(self)
    }
}

impl Entry for CallPattern {
    fn depth_max(&self, index: &RuleIndex) -> usize {
        if self.path().has_rest() { index.depth_of_call(self) } else { 0 }
    }

    fn depth(&self) -> usize {
        self.path().segments().len()
    }

    fn split(&self) -> Option<Vec<Self>> {
        self.split_rest().map(Vec::from)
    }

    fn is_possible(&self) -> bool {
        self.has_short_paths()
    }

    fn covering<'a>(&self, index: &'a RuleIndex) -> RuleLists<'a> {
        index.covering_call(self)
    }
}

/// The parts of all entries of a list, by the rules that cover them. None of the other policy: one class that
/// nothing covers.
pub(super) fn classes<'a, P: Entry>(
    entries: &[P],
    index: &'a RuleIndex,
    budget: &mut Budget,
) -> Result<Vec<Class<'a, P>>, Exhausted> {
    let mut classes: Vec<Class<'a, P>> = Vec::new();
    let mut numbers: HashMap<Vec<*const u32>, usize> = HashMap::new();
    for part in parts(entries, index, budget)? {
        let covering = part.pattern.covering(index);
        let mut key: Vec<_> = covering.lists().map(<[u32]>::as_ptr).collect();
        key.sort_unstable();
        budget.spend(1 + part.pattern.depth() + key.len())?;
        let number = *numbers.entry(key).or_insert(classes.len());
        match classes.get_mut(number) {
            Some(class) => class.parts.push(part),
            None => classes.push(Class { parts: vec![part], covering }),
        }
    }
    Ok(classes)
}

/// What a segment of a part costs: mostly memory.
const SEGMENT_STEPS: usize = 16;

/// Past `depth_max` no pattern of the index tells two lengths apart, so the last `**` stays whole.
fn parts<P: Entry>(entries: &[P], index: &RuleIndex, budget: &mut Budget) -> Result<Vec<Part<P>>, Exhausted> {
    let mut parts = Vec::new();
    for (entry, written) in entries.iter().enumerate() {
        let mut whole = written.clone();
        let depth_max = whole.depth_max(index);
        budget.spend(depth_max)?;
        while whole.depth() < depth_max
            && let Some(mut split) = whole.split()
            && let Some(rest) = split.pop()
        {
            budget.spend(SEGMENT_STEPS * whole.depth())?;
            parts.extend(split.into_iter().map(|pattern| Part { entry, pattern }));
            whole = rest;
        }
        parts.push(Part { entry, pattern: whole });
    }
    parts.retain(|part| part.pattern.is_possible());
    Ok(parts)
}

/// The entries of which every part is here, as they are written, and the parts of the others.
pub(super) fn joined<P: Entry>(written: &[P], part_counts: &[usize], chosen: &[&Part<P>]) -> Vec<P> {
    let mut here = vec![0_usize; written.len()];
    for part in chosen {
        if let Some(count) = here.get_mut(part.entry) {
            *count += 1;
        }
    }
    let whole = |entry: usize| here.get(entry) == part_counts.get(entry);
    let mut shown: Vec<(usize, P)> = Vec::new();
    for part in chosen {
        if !whole(part.entry) {
            shown.push((part.entry, part.pattern.clone()));
        }
    }
    shown.extend(
        written
            .iter()
            .cloned()
            .enumerate()
            .filter(|(entry, _)| here.get(*entry).is_some_and(|count| *count > 0) && whole(*entry)),
    );
    shown.sort_by_key(|(entry, _)| *entry);
    shown.into_iter().map(|(_, pattern)| pattern).collect()
}

/// How many parts each entry has.
pub(super) fn part_counts<P>(entries: usize, classes: &[Class<'_, P>]) -> Vec<usize> {
    let mut counts = vec![0; entries];
    for part in classes.iter().flat_map(|class| &class.parts) {
        if let Some(count) = counts.get_mut(part.entry) {
            *count += 1;
        }
    }
    counts
}
