//! Where and what a rule allows as written: its calls, and the port they arrive on.

use std::collections::HashSet;
use std::ops::Range;

use super::call::{CallError, CallPattern};
use super::document::{At, RawRule, list};
use super::problem::ProblemKind;
use super::problems::{Problems, did_you_mean};
use super::read_service::Declared;
use super::service::Protocol;

/// The rule's calls, if it has any. The outer `None` means unusable, which has been told.
pub(super) fn calls(raw: &RawRule<'_>, problems: &mut Problems<'_>) -> Option<Option<Vec<CallPattern>>> {
    if raw.calls.is_absent() {
        return Some(None);
    }
    let list = list(&raw.calls, "calls", &raw.place, problems)?;
    let mut seen = HashSet::new();
    let mut calls = Vec::new();
    for At { value, place } in list {
        match CallPattern::parse(value) {
            Ok(call) if seen.insert(call.clone()) => calls.push(call),
            Ok(call) => {
                problems.report(
                    ProblemKind::Duplicate,
                    place.clone(),
                    format!("`calls` has {call:?} twice", call = call.to_string()),
                );
            }
            Err(error) => {
                let suggestion = right_call(value, &error);
                problems.report_with(ProblemKind::Call, place.clone(), error.to_string(), suggestion);
            }
        }
    }
    (calls.len() == list.len()).then_some(Some(calls))
}

fn right_call(written: &str, error: &CallError) -> Option<String> {
    let (method, path) = written.split_once(' ').unwrap_or(("", written));
    let right = match error {
        CallError::LowerCaseMethod { .. } => format!("{} {path}", method.to_ascii_uppercase()),
        CallError::NotNormal { normal, .. } => format!("{method} {normal}"),
        CallError::Query { .. } => format!("{method} {}", path.split('?').next().unwrap_or_default()),
        CallError::Path { path } => format!("{method} {}", path.trim()),
        CallError::Shape { call } if call.starts_with('/') => format!("* {call}"),
        CallError::InsideSegment { .. } => {
            return Some("a wildcard is a whole segment: \"*\" or a last \"**\"".into());
        }
        _ => return None,
    };
    CallPattern::parse(&right).is_ok().then(|| format!("write {right:?}"))
}

/// policy.md `Ports`. The outer `None` means unusable, which has been told.
pub(super) fn port(
    raw: &RawRule<'_>,
    declared: &Declared,
    service: &str,
    problems: &mut Problems<'_>,
) -> Option<Option<Box<str>>> {
    if declared.ports_unknown {
        return Some(raw.port.given().map(|at| at.value.into()));
    }
    let with_calls = !raw.calls.is_absent();
    let Some(At { value, place }) = raw.port.given() else {
        let can_arrive = declared.ports.as_ref().is_none_or(|ports| {
            if with_calls {
                ports.values().any(|protocol| *protocol == Protocol::Http)
            } else {
                !ports.is_empty()
            }
        });
        if !can_arrive && raw.port.is_absent() {
            let (kind, message) = if with_calls {
                (
                    ProblemKind::CallsOnTcp,
                    format!("service {service:?} has no \"http\" port, so `calls` can never match"),
                )
            } else {
                (
                    ProblemKind::UnknownPort,
                    format!("service {service:?} has no ports, so the rule can never match"),
                )
            };
            problems.report(kind, raw.place.clone(), message);
        }
        return raw.port.is_absent().then_some(None);
    };
    let Some(ports) = &declared.ports else {
        let message = format!("port {value:?}: service {service:?} declares no `ports`");
        let bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let key = if value.bytes().all(bare) { (*value).to_owned() } else { format!("{value:?}") };
        let suggestion = (!value.is_empty())
            .then(|| format!("write ports = {{ {key} = \"http\" }} in [service.{service}]"));
        problems.report_with(ProblemKind::UnknownPort, place.clone(), message, suggestion);
        return None;
    };
    match ports.get(*value) {
        Some(Protocol::Tcp) if with_calls => {
            let place = raw.calls.given().map_or(place, |at| &at.place).clone();
            problems.report(
                ProblemKind::CallsOnTcp,
                place,
                format!("port {value:?} is \"tcp\", where no calls can be told apart"),
            );
            None
        }
        Some(_) => Some(Some((*value).into())),
        None => {
            let fits = |name: &&str| !with_calls || ports.get(*name) == Some(&Protocol::Http);
            unknown_port(value, place, service, ports.keys().map(|name| &**name), fits, problems);
            None
        }
    }
}

/// Tells that a service does not declare a port.
pub(super) fn unknown_port<'a>(
    port: &str,
    place: &Range<usize>,
    service: &str,
    declared: impl Iterator<Item = &'a str> + Clone,
    fits: impl Fn(&&'a str) -> bool,
    problems: &mut Problems<'_>,
) {
    let suggestion = problems.speller.nearest(port, declared.clone().filter(fits));
    let shown = declared.take(10).map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    let message = format!("service {service:?} declares no port {port:?}; it has {shown}");
    problems.report_with(ProblemKind::UnknownPort, place.clone(), message, did_you_mean(suggestion));
}
