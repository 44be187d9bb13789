//! The one function that decides: total, pure, and as quick with ten thousand rules as with ten.

use std::sync::Arc;

use time::OffsetDateTime;

use super::Policy;
use super::call::Call;
use super::decision::{Decision, DenyReason, Mismatch, Nearest, Refusal};
use super::index::RuleLists;
use super::path::normalise;
use super::rule::Rule;
use super::service::{Mode, Protocol, Service};
use crate::identity::SpiffeId;

/// A refusal names at most this many rules.
pub const NEAREST_RULES_MAX: usize = 5;
/// At most this many rules are looked at to find the nearest: those that name the peer first, then the file's order.
pub const NEAREST_SCAN_MAX: usize = 256;

/// Where a question arrives: an inbound's name and what it speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port<'a> {
    /// The inbound's name.
    pub name: &'a str,
    /// What the sidecar enforces there.
    pub protocol: Protocol,
}

/// Decides whether `peer` may do `call` on `port` of the service that has the identity `service`; without a call,
/// whether it may send any bytes. Total and pure.
pub fn decide(
    policy: &Policy,
    peer: &SpiffeId,
    service: &SpiffeId,
    port: Port<'_>,
    call: Option<Call<'_>>,
    now: OffsetDateTime,
) -> Decision {
    let wanted = call.map_or(Wanted::AnyBytes, Wanted::Call);
    Question { policy, peer, port, wanted, now }.decide(service)
}

/// Decides whether a connection is let in: on `tcp`, whether any bytes are; on `http`, whether some call could be.
pub fn may_connect(
    policy: &Policy,
    peer: &SpiffeId,
    service: &SpiffeId,
    port: Port<'_>,
    now: OffsetDateTime,
) -> Decision {
    let wanted = match port.protocol {
        Protocol::Tcp => Wanted::AnyBytes,
        Protocol::Http => Wanted::SomeCall,
    };
    Question { policy, peer, port, wanted, now }.decide(service)
}

/// What a peer wants to do.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wanted<'a> {
    /// Whatever it likes: only a rule without `calls` allows that.
    AnyBytes,
    /// At least one call that is not known yet.
    SomeCall,
    /// Exactly this.
    Call(Call<'a>),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) policy: &'a Policy,
    pub(super) peer: &'a SpiffeId,
    pub(super) port: Port<'a>,
    pub(super) wanted: Wanted<'a>,
    pub(super) now: OffsetDateTime,
}

impl<'a> Question<'a> {
    fn decide(&self, identity: &SpiffeId) -> Decision {
        let Some(service) = self.policy.service_with(identity) else {
            return Decision::Deny {
                refusal: self.refusal(identity, None, DenyReason::UnknownService, Vec::new()),
            };
        };
        let reason = match self.matching_rule(service) {
            Ok(rule) => return Decision::Allow { rule: Arc::clone(&rule.about) },
            Err(reason) => reason,
        };
        let nearest = self.nearest(service, &reason);
        let observed = service.mode == Mode::Observe && !reason.refuses_inbound();
        let refusal = self.refusal(identity, Some(service), reason, nearest);
        if observed { Decision::Observed { refusal } } else { Decision::Deny { refusal } }
    }

    /// The verdict as if enforced: the first rule of the file that allows it, or what stood in the way.
    pub(super) fn matching_rule(&self, service: &'a Service) -> Result<&'a Rule, DenyReason> {
        if let Some(reason) = service.inbound_deny_reason(self.port) {
            return Err(reason);
        }
        let peers = service.index.of_peer(self.peer);
        let usable = |number: u32| service.rules.get(number as usize).is_some_and(|rule| self.holds(rule));
        let (number, reason) = match self.rules_of_call(service) {
            CallRules::Every => (peers.first(usable), DenyReason::NoRule),
            CallRules::These(calls, reason) => (peers.first_common(&calls, usable), reason),
        };
        let reason = if service.rules.is_empty() { DenyReason::NoRules } else { reason };
        number.and_then(|number| service.rules.get(number as usize)).ok_or(reason)
    }

    /// Whether a rule is for this port, at this time.
    pub(super) fn holds(&self, rule: &Rule) -> bool {
        self.port_fits(rule) && !rule.is_over(self.now)
    }

    fn port_fits(&self, rule: &Rule) -> bool {
        rule.port.as_deref().is_none_or(|port| port == self.port.name)
    }

    /// policy.md `Rules` and `Paths`: which rules cover the call, and what to say when none of them names the peer.
    fn rules_of_call(&self, service: &'a Service) -> CallRules<'a> {
        let any_bytes = || service.index.of_any_bytes();
        let call = match (self.wanted, self.port.protocol) {
            (Wanted::SomeCall, Protocol::Http) => return CallRules::Every,
            (Wanted::SomeCall | Wanted::AnyBytes, _) | (_, Protocol::Tcp) => {
                return CallRules::These(any_bytes(), DenyReason::NoRule);
            }
            (Wanted::Call(call), Protocol::Http) => call,
        };
        if call.method == "CONNECT" {
            return CallRules::These(RuleLists::default(), DenyReason::Connect);
        }
        match normalise(call.path) {
            Ok(path) => CallRules::These(service.index.of_call(call.method, &path), DenyReason::NoRule),
            Err(ambiguity) => CallRules::These(any_bytes(), DenyReason::AmbiguousPath(ambiguity)),
        }
    }

    fn nearest(&self, service: &'a Service, reason: &DenyReason) -> Vec<Nearest> {
        let peers = service.index.of_peer(self.peer);
        let calls = self.rules_of_call(service);
        let mut numbers: Vec<u32> = peers.iter().take(NEAREST_SCAN_MAX).collect();
        numbers.extend((0..).take(service.rules.len().min(NEAREST_SCAN_MAX)));
        numbers.sort_unstable();
        numbers.dedup();
        let mut found: Vec<_> = numbers
            .into_iter()
            .filter_map(|number| service.rules.get(number as usize).map(|rule| (number, rule)))
            .map(|(number, rule)| {
                let lacks = [
                    (Mismatch::From, !peers.contains(number)),
                    (Mismatch::Call, !calls.contain(number)),
                    (Mismatch::Port, reason.refuses_inbound() || !self.port_fits(rule)),
                    (Mismatch::Expired, rule.is_over(self.now)),
                ];
                (lacks, rule)
            })
            .collect();
        let count = |lacks: &[(Mismatch, bool)]| lacks.iter().filter(|(_, lacks)| *lacks).count();
        let least = found.iter().map(|(lacks, _)| count(lacks)).min().unwrap_or_default();
        found.retain(|(lacks, _)| count(lacks) == least);
        found.sort_by_key(|(lacks, rule)| (lacks.map(|(_, lacks)| lacks), rule.about.line));
        let nearest = found.into_iter().take(NEAREST_RULES_MAX).map(|(lacks, rule)| Nearest {
            rule: Arc::clone(&rule.about),
            mismatches: lacks.into_iter().filter(|(_, lacks)| *lacks).map(|(lacked, _)| lacked).collect(),
        });
        nearest.collect()
    }

    fn refusal(
        &self,
        identity: &SpiffeId,
        service: Option<&Service>,
        reason: DenyReason,
        nearest: Vec<Nearest>,
    ) -> Box<Refusal> {
        let peer_name = self.policy.service_with(self.peer).map(|service| Arc::clone(&service.name));
        Box::new(Refusal {
            peer: self.peer.clone(),
            peer_name,
            service: identity.clone(),
            service_name: service.map(|service| Arc::clone(&service.name)),
            port: self.port.name.to_owned(),
            protocol: self.port.protocol,
            call: match self.wanted {
                Wanted::Call(call) => Some(call.to_string()),
                Wanted::AnyBytes | Wanted::SomeCall => None,
            },
            reason,
            nearest,
        })
    }
}

/// The rules that cover what is wanted.
enum CallRules<'a> {
    Every,
    These(RuleLists<'a>, DenyReason),
}

impl CallRules<'_> {
    fn contain(&self, number: u32) -> bool {
        match self {
            Self::Every => true,
            Self::These(lists, _) => lists.contains(number),
        }
    }
}
