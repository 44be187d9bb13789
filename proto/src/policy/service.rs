//! One declared service: its identity, ports, mode and rules, compiled for questions.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::index::RuleIndex;
use super::rule::Rule;
use crate::identity::SpiffeId;

/// What an inbound speaks. It is declared, never guessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Any bytes.
    Tcp,
    /// HTTP/1.1 and HTTP/2.
    Http,
}

impl Protocol {
    /// As policy and sidecar files write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http => "http",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Tcp, Self::Http].into_iter().find(|protocol| protocol.as_str() == text)
    }
}

/// What happens to a peer for whom no rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    /// It is refused.
    #[default]
    Enforce,
    /// It is let in and recorded.
    Observe,
}

impl Mode {
    /// As policy files write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Enforce, Self::Observe].into_iter().find(|mode| mode.as_str() == text)
    }
}

/// A service of the policy.
#[derive(Debug, Clone)]
pub struct Service {
    pub(crate) name: Arc<str>,
    pub(crate) place: Range<usize>,
    pub(crate) line: u32,
    pub(crate) identity: SpiffeId,
    pub(crate) ports: Option<BTreeMap<Box<str>, Protocol>>,
    pub(crate) mode: Mode,
    pub(crate) rules: Vec<Rule>,
    pub(crate) index: RuleIndex,
}

impl Service {
    /// Its name in the file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// 1-based line where the file first names it; 0 in a policy read from a slice.
    pub fn line(&self) -> u32 {
        self.line
    }

    /// Its one identity.
    pub fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    /// The complete list of its inbounds with what they speak, if the file gives one.
    pub fn ports(&self) -> Option<impl Iterator<Item = (&str, Protocol)>> {
        self.ports.as_ref().map(|ports| ports.iter().map(|(name, protocol)| (&**name, *protocol)))
    }

    /// Its rules in the order of the file, those that are over among them.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// How many rules it has, those that are over among them.
    pub fn rule_count(&self) -> usize {
        self.rules.len()
    }

    /// What happens to a peer for whom no rule matches.
    pub fn mode(&self) -> Mode {
        self.mode
    }
}
