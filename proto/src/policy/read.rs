//! From a file's text to a policy, or to everything that is wrong with it.

use std::collections::HashMap;
use std::sync::Arc;

use toml::de::DeTable;

use super::bounds::{FILE_BYTES_MAX, NESTING_MAX, too_deep};
use super::document::{self, At, Document, RawService, Text};
use super::expectation::expectations;
use super::problem::{Problem, ProblemKind};
use super::problems::{Problems, did_you_mean};
use super::read_rule::{RuleReader, rules};
use super::read_service::declare;
use super::service::Service;
use super::source::Source;
use super::{Policy, PolicyParts};
use crate::identity::TrustDomain;

/// Reads a policy file. The policy is there when no problem is an error.
pub(super) fn read(file: &str, text: &str) -> (Option<Policy>, Vec<Problem>) {
    if text.len() > FILE_BYTES_MAX {
        let message = format!("the file has {} bytes, more than the {FILE_BYTES_MAX} allowed", text.len());
        return (None, vec![Source::new(file, "").problem(ProblemKind::Bound, 0..0, message)]);
    }
    let source = Source::new(file, text);
    let mut problems = Problems::new(&source);
    if let Some(place) = too_deep(text) {
        problems.report(
            ProblemKind::Bound,
            place,
            format!("nested deeper than the {NESTING_MAX} levels allowed"),
        );
        return (None, problems.finish());
    }
    let table = parse_toml(text, &mut problems);
    let document = document::read(&table, &mut problems);
    let policy = build(file, &document, &mut problems);
    let problems = problems.finish();
    let refused = problems.iter().any(|problem| problem.severity == super::Severity::Error);
    (policy.filter(|_| !refused), problems)
}

fn parse_toml<'a>(text: &'a str, problems: &mut Problems<'_>) -> DeTable<'a> {
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let place = error.span().unwrap_or(text.len()..text.len());
        let kind = match error.message() {
            "duplicate key" => ProblemKind::Duplicate,
            _ => ProblemKind::Syntax,
        };
        problems.unreadable(kind, place, error.message());
    }
    table.into_inner()
}

fn build(file: &str, document: &Document<'_>, problems: &mut Problems<'_>) -> Option<Policy> {
    let trust_domain = trust_domain(&document.trust_domain, problems);
    let required = required(document, problems);
    // With a wrong trust domain the rest is still read, under the name that was probably meant.
    let own = match (&trust_domain, document.trust_domain.given()) {
        (Some(own), _) => own.clone(),
        (None, given) => TrustDomain::new(&probably_meant(given.map_or("", |at| at.value)))
            .or_else(|_| TrustDomain::new("unknown"))
            .ok()?,
    };
    let declared = declare(&document.services, &own, problems);
    let reader = RuleReader { file: Arc::from(file), own: &own, declared: &declared, required: &required };
    let services: Vec<Service> =
        document.services.iter().filter_map(|raw| service(raw, &reader, problems)).collect();
    let expectations = expectations(document, &own, &services, problems);
    Some(Policy::from(PolicyParts {
        file: Arc::from(file),
        trust_domain: trust_domain?,
        digest: digest(problems.source().text()).into(),
        version: None,
        services,
        expectations,
    }))
}

fn service(raw: &RawService<'_>, reader: &RuleReader<'_>, problems: &mut Problems<'_>) -> Option<Service> {
    let declared = reader.declared.get(raw.name.value)?;
    let name: Arc<str> = Arc::from(raw.name.value);
    let rules = rules(raw, declared, &name, reader, problems);
    Some(Service {
        line: problems.source().line_of(raw.name.place.start),
        place: raw.name.place.clone(),
        identity: declared.identity.clone(),
        ports: declared.ports.clone(),
        mode: declared.mode,
        index: super::index::RuleIndex::new(&rules),
        rules,
        name,
    })
}

fn trust_domain(given: &Text<'_>, problems: &mut Problems<'_>) -> Option<TrustDomain> {
    let Some(At { value, place }) = given.given() else {
        if given.is_absent() {
            let example = Some("write trust_domain = \"example.org\" at the top".to_owned());
            problems.report_with(ProblemKind::Missing, 0..0, "`trust_domain` is missing", example);
        }
        return None;
    };
    match TrustDomain::new(value) {
        Ok(trust_domain) => Some(trust_domain),
        Err(error) => {
            let meant = TrustDomain::new(&probably_meant(value)).ok();
            let suggestion = meant.map(|right| format!("write {:?}", right.as_str()));
            problems.report_with(ProblemKind::TrustDomain, place.clone(), error.to_string(), suggestion);
            None
        }
    }
}

fn probably_meant(written: &str) -> String {
    written.strip_prefix("spiffe://").unwrap_or(written).trim_matches([' ', '/']).to_ascii_lowercase()
}

/// The fields that `require` can make mandatory.
pub(super) const REQUIRABLE: [&str; 3] = ["owner", "reason", "expires"];

fn required<'a>(document: &Document<'a>, problems: &mut Problems<'_>) -> Vec<&'a str> {
    let mut first_places = HashMap::new();
    let entries = document.require.given().map(|list| list.value.as_slice()).unwrap_or_default();
    for At { value, place } in entries {
        if !REQUIRABLE.contains(value) {
            let absent = |word: &&str| !entries.iter().any(|entry| entry.value == *word);
            let suggestion = problems.speller.nearest(value, REQUIRABLE.into_iter().filter(absent));
            let message = format!("`require` has {value:?}; it may have {}", REQUIRABLE.join(", "));
            problems.report_with(ProblemKind::WrongValue, place.clone(), message, did_you_mean(suggestion));
        } else if first_places.insert(*value, place).is_some() {
            problems.report(ProblemKind::Duplicate, place.clone(), format!("`require` has {value:?} twice"));
        }
    }
    first_places.into_keys().collect()
}

fn digest(text: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
