//! A policy from the slice that a sidecar was sent. What of it cannot be understood is an error, never skipped.

use std::collections::BTreeMap;
use std::sync::Arc;

use thiserror::Error;
use toml::value::{Datetime, DatetimeParseError};

use super::v1::{PolicySlice, SidecarPort, SliceRule, SliceService};
use crate::identity::{IdPattern, SpiffeId, SpiffeIdError, TrustDomain, TrustDomainError};
use crate::policy::{
    CallError, CallPattern, Expires, ExpiresError, LIST_ENTRIES_MAX, Mode, PeerError, Policy, PolicyParts,
    Protocol, RULES_MAX, Rule, RuleIndex, RuleRef, Service, is_service_name, parse_peer,
};

impl Policy {
    /// Reads what [`Policy::slice_for`] made.
    pub fn from_slice(slice: PolicySlice) -> Result<Self, SliceError> {
        if slice.version == 0 {
            return Err(SliceError::NoPolicy);
        }
        let trust_domain = TrustDomain::new(&slice.trust_domain)?;
        if !is_digest(&slice.digest) {
            return Err(SliceError::Digest { digest: slice.digest });
        }
        at_most(LIST_ENTRIES_MAX, slice.names.len(), "names")?;
        let reader = SliceReader { file: Arc::from(slice.file), own: &trust_domain };
        let mut services: Vec<Service> =
            slice.own.map(|own| reader.own(own)).transpose()?.into_iter().collect();
        for named in slice.names {
            let id = identity(&named.spiffe_id)?;
            match services.iter().find(|known| *known.name == *named.name || known.identity == id) {
                None => services.push(named_only(&named.name, id)?),
                Some(known) if *known.name == *named.name && known.identity == id => {}
                Some(_) => return Err(SliceError::NameTwice { name: named.name }),
            }
        }
        Ok(Self::from(PolicyParts {
            file: reader.file.clone(),
            digest: slice.digest.into(),
            version: Some(slice.version),
            trust_domain,
            services,
            expectations: Vec::new(),
        }))
    }
}

/// What every rule is read against.
struct SliceReader<'a> {
    file: Arc<str>,
    own: &'a TrustDomain,
}

impl SliceReader<'_> {
    fn own(&self, raw: SliceService) -> Result<Service, SliceError> {
        let mut service = named_only(&raw.name, identity(&raw.spiffe_id)?)?;
        service.mode = Mode::parse(&raw.mode).ok_or(SliceError::Mode { found: raw.mode })?;
        service.ports = ports(raw.ports_declared, raw.ports)?;
        at_most(RULES_MAX, raw.rules.len(), "rules")?;
        if !raw.rules.is_empty() && service.identity.trust_domain() != self.own {
            return Err(SliceError::ForeignRules { id: service.identity });
        }
        let rules: Result<Vec<_>, _> = raw.rules.into_iter().map(|rule| self.rule(rule, &service)).collect();
        service.rules = rules?;
        service.index = RuleIndex::new(&service.rules);
        Ok(service)
    }

    fn rule(&self, raw: SliceRule, service: &Service) -> Result<Rule, SliceError> {
        let line = raw.line;
        let from = self.from(&raw)?;
        let calls = calls(&raw)?;
        let port = raw.port.map(|port| port_of(port, line, calls.is_some(), service)).transpose()?;
        let expires = raw.expires.map(|written| expires(&written, line)).transpose()?;
        let about = RuleRef {
            file: self.file.clone(),
            line,
            service: service.name.clone(),
            owner: raw.owner,
            reason: raw.reason,
            expires,
        };
        Ok(Rule { about: Arc::new(about), place: 0..0, from, calls, port })
    }

    fn from(&self, raw: &SliceRule) -> Result<Vec<IdPattern>, SliceError> {
        let line = raw.line;
        at_most(LIST_ENTRIES_MAX, raw.from.len(), "entries of `from`")?;
        if raw.from.is_empty() {
            return Err(SliceError::NoFrom { line });
        }
        let read = |text: &String| {
            let peer =
                parse_peer(text, self.own, |_| None).map_err(|cause| SliceError::From { line, cause })?;
            if peer.is_reserved() { Err(SliceError::Reserved { id: text.clone() }) } else { Ok(peer) }
        };
        raw.from.iter().map(read).collect()
    }
}

fn calls(raw: &SliceRule) -> Result<Option<Vec<CallPattern>>, SliceError> {
    let line = raw.line;
    at_most(LIST_ENTRIES_MAX, raw.calls.len(), "entries of `calls`")?;
    let read = |text: &String| CallPattern::parse(text).map_err(|cause| SliceError::Call { line, cause });
    let calls: Vec<_> = raw.calls.iter().map(read).collect::<Result<_, _>>()?;
    Ok((!calls.is_empty()).then_some(calls))
}

/// policy.md `Ports`: a rule's port is one of the declared list, and calls are told apart on `http` only.
fn port_of(port: String, line: u32, with_calls: bool, service: &Service) -> Result<Box<str>, SliceError> {
    match service.ports.as_ref().and_then(|ports| ports.get(&*port)) {
        Some(protocol) if !with_calls || *protocol == Protocol::Http => Ok(port.into()),
        _ => Err(SliceError::RulePort { line, port }),
    }
}

fn expires(written: &str, line: u32) -> Result<Expires, SliceError> {
    let datetime: Datetime =
        written.parse().map_err(|cause| SliceError::Datetime { line, written: written.to_owned(), cause })?;
    Expires::new(&datetime).map_err(|cause| SliceError::Expires { line, cause })
}

fn ports(declared: bool, raw: Vec<SidecarPort>) -> Result<Option<BTreeMap<Box<str>, Protocol>>, SliceError> {
    at_most(LIST_ENTRIES_MAX, raw.len(), "ports")?;
    let mut ports = BTreeMap::new();
    for SidecarPort { name, protocol } in raw {
        let Some(protocol) = Protocol::parse(&protocol) else {
            return Err(SliceError::Protocol { port: name, found: protocol });
        };
        if name.is_empty() || !declared || ports.insert(Box::from(&*name), protocol).is_some() {
            return Err(SliceError::Port { name });
        }
    }
    Ok(declared.then_some(ports))
}

/// A service of which only the name and the identity are known: it has no rules here.
fn named_only(name: &str, identity: SpiffeId) -> Result<Service, SliceError> {
    if !is_service_name(name) {
        return Err(SliceError::ServiceName { name: name.to_owned() });
    }
    Ok(Service {
        name: Arc::from(name),
        place: 0..0,
        line: 0,
        identity,
        ports: None,
        mode: Mode::Enforce,
        rules: Vec::new(),
        index: RuleIndex::new(&[]),
    })
}

fn identity(text: &str) -> Result<SpiffeId, SliceError> {
    let id = SpiffeId::parse_canonical(text)?;
    if id.path().is_empty() || id.is_reserved() {
        Err(SliceError::Reserved { id: text.to_owned() })
    } else {
        Ok(id)
    }
}

fn is_digest(text: &str) -> bool {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.strip_prefix("sha256:").is_some_and(|digits| digits.len() == 64 && digits.bytes().all(hex))
}

fn at_most(max: usize, found: usize, what: &'static str) -> Result<(), SliceError> {
    if found > max { Err(SliceError::TooMany { what, found, max }) } else { Ok(()) }
}

/// Why a slice is no policy.
#[derive(Debug, Clone, Error)]
pub enum SliceError {
    /// Version 0: none is stored.
    #[error("no policy is stored")]
    NoPolicy,
    /// Not canonical.
    #[error(transparent)]
    TrustDomain(#[from] TrustDomainError),
    /// Not `sha256:` and 64 lower-case hexadecimal digits.
    #[error("{digest:?} is no digest")]
    Digest {
        /// As sent.
        digest: String,
    },
    /// More of something than a policy may have.
    #[error("{found} {what} are more than the {max} allowed")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        found: usize,
        /// How many there may be.
        max: usize,
    },
    /// Not a service's name.
    #[error("{name:?} is no service name")]
    ServiceName {
        /// As sent.
        name: String,
    },
    /// A name or its identity means another service already.
    #[error("service {name:?} shares its name or its identity with another")]
    NameTwice {
        /// As sent.
        name: String,
    },
    /// Not a SPIFFE ID, or not in canonical form.
    #[error(transparent)]
    Id(#[from] SpiffeIdError),
    /// An ID that no workload has, or a peer that belongs to Postern itself.
    #[error("{id:?} is reserved, or no workload's")]
    Reserved {
        /// As sent.
        id: String,
    },
    /// Neither `enforce` nor `observe`.
    #[error("mode {found:?} is unknown")]
    Mode {
        /// As sent.
        found: String,
    },
    /// A port without a name, twice, or of a service that declares none.
    #[error("port {name:?} is empty, twice or not expected")]
    Port {
        /// As sent.
        name: String,
    },
    /// Neither `http` nor `tcp`.
    #[error("port {port:?} has the unknown protocol {found:?}")]
    Protocol {
        /// The port.
        port: String,
        /// As sent.
        found: String,
    },
    /// A service of another trust domain has no rules.
    #[error("{id} is of another trust domain, so it has no rules")]
    ForeignRules {
        /// The service.
        id: SpiffeId,
    },
    /// A rule that is for nobody.
    #[error("the rule of line {line} has an empty `from`")]
    NoFrom {
        /// Of the rule.
        line: u32,
    },
    /// A peer that is none.
    #[error("the rule of line {line} has an unusable `from`")]
    From {
        /// Of the rule.
        line: u32,
        /// Why.
        #[source]
        cause: PeerError,
    },
    /// A call that is none.
    #[error("the rule of line {line} has an unusable call")]
    Call {
        /// Of the rule.
        line: u32,
        /// Why.
        #[source]
        cause: CallError,
    },
    /// A port that is not declared, or calls on one that is `tcp`.
    #[error("the rule of line {line} cannot be for port {port:?}")]
    RulePort {
        /// Of the rule.
        line: u32,
        /// As sent.
        port: String,
    },
    /// Not a date or date-time as TOML writes it.
    #[error("the rule of line {line} expires {written:?}, which is no date")]
    Datetime {
        /// Of the rule.
        line: u32,
        /// As sent.
        written: String,
        /// Why.
        #[source]
        cause: DatetimeParseError,
    },
    /// A moment that does not exist or depends on the reader.
    #[error("the rule of line {line} has an unusable end")]
    Expires {
        /// Of the rule.
        line: u32,
        /// Why.
        #[source]
        cause: ExpiresError,
    },
}
