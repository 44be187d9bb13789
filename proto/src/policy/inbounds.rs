//! What a sidecar cannot enforce or refuses whole, because its inbounds are not what the policy says.

use std::fmt;
use std::sync::Arc;

use super::decide::Port;
use super::decision::DenyReason;
use super::rule::RuleRef;
use super::service::{Protocol, Service};

/// One thing that a sidecar reports about its inbounds and the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unenforceable {
    /// The policy declares `ports`, and this inbound is not one of them or speaks something else: all its traffic
    /// is refused.
    Inbound {
        /// The inbound's name.
        name: String,
        /// What is wrong with it.
        reason: DenyReason,
    },
    /// The rule has `calls`, but on this inbound calls cannot be told apart: the rule allows nothing there.
    Rule {
        /// Which.
        rule: Arc<RuleRef>,
        /// The inbound's name.
        inbound: String,
    },
}

impl Service {
    /// What a sidecar of this service with these inbounds reports: nothing, when it can enforce every rule.
    pub fn unenforceable<'a>(
        &'a self,
        inbounds: impl IntoIterator<Item = Port<'a>>,
    ) -> impl Iterator<Item = Unenforceable> {
        inbounds.into_iter().flat_map(|inbound| {
            let name = inbound.name.to_owned();
            let reason =
                self.inbound_deny_reason(inbound).map(|reason| Unenforceable::Inbound { name, reason });
            let no_calls = self.ports.is_none() && inbound.protocol == Protocol::Tcp;
            let rules = if no_calls { self.rules.as_slice() } else { &[] };
            let with_calls = rules.iter().filter(|rule| rule.calls.is_some());
            reason.into_iter().chain(with_calls.map(move |rule| Unenforceable::Rule {
                rule: Arc::clone(&rule.about),
                inbound: inbound.name.to_owned(),
            }))
        })
    }

    /// policy.md `Ports`: a declared list is complete.
    pub(super) fn inbound_deny_reason(&self, inbound: Port<'_>) -> Option<DenyReason> {
        let ports = self.ports.as_ref()?;
        match ports.get(inbound.name) {
            None => Some(DenyReason::PortNotDeclared {
                declared: ports.keys().map(|name| name.to_string()).collect(),
            }),
            Some(declared) if *declared != inbound.protocol => {
                Some(DenyReason::ProtocolMismatch { declared: *declared })
            }
            Some(_) => None,
        }
    }
}

impl fmt::Display for Unenforceable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inbound { name, reason } => write!(f, "inbound {name:?} is refused whole: {reason}"),
            Self::Rule { rule, inbound } => {
                let (file, line) = (rule.file.escape_debug(), rule.line);
                write!(f, "the rule at {file}:{line} has calls, but inbound {inbound:?} is not declared http")
            }
        }
    }
}
