//! One rule: who may do what, where, until when.

use std::ops::Range;
use std::sync::Arc;

use super::call::CallPattern;
use super::expires::Expires;
use crate::identity::IdPattern;

/// Points at a rule of the file, with what its authors say about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleRef {
    /// The policy file as it was named.
    pub file: Arc<str>,
    /// 1-based line of the rule's header.
    pub line: u32,
    /// The service it belongs to.
    pub service: Arc<str>,
    /// Who answers for it.
    pub owner: Option<String>,
    /// Why it is there.
    pub reason: Option<String>,
    /// When it ends.
    pub expires: Option<Expires>,
}

/// A rule that has been checked. `from` is never empty, nor is `calls` when given.
#[derive(Debug, Clone)]
pub struct Rule {
    pub(crate) about: Arc<RuleRef>,
    pub(crate) place: Range<usize>,
    pub(crate) from: Vec<IdPattern>,
    pub(crate) calls: Option<Vec<CallPattern>>,
    pub(crate) port: Option<Box<str>>,
}

impl Rule {
    /// Where it stands, and what its authors say about it.
    pub fn about(&self) -> &Arc<RuleRef> {
        &self.about
    }

    /// The callers; never empty.
    pub fn from(&self) -> &[IdPattern] {
        &self.from
    }

    /// Its calls; without, any bytes.
    pub fn calls(&self) -> Option<&[CallPattern]> {
        self.calls.as_deref()
    }

    /// Its port; without, all.
    pub fn port(&self) -> Option<&str> {
        self.port.as_deref()
    }

    /// Whether it allows nothing any more.
    pub fn is_over(&self, now: time::OffsetDateTime) -> bool {
        self.about.expires.as_ref().is_some_and(|expires| expires.is_over(now))
    }

    /// What two rules must not share: the same peers, calls and port, in any order.
    pub(super) fn key(&self) -> RuleKey<'_> {
        let mut from: Vec<_> = self.from.iter().collect();
        from.sort_unstable();
        let calls = self.calls.as_ref().map(|calls| {
            let mut calls: Vec<_> = calls.iter().collect();
            calls.sort_unstable();
            calls
        });
        (from, calls, self.port.as_deref())
    }
}

pub(super) type RuleKey<'a> = (Vec<&'a IdPattern>, Option<Vec<&'a CallPattern>>, Option<&'a str>);
