//! What was refused or observed, made into as few and as narrow rules as will do.

use std::collections::{BTreeMap, BTreeSet};

use postern_proto::policy::{CallPattern, Policy, Protocol, Service, normalise};
use serde_json::{Value, json};

use super::collapse::collapse;
use crate::access_log::{CUT, Question};

/// Rules to add, and what no rule can allow.
#[derive(Debug, Default)]
pub(super) struct Rules<'a> {
    pub(super) rules: Vec<Rule<'a>>,
    pub(super) notes: Vec<String>,
}

/// One rule.
#[derive(Debug, Default)]
pub(super) struct Rule<'a> {
    pub(super) service: String,
    pub(super) from: BTreeSet<String>,
    /// None means any bytes.
    pub(super) calls: Option<BTreeSet<String>>,
    pub(super) port: Option<String>,
    /// How often what it allows was asked for.
    pub(super) count: u64,
    pub(super) questions: Vec<&'a Question>,
}

/// What one caller asked of one service, as far as one rule can say it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    service: String,
    port: Option<String>,
    from: String,
    protocol: &'static str,
}

#[derive(Debug, Default)]
struct Asked<'a> {
    /// Normal paths by method; empty for any bytes.
    paths: BTreeMap<String, BTreeSet<String>>,
    count: u64,
    questions: Vec<&'a Question>,
}

/// The rules that are missing for `missing`, each with how often it was asked.
pub(super) fn rules_for<'a>(policy: &Policy, missing: &[(&'a Question, u64)]) -> Rules<'a> {
    let mut suggestion = Rules::default();
    let mut places: BTreeMap<Place, Asked<'a>> = BTreeMap::new();
    for (question, count) in missing {
        match place(policy, question) {
            Ok((place, call)) => {
                let asked = places.entry(place).or_default();
                asked.count += count;
                asked.questions.push(question);
                if let Some((method, path)) = call {
                    asked.paths.entry(method).or_default().insert(path);
                }
            }
            Err(why) => suggestion.notes.push(format!("{count} × {}: {why}", question.display(policy))),
        }
    }
    suggestion.rules = together(places);
    suggestion
}

/// Callers who need the same share a rule.
fn together(places: BTreeMap<Place, Asked<'_>>) -> Vec<Rule<'_>> {
    let mut rules: BTreeMap<_, Rule<'_>> = BTreeMap::new();
    for (Place { service, port, from, .. }, asked) in places {
        let calls: BTreeSet<String> = asked
            .paths
            .iter()
            .flat_map(|(method, paths)| {
                collapse(paths).into_iter().map(move |path| format!("{method} {path}"))
            })
            .collect();
        let calls = (!calls.is_empty()).then_some(calls);
        let rule = rules.entry((service.clone(), port.clone(), calls.clone())).or_default();
        (rule.service, rule.port, rule.calls) = (service, port, calls);
        rule.from.insert(from);
        rule.count += asked.count;
        rule.questions.extend(asked.questions);
    }
    rules.into_values().collect()
}

/// Where a rule would have to stand, and its call; or why none can allow the question.
fn place(policy: &Policy, question: &Question) -> Result<(Place, Option<(String, String)>), String> {
    let Question { from, to, port, protocol, call } = question;
    let service = policy.service_with(to).ok_or_else(|| {
        format!(
            "the file declares no service with the identity {to}; add a [service.NAME] table for it first"
        )
    })?;
    let port = declared(service, port, *protocol)?;
    if from.is_reserved() {
        return Err("the caller's path is reserved for the CA".to_owned());
    }
    let call = match (protocol, call) {
        (Protocol::Tcp, _) => None,
        (Protocol::Http, None) if port.is_none() => {
            return Err(format!(
                "the connection was refused before its first call; allow the calls it needs, or declare the ports \
                 of {} if this one speaks tcp",
                service.name()
            ));
        }
        (Protocol::Http, None) => {
            return Err(
                "the connection was refused before its first call; allow the calls it needs".to_owned()
            );
        }
        (Protocol::Http, Some((method, path))) => Some(pattern(method, path)?),
    };
    let place = Place {
        service: service.name().to_owned(),
        port,
        from: policy.spelling_of_id(from),
        protocol: protocol.as_str(),
    };
    Ok((place, call))
}

/// The port as a rule names it: not at all, where the service declares none.
fn declared(service: &Service, port: &str, protocol: Protocol) -> Result<Option<String>, String> {
    let Some(mut ports) = service.ports() else { return Ok(None) };
    match ports.find(|(name, _)| *name == port) {
        Some((_, declared)) if declared == protocol => Ok(Some(port.to_owned())),
        Some((_, declared)) => Err(format!(
            "the file says that port {port:?} speaks {}, and the sidecar speaks {}",
            declared.as_str(),
            protocol.as_str()
        )),
        None => Err(format!("the service's ports do not have {port:?}")),
    }
}

/// A call as a rule's `calls` writes it, exactly.
fn pattern(method: &str, path: &str) -> Result<(String, String), String> {
    if method.ends_with(CUT) || path.ends_with(CUT) {
        return Err("the call was too long to be recorded whole".to_owned());
    }
    // "*" is a method that a caller may send (RFC 9110 §9.1), and in a rule it is every method.
    if method == "*" {
        return Err("a rule's method \"*\" would stand for every method".to_owned());
    }
    if method == "CONNECT" {
        return Err("no rule ever allows CONNECT".to_owned());
    }
    let normal = normalise(path).map_err(|why| format!("no rule with calls matches it: {why}"))?;
    let text = format!("{method} {normal}");
    let pattern = CallPattern::parse(&text).map_err(|why| format!("no rule can name it: {why}"))?;
    if normal.contains('*') || pattern.to_string() != text {
        return Err("a \"*\" in it would stand for more than itself".to_owned());
    }
    Ok((method.to_owned(), normal.into_owned()))
}

impl Rule<'_> {
    pub(super) fn as_json(&self) -> Value {
        json!({
            "service": self.service,
            "from": self.from,
            "calls": self.calls,
            "port": self.port,
            "count": self.count,
        })
    }
}
