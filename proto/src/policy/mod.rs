//! The allow-list: read from one reviewed file, decided by one pure function.

mod bounds;
mod call;
mod path;
mod problem;
mod source;
mod spelling;

pub use bounds::{FILE_BYTES_MAX, NESTING_MAX};
pub use call::{Call, CallError, CallPattern};
pub use path::{Ambiguity, PATH_BYTES_MAX, normalise};
pub use problem::{PROBLEMS_MAX, Problem, ProblemKind, Severity};

use time::OffsetDateTime;

use crate::identity::{SpiffeId, TrustDomain};

/// A whole policy file, checked and compiled.
#[derive(Debug, Clone)]
pub struct Policy {
    trust_domain: TrustDomain,
    digest: String,
}

impl Policy {
    /// SKELETON. Reads a policy; `file` is only for messages. All errors at once.
    pub fn parse(file: &str, text: &str) -> Result<Self, Vec<Problem>> {
        let _ = (file, text);
        Err(Vec::new())
    }

    /// The own trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// `sha256:…` of the file's bytes.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The identity of a declared service.
    pub fn identity_of(&self, service: &str) -> Option<&SpiffeId> {
        let _ = service;
        None
    }

    /// The name under which an identity is declared.
    pub fn service_of(&self, id: &SpiffeId) -> Option<&str> {
        let _ = id;
        None
    }
}

/// Where a question arrives: an inbound's name and what it speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port<'a> {
    /// The inbound's name.
    pub name: &'a str,
    /// What the sidecar enforces there.
    pub protocol: Protocol,
}

/// What an inbound speaks. It is declared, never guessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Any bytes.
    Tcp,
    /// HTTP/1.1 and HTTP/2.
    Http,
}

/// What the policy says to one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// A rule allows it.
    Allow {
        /// Which.
        rule: RuleRef,
    },
    /// No rule does.
    Deny {
        /// Why, in words: the nearest rules and what each lacked.
        reason: String,
    },
    /// No rule does, but the service only observes.
    Observed {
        /// What a denial would have said.
        reason: String,
    },
}

/// Points at a rule of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleRef {
    /// The policy file as it was named.
    pub file: String,
    /// 1-based line of the rule's header.
    pub line: u32,
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
    let _ = (policy, peer, service, port, call, now);
    Decision::Deny { reason: "skeleton".into() }
}

/// Decides whether a connection is let in: on `tcp`, whether any bytes are; on `http`, whether some call could be.
pub fn may_connect(
    policy: &Policy,
    peer: &SpiffeId,
    service: &SpiffeId,
    port: Port<'_>,
    now: OffsetDateTime,
) -> Decision {
    decide(policy, peer, service, port, None, now)
}
