//! A service's rules arranged so that a question touches only those that speak of its peer and its call.

use std::collections::{BTreeMap, HashMap};

use super::call::CallPattern;
use super::rule::Rule;
use crate::identity::{IdPattern, SpiffeId};
use crate::segments::Segment;

/// Rules are named by their place in the service, so that the lowest is the first of the file.
type RuleNumber = u32;

/// Every rule of one service, by peer and by call.
#[derive(Debug, Clone, Default)]
pub(crate) struct RuleIndex {
    exact_peers: HashMap<Box<str>, Vec<RuleNumber>>,
    peer_patterns: PatternTree,
    calls: PatternTree,
    without_calls: Vec<RuleNumber>,
}

impl RuleIndex {
    pub(crate) fn new(rules: &[Rule]) -> Self {
        let mut index = Self::default();
        for (number, rule) in (0..).zip(rules) {
            for peer in &rule.from {
                index.insert_peer(peer, number);
            }
            match &rule.calls {
                None => index.without_calls.push(number),
                Some(calls) => calls.iter().for_each(|call| index.insert_call(call, number)),
            }
        }
        index
    }

    fn insert_peer(&mut self, peer: &IdPattern, number: RuleNumber) {
        if peer.path().is_exact() {
            let rules = self.exact_peers.entry(peer.to_string().into()).or_default();
            push_once(rules, number);
        } else {
            let domain = Segment::Literal(peer.trust_domain().as_str().into());
            let segments = std::iter::once(&domain).chain(peer.path().segments());
            self.peer_patterns.insert(segments, peer.path().has_rest(), number);
        }
    }

    fn insert_call(&mut self, call: &CallPattern, number: RuleNumber) {
        let segments = std::iter::once(call.method()).chain(call.path().segments());
        self.calls.insert(segments, call.path().has_rest(), number);
    }

    /// The rules whose `from` covers a peer.
    pub(super) fn of_peer(&self, peer: &SpiffeId) -> RuleLists<'_> {
        let mut lists = RuleLists::default();
        if let Some(rules) = self.exact_peers.get(peer.as_str()) {
            lists.add(rules);
        }
        let segments = std::iter::once(peer.trust_domain().as_str()).chain(peer.path().split('/').skip(1));
        self.peer_patterns.find(segments, &mut lists);
        lists
    }

    /// The rules whose `from` has one entry that covers all of a peer pattern.
    pub(super) fn covering_peer(&self, peer: &IdPattern) -> RuleLists<'_> {
        let mut lists = RuleLists::default();
        if peer.path().is_exact()
            && let Some(rules) = self.exact_peers.get(&*peer.to_string())
        {
            lists.add(rules);
        }
        let domain = Segment::Literal(peer.trust_domain().as_str().into());
        let segments = std::iter::once(&domain).chain(peer.path().segments());
        self.peer_patterns.find_covering(segments, peer.path().has_rest(), &mut lists);
        lists
    }

    /// The rules without `calls`, and those of which one call covers all of a call pattern.
    pub(super) fn covering_call(&self, call: &CallPattern) -> RuleLists<'_> {
        let mut lists = self.of_any_bytes();
        let segments = std::iter::once(call.method()).chain(call.path().segments());
        self.calls.find_covering(segments, call.path().has_rest(), &mut lists);
        lists
    }

    /// With how many segments the last pattern ends that could cover a part of this peer pattern, which ends in `**`.
    pub(super) fn depth_of_peer(&self, peer: &IdPattern) -> usize {
        let domain = Segment::Literal(peer.trust_domain().as_str().into());
        let segments = std::iter::once(&domain).chain(peer.path().segments());
        self.peer_patterns.depth_below(0, segments, 0).saturating_sub(1)
    }

    /// Likewise of the path of this call pattern.
    pub(super) fn depth_of_call(&self, call: &CallPattern) -> usize {
        let segments = std::iter::once(call.method()).chain(call.path().segments());
        self.calls.depth_below(0, segments, 0).saturating_sub(1)
    }

    /// The rules without `calls`.
    pub(super) fn of_any_bytes(&self) -> RuleLists<'_> {
        let mut lists = RuleLists::default();
        lists.add(&self.without_calls);
        lists
    }

    /// The rules that cover a call: those whose `calls` do, and those without.
    pub(super) fn of_call(&self, method: &str, normal_path: &str) -> RuleLists<'_> {
        let mut lists = self.of_any_bytes();
        let segments = std::iter::once(method).chain(normal_path.split('/').skip(1));
        self.calls.find(segments, &mut lists);
        lists
    }
}

fn push_once(rules: &mut Vec<RuleNumber>, number: RuleNumber) {
    if rules.last() != Some(&number) {
        rules.push(number);
    }
}

/// A union of ascending lists of rules.
#[derive(Debug, Default)]
pub(super) struct RuleLists<'a>(Vec<&'a [RuleNumber]>);

impl<'a> RuleLists<'a> {
    fn add(&mut self, rules: &'a [RuleNumber]) {
        if !rules.is_empty() {
            self.0.push(rules);
        }
    }

    pub(super) fn contains(&self, number: RuleNumber) -> bool {
        self.0.iter().any(|rules| rules.binary_search(&number).is_ok())
    }

    pub(super) fn lists(&self) -> impl Iterator<Item = &'a [RuleNumber]> {
        self.0.iter().copied()
    }

    fn len(&self) -> usize {
        self.0.iter().map(|rules| rules.len()).sum()
    }

    /// Each list in turn: a rule may come twice.
    pub(super) fn iter(&self) -> impl Iterator<Item = RuleNumber> {
        self.0.iter().flat_map(|rules| rules.iter().copied())
    }

    /// The first rule for which `holds`.
    pub(super) fn first(&self, holds: impl Fn(RuleNumber) -> bool) -> Option<RuleNumber> {
        self.0.iter().filter_map(|rules| rules.iter().copied().find(|number| holds(*number))).min()
    }

    /// The rules that are in both unions, of which some may come twice, and how many have to be looked at for it.
    pub(super) fn common<'s>(&'s self, other: &'s Self) -> (impl Iterator<Item = RuleNumber> + 's, usize) {
        let (short, long) = if self.len() <= other.len() { (self, other) } else { (other, self) };
        (short.iter().filter(|number| long.contains(*number)), short.len())
    }

    /// The first rule that is in both unions and for which `holds`, looking only through the shorter one.
    pub(super) fn first_common(
        &self,
        other: &Self,
        holds: impl Fn(RuleNumber) -> bool,
    ) -> Option<RuleNumber> {
        let (short, long) = if self.len() <= other.len() { (self, other) } else { (other, self) };
        short.first(|number| long.contains(number) && holds(number))
    }
}

/// Patterns of segments as a tree: one step per segment, however many patterns there are.
#[derive(Debug, Clone)]
struct PatternTree {
    nodes: Vec<Node>,
}

#[derive(Debug, Clone, Default)]
struct Node {
    literals: BTreeMap<Box<str>, usize>,
    any: Option<usize>,
    ending_here: Vec<RuleNumber>,
    ending_in_rest: Vec<RuleNumber>,
}

impl Default for PatternTree {
    fn default() -> Self {
        Self { nodes: vec![Node::default()] }
    }
}

impl PatternTree {
    fn insert<'s>(&mut self, segments: impl Iterator<Item = &'s Segment>, rest: bool, number: RuleNumber) {
        let mut at = 0;
        for segment in segments {
            let next = self.nodes.len();
            let Some(node) = self.nodes.get_mut(at) else { return };
            at = match segment {
                Segment::Any => *node.any.get_or_insert(next),
                Segment::Literal(literal) => *node.literals.entry(literal.clone()).or_insert(next),
            };
            if at == next {
                self.nodes.push(Node::default());
            }
        }
        if let Some(node) = self.nodes.get_mut(at) {
            push_once(if rest { &mut node.ending_in_rest } else { &mut node.ending_here }, number);
        }
    }

    fn find<'a, 's>(&'a self, segments: impl Iterator<Item = &'s str> + Clone, found: &mut RuleLists<'a>) {
        self.find_below(0, segments, found);
    }

    /// Recursion goes no deeper than the longest pattern of the file has segments.
    fn find_below<'a, 's>(
        &'a self,
        at: usize,
        mut segments: impl Iterator<Item = &'s str> + Clone,
        found: &mut RuleLists<'a>,
    ) {
        let Some(node) = self.nodes.get(at) else { return };
        let Some(segment) = segments.next() else {
            found.add(&node.ending_here);
            return;
        };
        found.add(&node.ending_in_rest);
        if let Some(next) = node.literals.get(segment) {
            self.find_below(*next, segments.clone(), found);
        }
        if let (Some(next), false) = (node.any, segment.is_empty()) {
            self.find_below(next, segments, found);
        }
    }

    /// The rules of the patterns that cover a whole pattern.
    fn find_covering<'a, 's>(
        &'a self,
        segments: impl Iterator<Item = &'s Segment> + Clone,
        rest: bool,
        found: &mut RuleLists<'a>,
    ) {
        self.find_covering_below(0, segments, rest, found);
    }

    fn find_covering_below<'a, 's>(
        &'a self,
        at: usize,
        mut segments: impl Iterator<Item = &'s Segment> + Clone,
        rest: bool,
        found: &mut RuleLists<'a>,
    ) {
        let Some(node) = self.nodes.get(at) else { return };
        let Some(segment) = segments.next() else {
            found.add(if rest { &node.ending_in_rest } else { &node.ending_here });
            return;
        };
        found.add(&node.ending_in_rest);
        if let Segment::Literal(literal) = segment
            && let Some(next) = node.literals.get(literal)
        {
            self.find_covering_below(*next, segments.clone(), rest, found);
        }
        if let Some(next) = node.any
            && Segment::Any.covers(segment)
        {
            self.find_covering_below(next, segments, rest, found);
        }
    }

    /// How deep the patterns lead that cover these segments and then any others, an empty one last.
    fn depth_below<'s>(
        &self,
        at: usize,
        mut segments: impl Iterator<Item = &'s Segment> + Clone,
        depth: usize,
    ) -> usize {
        let Some(node) = self.nodes.get(at) else { return depth };
        let segment = segments.next();
        let literal = match segment {
            Some(Segment::Literal(literal)) => node.literals.get(literal),
            Some(Segment::Any) => None,
            None => node.literals.get(""),
        };
        let any = node.any.filter(|_| segment.is_none_or(|segment| Segment::Any.covers(segment)));
        let below = [literal.copied(), any].into_iter().flatten();
        below.map(|next| self.depth_below(next, segments.clone(), depth + 1)).max().unwrap_or(depth)
    }
}
