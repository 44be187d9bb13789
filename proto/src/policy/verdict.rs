//! The verdict on a question that may leave the call open, as `explain` and `[[expect]]` ask it.

use std::sync::Arc;

use time::OffsetDateTime;

use super::Policy;
use super::call::{Call, CallPattern};
use super::decide::{Port, Question, Wanted};
use super::rule::RuleRef;
use super::service::{Protocol, Service};
use crate::identity::SpiffeId;

/// What the policy says to a question as a person asks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Allowed; without a call: every call is.
    Allow,
    /// Not allowed; without a call: no call is.
    Deny,
    /// Without a call: some calls are allowed.
    Depends,
    /// Not allowed by any rule, but let in, because the service only observes.
    Observed,
}

impl Verdict {
    /// As JSON and `[[expect]]` say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Depends => "depends",
            Self::Observed => "observed",
        }
    }
}

/// The verdict as if the service enforced, whatever its mode.
pub(super) fn verdict_as_enforced(
    policy: &Policy,
    peer: &SpiffeId,
    service: &Service,
    port: Port<'_>,
    call: Option<Call<'_>>,
    now: OffsetDateTime,
) -> Verdict {
    let asks = |wanted| Question { policy, peer, port, wanted, now }.matching_rule(service).is_ok();
    match call {
        Some(call) if asks(Wanted::Call(call)) => Verdict::Allow,
        None if asks(Wanted::AnyBytes) => Verdict::Allow,
        None if port.protocol == Protocol::Http && asks(Wanted::SomeCall) => Verdict::Depends,
        _ => Verdict::Deny,
    }
}

/// The calls that one rule allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedCalls<'a> {
    /// Which rule.
    pub rule: Arc<RuleRef>,
    /// Its `calls`.
    pub calls: &'a [CallPattern],
}

/// Every rule with `calls` that allows a peer something on a port at `now`, in the order of the file: what to say
/// when it depends.
pub fn allowed_calls<'a>(
    policy: &Policy,
    peer: &SpiffeId,
    service: &'a Service,
    port: Port<'_>,
    now: OffsetDateTime,
) -> Vec<AllowedCalls<'a>> {
    if port.protocol != Protocol::Http || service.inbound_deny_reason(port).is_some() {
        return Vec::new();
    }
    let question = Question { policy, peer, port, wanted: Wanted::SomeCall, now };
    let mut numbers: Vec<_> = service.index.of_peer(peer).iter().collect();
    numbers.sort_unstable();
    numbers.dedup();
    let rules = numbers.into_iter().filter_map(|number| service.rules.get(number as usize));
    let holding = rules.filter(|rule| question.holds(rule));
    holding
        .filter_map(|rule| {
            rule.calls.as_ref().map(|calls| AllowedCalls { rule: Arc::clone(&rule.about), calls })
        })
        .collect()
}
