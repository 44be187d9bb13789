//! `[[expect]]`: unit tests that travel with the rules.

use std::collections::{HashMap, HashSet};

use time::OffsetDateTime;

use super::Policy;
use super::call::Call;
use super::decide::Port;
use super::document::{At, Document, RawExpectation, Text};
use super::peer;
use super::problem::ProblemKind;
use super::problems::Problems;
use super::read_calls::unknown_port;
use super::read_rule::report_peer;
use super::read_service::wrong_word;
use super::service::{Protocol, Service};
use super::verdict::{Verdict, verdict_as_enforced};
use crate::identity::{SpiffeId, TrustDomain};

/// One `[[expect]]` that has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expectation {
    /// 1-based line of its header.
    pub line: u32,
    /// Who asks.
    pub from: SpiffeId,
    /// The declared service that is asked.
    pub to: String,
    /// Method and path, as written; without, any bytes.
    pub call: Option<String>,
    /// One of the service's ports; without, every one.
    pub port: Option<String>,
    /// What the policy must say: [`Verdict::Allow`] or [`Verdict::Deny`].
    pub verdict: Verdict,
}

/// What one expectation met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectationResult<'a> {
    /// The expectation.
    pub expectation: &'a Expectation,
    /// The first port that is not as expected, if any, and what the policy says there.
    pub failure: Option<(String, Verdict)>,
}

/// Runs every expectation of the policy as of `now`, judged as if every service enforced.
pub fn run_expectations(policy: &Policy, now: OffsetDateTime) -> Vec<ExpectationResult<'_>> {
    let results = policy
        .expectations
        .iter()
        .map(|expectation| ExpectationResult { expectation, failure: failure(policy, expectation, now) });
    results.collect()
}

fn failure(policy: &Policy, expectation: &Expectation, now: OffsetDateTime) -> Option<(String, Verdict)> {
    let Some(service) = policy.service(&expectation.to) else {
        return Some((String::new(), Verdict::Deny)).filter(|_| expectation.verdict != Verdict::Deny);
    };
    let call = expectation.call.as_deref().and_then(|call| Call::parse(call).ok());
    let mut asked = service.asked_ports(expectation.port.as_deref()).peekable();
    if asked.peek().is_none() && expectation.verdict != Verdict::Deny {
        return Some((String::new(), Verdict::Deny));
    }
    asked.find_map(|port| {
        let verdict = verdict_as_enforced(policy, &expectation.from, service, port, call, now);
        (verdict != expectation.verdict).then(|| (port.name.to_owned(), verdict))
    })
}

impl Service {
    /// The ports that a question means: the one named, or every declared one; where the file declares none, any
    /// inbound that speaks `http`.
    pub fn asked_ports<'a>(&'a self, named: Option<&'a str>) -> impl Iterator<Item = Port<'a>> {
        let declared = self.ports.iter().flatten().map(|(name, protocol)| Port { name, protocol: *protocol });
        let chosen = declared.filter(move |port| named.is_none_or(|named| named == port.name));
        let undeclared =
            self.ports.is_none().then(|| Port { name: named.unwrap_or("any"), protocol: Protocol::Http });
        chosen.chain(undeclared)
    }
}

impl Policy {
    /// The services of the own trust domain that no expectation speaks of, in the order of the file.
    pub fn without_expectation(&self) -> impl Iterator<Item = &Service> {
        unspoken_of(&self.services, &self.expectations, &self.trust_domain)
    }
}

fn unspoken_of<'a>(
    services: &'a [Service],
    expectations: &[Expectation],
    own: &TrustDomain,
) -> impl Iterator<Item = &'a Service> {
    let spoken_of: HashSet<&str> = expectations.iter().map(|expectation| expectation.to.as_str()).collect();
    services
        .iter()
        .filter(move |service| !spoken_of.contains(&*service.name) && service.identity.trust_domain() == own)
}

/// Reads every expectation, and warns of services that none speaks of.
pub(super) fn expectations(
    document: &Document<'_>,
    own: &TrustDomain,
    services: &[Service],
    problems: &mut Problems<'_>,
) -> Vec<Expectation> {
    let reader = Reader {
        own,
        by_name: services.iter().map(|service| (&*service.name, service)).collect(),
        by_identity: services.iter().map(|service| (&service.identity, service)).collect(),
    };
    let read: Vec<_> =
        document.expectations.iter().filter_map(|raw| reader.expectation(raw, problems)).collect();
    for service in unspoken_of(services, &read, own) {
        let message = format!("no expectation says who may call service {:?}", service.name);
        problems.report(ProblemKind::NoExpectation, service.place.clone(), message);
    }
    read
}

struct Reader<'a> {
    own: &'a TrustDomain,
    by_name: HashMap<&'a str, &'a Service>,
    by_identity: HashMap<&'a SpiffeId, &'a Service>,
}

impl Reader<'_> {
    fn expectation(&self, raw: &RawExpectation<'_>, problems: &mut Problems<'_>) -> Option<Expectation> {
        let from = mandatory(&raw.from, "from", raw, problems).and_then(|at| self.peer(at, problems));
        let to = mandatory(&raw.to, "to", raw, problems).and_then(|at| self.service(at, problems));
        let verdict = mandatory(&raw.verdict, "verdict", raw, problems).and_then(|at| verdict(at, problems));
        let call = raw.call.given().and_then(|at| call(at, problems));
        let port = to.and_then(|service| port(&raw.port, service, problems));
        Some(Expectation {
            line: problems.source().line_of(raw.place.start),
            from: from?,
            to: to?.name.to_string(),
            call,
            port,
            verdict: verdict?,
        })
    }

    fn peer(&self, at: &At<&str>, problems: &mut Problems<'_>) -> Option<SpiffeId> {
        let identity_of = |name: &str| self.by_name.get(name).map(|service| &service.identity);
        match peer::parse_one(at.value, self.own, identity_of) {
            Ok(id) if id.is_reserved() => {
                let message = format!("{:?} lies under \"/postern/\", which is reserved", at.value);
                problems.report(ProblemKind::Reserved, at.place.clone(), message);
                None
            }
            Ok(id) => Some(id),
            Err(error) => {
                let reads = |text: &str| {
                    peer::parse_one(text, self.own, identity_of).is_ok_and(|id| !id.is_reserved())
                };
                report_peer(&error, at, self.by_name.keys().copied(), reads, problems);
                None
            }
        }
    }

    fn service(&self, at: &At<&str>, problems: &mut Problems<'_>) -> Option<&Service> {
        let id = self.peer(at, problems)?;
        let service = self.by_identity.get(&id).copied();
        if service.is_none() {
            let message = format!("no service with the identity {id} is declared");
            problems.report(ProblemKind::UnknownService, at.place.clone(), message);
        }
        service
    }
}

fn mandatory<'r, 'a>(
    field: &'r Text<'a>,
    key: &str,
    raw: &RawExpectation<'_>,
    problems: &mut Problems<'_>,
) -> Option<&'r At<&'a str>> {
    if field.is_absent() {
        problems.report(ProblemKind::Missing, raw.place.clone(), format!("the expectation has no `{key}`"));
    }
    field.given()
}

fn verdict(at: &At<&str>, problems: &mut Problems<'_>) -> Option<Verdict> {
    match at.value {
        "allow" => Some(Verdict::Allow),
        "deny" => Some(Verdict::Deny),
        _ => {
            wrong_word(at.value, &at.place, "`verdict`", &["allow", "deny"], problems);
            None
        }
    }
}

fn call(at: &At<&str>, problems: &mut Problems<'_>) -> Option<String> {
    match Call::parse(at.value) {
        Ok(_) => Some(at.value.to_owned()),
        Err(error) => {
            problems.report(ProblemKind::Call, at.place.clone(), error.to_string());
            None
        }
    }
}

fn port(field: &Text<'_>, service: &Service, problems: &mut Problems<'_>) -> Option<String> {
    let At { value, place } = field.given()?;
    match &service.ports {
        Some(ports) if ports.contains_key(*value) => {}
        Some(ports) => {
            let names = ports.keys().map(|name| &**name);
            unknown_port(value, place, &service.name, names, |_| true, problems);
        }
        None => {
            let message = format!("port {value:?}: service {:?} declares no `ports`", service.name);
            problems.report(ProblemKind::UnknownPort, place.clone(), message);
        }
    }
    Some((*value).to_owned())
}
