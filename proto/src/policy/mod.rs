//! The allow-list: read from one reviewed file, decided by one pure function (`docs/POLICY.md` says what it means).

mod bounds;
mod call;
mod check;
mod coverage;
mod decide;
mod decision;
mod diff;
mod document;
mod expectation;
mod expires;
mod inbounds;
mod index;
mod path;
mod peer;
mod problem;
mod problems;
mod read;
mod read_calls;
mod read_rule;
mod read_service;
mod rule;
mod service;
mod source;
mod speller;
mod verdict;

use std::collections::HashMap;
use std::sync::Arc;

use time::OffsetDateTime;

pub use bounds::{FILE_BYTES_MAX, NESTING_MAX};
pub use call::{Call, CallError, CallPattern};
pub use check::{Checked, WARN_DAYS_DEFAULT, check};
pub use decide::{NEAREST_RULES_MAX, NEAREST_SCAN_MAX, Port, decide, may_connect};
pub use decision::{Decision, DenyReason, Mismatch, Nearest, Refusal};
pub use diff::{
    Access, Change, Changes, DIFF_CHANGES_MAX, DIFF_STEPS_MAX, Diff, Direction, Inbound, LISTED_MAX, diff,
};
pub use document::{EXPECTATIONS_MAX, LIST_ENTRIES_MAX, RULES_MAX};
pub use expectation::{Expectation, ExpectationResult, run_expectations};
pub use expires::{Expires, ExpiresError};
pub use inbounds::Unenforceable;
pub(crate) use index::RuleIndex;
pub use path::{Ambiguity, PATH_BYTES_MAX, normalise};
pub use peer::PeerError;
pub(crate) use peer::parse as parse_peer;
pub use problem::{PROBLEMS_MAX, Problem, ProblemKind, Severity};
pub(crate) use read_service::is_service_name;
pub use rule::{Rule, RuleRef};
pub use service::{Mode, Protocol, Service};
pub use verdict::{AllowedCalls, Verdict, allowed_calls};

use crate::identity::{IdPattern, SpiffeId, TrustDomain};
use crate::spelling::nearest;

/// A whole policy file, checked and compiled.
#[derive(Debug, Clone)]
pub struct Policy {
    file: Arc<str>,
    trust_domain: TrustDomain,
    digest: Arc<str>,
    version: Option<u64>,
    services: Vec<Service>,
    by_name: HashMap<Arc<str>, usize>,
    by_identity: HashMap<Box<str>, usize>,
    expectations: Vec<Expectation>,
}

/// What a policy is made from, by whoever has read it and checked it.
#[derive(Debug)]
pub(crate) struct PolicyParts {
    pub(crate) file: Arc<str>,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) digest: Arc<str>,
    pub(crate) version: Option<u64>,
    pub(crate) services: Vec<Service>,
    pub(crate) expectations: Vec<Expectation>,
}

impl From<PolicyParts> for Policy {
    fn from(parts: PolicyParts) -> Self {
        let PolicyParts { file, trust_domain, digest, version, services, expectations } = parts;
        let numbered = || (0_usize..).zip(&services);
        let by_name = numbered().map(|(number, service)| (Arc::clone(&service.name), number)).collect();
        let by_identity =
            numbered().map(|(number, service)| (service.identity.as_str().into(), number)).collect();
        Self { file, trust_domain, digest, version, services, by_name, by_identity, expectations }
    }
}

impl Policy {
    /// Reads a policy; `file` is only for messages. All errors at once, in the order of the file.
    pub fn parse(file: &str, text: &str) -> Result<Self, Vec<Problem>> {
        let (policy, mut problems) = read::read(file, text);
        problems.retain(|problem| problem.severity == Severity::Error);
        policy.ok_or(problems)
    }

    /// The file as it was named.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The own trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// `sha256:…` of the file's bytes.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The same, for whoever keeps it longer than the policy.
    pub fn digest_shared(&self) -> Arc<str> {
        self.digest.clone()
    }

    /// The version under which the CA stores it, if it was read from a slice. Then it knows no rules but the own.
    pub fn version(&self) -> Option<u64> {
        self.version
    }

    /// Every declared service, in the order of the file.
    pub fn services(&self) -> &[Service] {
        &self.services
    }

    /// A declared service.
    pub fn service(&self, name: &str) -> Option<&Service> {
        self.services.get(*self.by_name.get(name)?)
    }

    /// The service that has an identity.
    pub fn service_with(&self, id: &SpiffeId) -> Option<&Service> {
        self.services.get(*self.by_identity.get(id.as_str())?)
    }

    /// The declared service whose name a mistyped word probably meant.
    pub fn nearest_service(&self, word: &str) -> Option<&str> {
        nearest(word, self.services.iter().map(Service::name))
    }

    /// The identity of a declared service.
    pub fn identity_of(&self, service: &str) -> Option<&SpiffeId> {
        self.service(service).map(Service::identity)
    }

    /// The name under which an identity is declared.
    pub fn service_of(&self, id: &SpiffeId) -> Option<&str> {
        self.service_with(id).map(Service::name)
    }

    /// Reads a peer as a question names it: a declared service, a path under the own domain, or a full SPIFFE ID.
    pub fn peer(&self, text: &str) -> Result<SpiffeId, PeerError> {
        peer::parse_one(text, &self.trust_domain, |name| self.identity_of(name))
    }

    /// A peer as this file's `from` would write it: a declared service, a path under the own domain, or a full ID.
    pub fn spelling_of(&self, peer: &IdPattern) -> String {
        self.spelled(peer.trust_domain(), peer.to_string())
    }

    /// An identity as this file's `from` would write it.
    pub fn spelling_of_id(&self, id: &SpiffeId) -> String {
        self.spelled(id.trust_domain(), id.to_string())
    }

    fn spelled(&self, trust_domain: &TrustDomain, full: String) -> String {
        let declared = self.by_identity.get(&*full).and_then(|number| self.services.get(*number));
        let own = format!("{}{}", peer::SCHEME, self.trust_domain);
        match (declared, full.strip_prefix(&own)) {
            (Some(service), _) => service.name().to_owned(),
            (None, Some(path)) if trust_domain == &self.trust_domain => path.to_owned(),
            _ => full,
        }
    }

    /// The first moment after `now` at which a rule allows nothing any more that it still allows at `now`.
    pub fn next_expiry(&self, now: OffsetDateTime) -> Option<OffsetDateTime> {
        let rules = self.services.iter().flat_map(|service| &service.rules);
        let ends = rules.filter_map(|rule| rule.about.expires.as_ref());
        let last = ends.filter(|expires| !expires.is_over(now)).map(Expires::last).min()?;
        last.checked_add(time::Duration::NANOSECOND)
    }

    /// Every `[[expect]]`, in the order of the file.
    pub fn expectations(&self) -> &[Expectation] {
        &self.expectations
    }
}
