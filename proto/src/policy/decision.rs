//! What the policy says to one question, and how it explains a refusal.

use std::fmt;
use std::sync::Arc;

use super::path::Ambiguity;
use super::rule::RuleRef;
use super::service::Protocol;
use crate::identity::SpiffeId;

/// What the policy says to one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// A rule allows it.
    Allow {
        /// The first in the file that does.
        rule: Arc<RuleRef>,
    },
    /// No rule does, or the inbound is not what the policy says.
    Deny {
        /// Why.
        refusal: Box<Refusal>,
    },
    /// No rule does, but the service only observes.
    Observed {
        /// What a denial would have said.
        refusal: Box<Refusal>,
    },
}

impl Decision {
    /// Whether the question may pass: allowed by a rule, or only observed.
    pub fn lets_pass(&self) -> bool {
        !matches!(self, Self::Deny { .. })
    }

    /// `allow`, `deny` or `observed`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Allow { .. } => "allow",
            Self::Deny { .. } => "deny",
            Self::Observed { .. } => "observed",
        }
    }

    /// The decision in words: the deciding rule, or the nearest ones and what each lacked. Peer-supplied text in
    /// it is escaped.
    pub fn reason(&self) -> String {
        match self {
            Self::Allow { rule } => format!("allowed by {}:{}", rule.file.escape_debug(), rule.line),
            Self::Deny { refusal } => refusal.to_string(),
            Self::Observed { refusal } => format!("let in because the service only observes: {refusal}"),
        }
    }
}

/// A question that no rule allows, and how near it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Who asked.
    pub peer: SpiffeId,
    /// The name under which the policy declares the peer.
    pub peer_name: Option<Arc<str>>,
    /// Whom it asked.
    pub service: SpiffeId,
    /// The name under which the policy declares the service.
    pub service_name: Option<Arc<str>>,
    /// The inbound's name.
    pub port: String,
    /// What the inbound speaks.
    pub protocol: Protocol,
    /// Method and path as sent, escaped; absent for a connection.
    pub call: Option<String>,
    /// What stood in the way.
    pub reason: DenyReason,
    /// The rules that lack the least, nearest first.
    pub nearest: Vec<Nearest>,
}

impl Refusal {
    /// What stood in the way and what the nearest rules lacked, in words, without who asked for what.
    pub fn lack(&self) -> impl fmt::Display + '_ {
        Lack(self)
    }
}

/// What stood in the way of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DenyReason {
    /// No service of the policy has the identity that was asked for.
    UnknownService,
    /// The service has no rule at all.
    NoRules,
    /// The service's `ports` do not have this one: the whole inbound is refused.
    PortNotDeclared {
        /// Those it has.
        declared: Vec<String>,
    },
    /// The service's `ports` say that this one speaks something else: the whole inbound is refused.
    ProtocolMismatch {
        /// What they say.
        declared: Protocol,
    },
    /// The path could be read two ways, so no rule with `calls` matches.
    AmbiguousPath(Ambiguity),
    /// CONNECT is allowed by no rule on an `http` inbound.
    Connect,
    /// No rule matches.
    NoRule,
}

impl DenyReason {
    /// A stable word for logs, metrics and JSON.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownService => "unknown_service",
            Self::NoRules => "no_rules",
            Self::PortNotDeclared { .. } => "port_not_declared",
            Self::ProtocolMismatch { .. } => "protocol_mismatch",
            Self::AmbiguousPath(_) => "ambiguous_path",
            Self::Connect => "connect",
            Self::NoRule => "no_rule",
        }
    }

    /// Whether the inbound itself is not what the policy says: nobody is served there, observed or not.
    pub fn refuses_inbound(&self) -> bool {
        matches!(self, Self::PortNotDeclared { .. } | Self::ProtocolMismatch { .. })
    }
}

/// A rule that nearly matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nearest {
    /// Which.
    pub rule: Arc<RuleRef>,
    /// What it lacked, in the order from, call, port, expired.
    pub mismatches: Vec<Mismatch>,
}

/// What a rule lacked to allow a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mismatch {
    /// Its `from` does not cover the peer.
    From,
    /// Its `calls` do not cover the call, or none can arrive there.
    Call,
    /// It is for another port.
    Port,
    /// Its time is over.
    Expired,
}

impl Mismatch {
    /// As JSON says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::From => "from",
            Self::Call => "call",
            Self::Port => "port",
            Self::Expired => "expired",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        named(f, self.peer_name.as_deref(), &self.peer)?;
        match &self.call {
            Some(call) => write!(f, " may not call {call} on ")?,
            None => f.write_str(" may not connect to ")?,
        }
        named(f, self.service_name.as_deref(), &self.service)?;
        write!(f, " port {:?} ({}): {}", self.port, self.protocol.as_str(), self.lack())
    }
}

/// What [`Refusal::lack`] says.
struct Lack<'a>(&'a Refusal);

impl fmt::Display for Lack<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.reason.fmt(f)?;
        for (number, nearest) in self.0.nearest.iter().enumerate() {
            f.write_str(if number == 0 { "; nearest: " } else { ", " })?;
            write!(f, "{nearest}")?;
        }
        Ok(())
    }
}

fn named(f: &mut fmt::Formatter<'_>, name: Option<&str>, id: &SpiffeId) -> fmt::Result {
    match name {
        Some(name) => write!(f, "{name} ({id})"),
        None => write!(f, "{id}"),
    }
}

impl fmt::Display for DenyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownService => f.write_str("the policy declares no service with that identity"),
            Self::NoRules => f.write_str("the service has no rules, and without a rule there is no access"),
            Self::PortNotDeclared { declared } if declared.is_empty() => {
                f.write_str("the policy says that the service has no ports")
            }
            Self::PortNotDeclared { declared } => {
                write!(f, "the policy declares other ports only: {}", declared.join(", "))
            }
            Self::ProtocolMismatch { declared } => {
                write!(f, "the policy declares that port as {}", declared.as_str())
            }
            Self::AmbiguousPath(ambiguity) => {
                write!(f, "no rule with calls matches an ambiguous path, and {ambiguity}")
            }
            Self::Connect => f.write_str("no rule ever allows CONNECT"),
            Self::NoRule => f.write_str("no rule matches"),
        }
    }
}

impl fmt::Display for Nearest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.rule.file.escape_debug(), self.rule.line)?;
        for (number, lacked) in self.mismatches.iter().enumerate() {
            f.write_str(if number == 0 { " " } else { " and " })?;
            match (lacked, &self.rule.expires) {
                (Mismatch::From, _) => f.write_str("does not name this caller")?,
                (Mismatch::Call, _) => f.write_str("does not allow this call")?,
                (Mismatch::Port, _) => f.write_str("is not for this port")?,
                (Mismatch::Expired, Some(expires)) => write!(f, "expired {expires}")?,
                (Mismatch::Expired, None) => f.write_str("expired")?,
            }
        }
        Ok(())
    }
}
