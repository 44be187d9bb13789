//! `diff`: the access that one policy gives and another does not, found by evaluating both (policy.md `diff`).
//!
//! Exact, and yet no cross product of everything. A segment's alphabet has no end, so no set of literals covers a
//! `*`: a pattern without `**` is covered by several others only if one of them covers it whole. A `**` is looked at
//! as its parts of each length. And as a rule holds until its end and never begins, a rule is covered at every time
//! if it is at its last moment. So every entry of a rule's `from` and `calls` is looked up once in the other file.

mod compare;
mod inbounds;
mod parts;
mod rule_comparison;
mod sentence;

use std::sync::Arc;

use time::OffsetDateTime;

pub use sentence::{Direction, LISTED_MAX};

use self::compare::{Budget, Comparison};
use super::call::CallPattern;
use super::rule::RuleRef;
use super::service::Protocol;
use super::{Policy, Service};
use crate::identity::{SpiffeId, TrustDomain};

/// Changes beyond this many are counted, but not kept.
pub const DIFF_CHANGES_MAX: usize = 1_000;
/// How much may be looked up for one direction, in steps of some nanoseconds; what is left then counts as changed.
pub const DIFF_STEPS_MAX: usize = 20_000_000;

/// What one policy allows and another does not, and the reverse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diff {
    /// Allowed by the new policy and not by the old.
    pub gained: Changes,
    /// Allowed by the old policy and not by the new.
    pub lost: Changes,
}

/// What changed in one direction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// In the order of the file that allows it; at most [`DIFF_CHANGES_MAX`].
    pub kept: Vec<Change>,
    /// How many more there are.
    pub more: usize,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Another trust domain: every identity under it is another one.
    TrustDomain {
        /// Until now.
        old: TrustDomain,
        /// From now on.
        new: TrustDomain,
    },
    /// A service's name stands for another identity.
    Identity {
        /// The service's name.
        service: String,
        /// Until now.
        old: SpiffeId,
        /// From now on.
        new: SpiffeId,
        /// The new file as it was named, and the line that declares the service.
        place: (Arc<str>, u32),
    },
    /// A service lets in whoever no rule allows, because it only observes.
    Observed {
        /// The service's name.
        service: String,
        /// Its identity.
        identity: SpiffeId,
        /// Where.
        inbounds: Vec<Inbound>,
        /// The file that says so, and the line that declares the service.
        place: (Arc<str>, u32),
    },
    /// A rule allows something.
    Access(Access),
    /// A rule that could not be compared within [`DIFF_STEPS_MAX`]; it counts as changed.
    NotCompared {
        /// Which.
        rule: Arc<RuleRef>,
    },
}

/// What a rule of one policy allows and the other does not: every peer in it may make every call in it. What a
/// wildcard matches includes what the other policy allows by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// The rule that allows it.
    pub rule: Arc<RuleRef>,
    /// The identity of the service that is called.
    pub service: SpiffeId,
    /// The callers, as `from` writes them.
    pub from: Vec<String>,
    /// Which calls; without, any bytes, which on `http` is any call but CONNECT.
    pub calls: Option<Vec<CallPattern>>,
    /// Where.
    pub inbounds: Vec<Inbound>,
    /// Both policies allow it until this moment.
    pub after: Option<OffsetDateTime>,
}

/// Where a service is called.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Inbound {
    /// Its name; without, any that neither policy declares with this protocol.
    pub name: Option<Box<str>>,
    /// What it speaks.
    pub protocol: Protocol,
}

/// Compares what two policies allow from a time on. Observing counts as allowing.
pub fn diff(old: &Policy, new: &Policy, from_time: OffsetDateTime) -> Diff {
    let mut gained = renamed(old, new);
    gained.add(one_way(new, old, from_time));
    Diff { gained, lost: one_way(old, new, from_time) }
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    fn push(&mut self, change: Change) {
        self.push_with(|| change);
    }

    /// Makes the change only if it is kept.
    fn push_with(&mut self, change: impl FnOnce() -> Change) {
        if self.kept.len() < DIFF_CHANGES_MAX {
            self.kept.push(change());
        } else {
            self.more += 1;
        }
    }

    fn add(&mut self, other: Self) {
        other.kept.into_iter().for_each(|change| self.push(change));
        self.more += other.more;
    }
}

/// Names that stand for other identities than before. That is told as such: whoever holds the new identity gains
/// what the name is allowed.
fn renamed(old: &Policy, new: &Policy) -> Changes {
    let mut changes = Changes::default();
    let other_domain = old.trust_domain() != new.trust_domain();
    if other_domain {
        changes
            .push(Change::TrustDomain { old: old.trust_domain().clone(), new: new.trust_domain().clone() });
    }
    for service in new.services() {
        let Some(before) = old.identity_of(service.name()).filter(|id| *id != service.identity()) else {
            continue;
        };
        let follows_domain = other_domain
            && before.trust_domain() == old.trust_domain()
            && service.identity().trust_domain() == new.trust_domain()
            && before.path() == service.identity().path();
        if !follows_domain {
            changes.push(Change::Identity {
                service: service.name().to_owned(),
                old: before.clone(),
                new: service.identity().clone(),
                place: place(new, service),
            });
        }
    }
    changes
}

/// What `allowing` allows and `other` does not.
fn one_way(allowing: &Policy, other: &Policy, from_time: OffsetDateTime) -> Changes {
    let mut budget = Budget::default();
    let mut changes = Changes::default();
    for service in allowing.services() {
        let other = other.service_with(service.identity());
        Comparison::new(allowing, service, other, from_time).run(&mut budget, &mut changes);
    }
    changes
}

fn place(policy: &Policy, service: &Service) -> (Arc<str>, u32) {
    (Arc::clone(&policy.file), service.line())
}
