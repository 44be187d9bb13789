//! Rules as written, checked against what the file declares.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::document::{At, RawRule, RawService, Text, list};
use super::expires::{Expires, ExpiresError};
use super::peer;
use super::problem::ProblemKind;
use super::problems::{Problems, did_you_mean};
use super::read_calls::{calls, port};
use super::read_service::Declared;
use super::rule::{Rule, RuleRef};
use crate::identity::{IdPattern, TrustDomain};

/// What every rule is read against.
#[derive(Debug)]
pub(super) struct RuleReader<'a> {
    pub(super) file: Arc<str>,
    pub(super) own: &'a TrustDomain,
    pub(super) declared: &'a HashMap<&'a str, Declared>,
    pub(super) required: &'a [&'a str],
}

/// The rules of one service: those that could be read, in the order of the file.
pub(super) fn rules(
    raw: &RawService<'_>,
    declared: &Declared,
    service: &Arc<str>,
    reader: &RuleReader<'_>,
    problems: &mut Problems<'_>,
) -> Vec<Rule> {
    if let (Some(first), false) = (raw.rules.first(), declared.identity.trust_domain() == reader.own) {
        let message = format!(
            "service {service:?} belongs to the trust domain {}, so it has no `allow`",
            declared.identity.trust_domain()
        );
        problems.report(ProblemKind::ForeignAllow, first.place.clone(), message);
    }
    let rules: Vec<Rule> =
        raw.rules.iter().filter_map(|raw| reader.rule(raw, declared, service, problems)).collect();
    let mut seen = HashMap::new();
    for rule in &rules {
        if let Some(first) = seen.insert(rule.key(), rule.about.line) {
            let message = format!("the rule of line {first} has the same `from`, `calls` and `port`");
            problems.report(ProblemKind::Duplicate, rule.place.clone(), message);
        }
    }
    rules
}

impl RuleReader<'_> {
    fn rule(
        &self,
        raw: &RawRule<'_>,
        declared: &Declared,
        service: &Arc<str>,
        problems: &mut Problems<'_>,
    ) -> Option<Rule> {
        self.check_required(raw, problems);
        let from = self.from(raw, problems);
        let calls = calls(raw, problems);
        let port = port(raw, declared, service, problems);
        let expires = raw.expires.given().map(|at| expires(at, problems));
        let text = |field: &Text<'_>| field.given().map(|at| at.value.to_owned());
        let about = RuleRef {
            file: Arc::clone(&self.file),
            line: problems.source().line_of(raw.place.start),
            service: Arc::clone(service),
            owner: text(&raw.owner),
            reason: text(&raw.reason),
            expires: expires.flatten(),
        };
        Some(Rule {
            about: Arc::new(about),
            place: raw.place.clone(),
            from: from?,
            calls: calls?,
            port: port?,
        })
    }

    fn check_required(&self, raw: &RawRule<'_>, problems: &mut Problems<'_>) {
        let blank = |text: &Text<'_>| text.given().is_some_and(|at| at.value.trim().is_empty());
        for (name, absent) in [
            ("owner", raw.owner.is_absent() || blank(&raw.owner)),
            ("reason", raw.reason.is_absent() || blank(&raw.reason)),
            ("expires", raw.expires.is_absent()),
        ] {
            if absent && self.required.contains(&name) {
                let message = format!("the rule has no `{name}`, which this file requires of every rule");
                problems.report(ProblemKind::Missing, raw.place.clone(), message);
            }
        }
    }

    fn from(&self, raw: &RawRule<'_>, problems: &mut Problems<'_>) -> Option<Vec<IdPattern>> {
        let list = list(&raw.from, "from", &raw.place, problems)?;
        let mut seen = HashSet::new();
        let mut peers = Vec::new();
        for at in list {
            let Some(peer) = self.peer(at, problems) else { continue };
            if seen.insert(peer.clone()) {
                peers.push(peer);
            } else {
                problems.report(ProblemKind::Duplicate, at.place.clone(), format!("`from` has {peer} twice"));
            }
        }
        (peers.len() == list.len()).then_some(peers)
    }

    fn peer(&self, at: &At<&str>, problems: &mut Problems<'_>) -> Option<IdPattern> {
        let At { value, place } = at;
        let identity_of = |name: &str| self.declared.get(name).map(|declared| &declared.identity);
        match peer::parse(value, self.own, identity_of) {
            Ok(peer) if peer.is_reserved() => {
                let message = format!("peer {value:?} lies under \"/postern/\", which is reserved");
                problems.report(ProblemKind::Reserved, place.clone(), message);
                None
            }
            Ok(peer) => {
                if peer.is_everyone() && peer.trust_domain() == self.own {
                    let message = format!("{value:?} is everyone of the trust domain {}", self.own);
                    problems.report(ProblemKind::Everyone, place.clone(), message);
                }
                Some(peer)
            }
            Err(error) => {
                let reads = |text: &str| {
                    peer::parse(text, self.own, identity_of).is_ok_and(|peer| !peer.is_reserved())
                };
                report_peer(&error, at, self.declared.keys().copied(), reads, problems);
                None
            }
        }
    }
}

/// Tells why a text is no peer, with the nearest declared name.
pub(super) fn report_peer<'a>(
    error: &peer::PeerError,
    at: &At<&str>,
    names: impl Iterator<Item = &'a str>,
    reads: impl Fn(&str) -> bool,
    problems: &mut Problems<'_>,
) {
    let meant = || peer::probably_meant(at.value, &reads);
    let (kind, suggestion) = match error {
        peer::PeerError::Undeclared { name } if name.contains('*') || name.contains('/') => {
            (ProblemKind::Peer, meant().map(|right| format!("a path starts with \"/\": write {right:?}")))
        }
        peer::PeerError::Undeclared { name } => {
            (ProblemKind::UnknownService, did_you_mean(problems.speller.nearest(name, names)))
        }
        _ => (ProblemKind::Peer, meant().map(|right| format!("write {right:?}"))),
    };
    problems.report_with(kind, at.place.clone(), error.to_string(), suggestion);
}

fn expires(at: &At<toml::value::Datetime>, problems: &mut Problems<'_>) -> Option<Expires> {
    match Expires::new(&at.value) {
        Ok(expires) => Some(expires),
        Err(error) => {
            let suggestion = match &error {
                ExpiresError::NoOffset { written } => Some(format!("write {written}Z")),
                _ => None,
            };
            problems.report_with(ProblemKind::Expires, at.place.clone(), error.to_string(), suggestion);
            None
        }
    }
}
