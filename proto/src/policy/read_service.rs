//! Declarations of services: names, identities, ports and modes.

use std::collections::{BTreeMap, HashMap};

use super::document::{At, RawService, Text};
use super::peer::{PeerError, probably_meant};
use super::problem::ProblemKind;
use super::problems::{Problems, did_you_mean};
use super::service::{Mode, Protocol};
use crate::identity::{SpiffeId, SpiffeIdError, TrustDomain};

/// A service's name has at most this many characters.
const NAME_CHARS_MAX: usize = 63;

/// What rules and expectations need to know of a service.
#[derive(Debug)]
pub(super) struct Declared {
    pub(super) identity: SpiffeId,
    pub(super) ports: Option<BTreeMap<Box<str>, Protocol>>,
    pub(super) mode: Mode,
    /// Whether `ports` was written but could not be read, so that nothing can be said about a port.
    pub(super) ports_unknown: bool,
}

/// All declared services by name, also those with problems, so that one mistake is told once.
pub(super) fn declare<'a>(
    services: &[RawService<'a>],
    own: &TrustDomain,
    problems: &mut Problems<'_>,
) -> HashMap<&'a str, Declared> {
    let mut declared = HashMap::new();
    let mut holders: HashMap<SpiffeId, &str> = HashMap::new();
    for (number, raw) in services.iter().enumerate() {
        let name = &raw.name;
        check_name(name, |right| services.iter().any(|other| other.name.value == right), problems);
        let identity = identity(raw, own, problems);
        if let Some(identity) = &identity
            && let Some(other) = holders.insert(identity.clone(), name.value)
        {
            let place = raw.identity.given().map_or(&name.place, |at| &at.place).clone();
            let message = format!("services {other:?} and {:?} share the identity {identity}", name.value);
            problems.report(ProblemKind::SharedIdentity, place, message);
        }
        let Some(identity) = identity.or_else(|| stand_in(own, number)) else { continue };
        let ports = ports(raw, problems);
        let ports_unknown = ports.is_none() && !raw.ports.is_absent();
        let mode = mode(&raw.mode, problems);
        declared.insert(name.value, Declared { identity, ports, mode, ports_unknown });
    }
    declared
}

/// A service whose identity is wrong still needs one of its own, so that the rest can be read.
fn stand_in(own: &TrustDomain, number: usize) -> Option<SpiffeId> {
    SpiffeId::from_parts(own.clone(), &format!("/unreadable-identity/{number}")).ok()
}

/// policy.md `Names`.
pub(crate) fn is_service_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !name.is_empty() && name.len() <= NAME_CHARS_MAX && name.bytes().all(fits)
}

fn check_name(name: &At<&str>, is_taken: impl Fn(&str) -> bool, problems: &mut Problems<'_>) {
    let At { value, place } = name;
    if !is_service_name(value) {
        let message =
            format!("{value:?} is no service name: expected 1 to {NAME_CHARS_MAX} of a-z, 0-9 and \"-\"");
        let right = value.to_ascii_lowercase().replace(['_', '.', ' '], "-");
        let suggestion = (is_service_name(&right) && !is_taken(&right)).then(|| format!("write {right:?}"));
        problems.report_with(ProblemKind::ServiceName, place.clone(), message, suggestion);
    }
}

fn identity(raw: &RawService<'_>, own: &TrustDomain, problems: &mut Problems<'_>) -> Option<SpiffeId> {
    let (written, place) = match (raw.identity.given(), raw.identity.is_absent()) {
        (Some(at), _) => (at.value.to_owned(), at.place.clone()),
        (None, true) => (format!("/{}", raw.name.value), raw.name.place.clone()),
        (None, false) => return None,
    };
    match exact_identity(&written, own) {
        Ok(id) if id.is_reserved() => {
            let message = format!("identity {written:?} lies under \"/postern/\", which is reserved");
            problems.report(ProblemKind::Reserved, place, message);
            None
        }
        Ok(id) => Some(id),
        // An unusable name has been told already.
        Err(_) if raw.identity.is_absent() => None,
        Err(error) => {
            let suggestion = if written.contains('*') {
                Some("an identity is exact: it has no wildcard".to_owned())
            } else {
                let reads = |text: &str| exact_identity(text, own).is_ok_and(|id| !id.is_reserved());
                probably_meant(&written, reads).map(|right| format!("write {right:?}"))
            };
            problems.report_with(ProblemKind::Identity, place, error.to_string(), suggestion);
            None
        }
    }
}

/// A path or a full ID, exact and canonical.
fn exact_identity(written: &str, own: &TrustDomain) -> Result<SpiffeId, PeerError> {
    if written.starts_with('/') {
        return Ok(SpiffeId::from_parts(own.clone(), written)?);
    }
    if !written.contains("://") {
        return Err(SpiffeIdError::NoLeadingSlash { path: written.to_owned() }.into());
    }
    let id = SpiffeId::parse_canonical(written)?;
    if id.path().is_empty() { Err(PeerError::NoPath { id: written.to_owned() }) } else { Ok(id) }
}

fn ports(raw: &RawService<'_>, problems: &mut Problems<'_>) -> Option<BTreeMap<Box<str>, Protocol>> {
    let mut ports = BTreeMap::new();
    let mut complete = true;
    for (name, protocol) in &raw.ports.given()?.value {
        if name.value.is_empty() {
            problems.report(ProblemKind::WrongValue, name.place.clone(), "a port has no name");
        }
        let Some(At { value, place }) = protocol.given() else {
            complete = false;
            continue;
        };
        match Protocol::parse(value) {
            Some(protocol) => {
                ports.insert(Box::from(name.value), protocol);
            }
            None => {
                complete = false;
                wrong_word(value, place, "a port's protocol", &["http", "tcp"], problems);
            }
        }
    }
    complete.then_some(ports)
}

fn mode(given: &Text<'_>, problems: &mut Problems<'_>) -> Mode {
    let Some(At { value, place }) = given.given() else { return Mode::default() };
    Mode::parse(value).unwrap_or_else(|| {
        wrong_word(value, place, "`mode`", &["enforce", "observe"], problems);
        Mode::default()
    })
}

/// Tells that a word is none of the few allowed.
pub(super) fn wrong_word(
    found: &str,
    place: &std::ops::Range<usize>,
    what: &str,
    allowed: &[&str],
    problems: &mut Problems<'_>,
) {
    let suggestion = problems.speller.nearest(found, allowed.iter().copied());
    let allowed = allowed.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(" or ");
    let message = format!("{what} must be {allowed}; found {found:?}");
    problems.report_with(ProblemKind::WrongValue, place.clone(), message, did_you_mean(suggestion));
}
