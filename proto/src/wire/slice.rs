//! What of a policy one sidecar is told: all that concerns its identity, and nothing of who may call others.

use super::v1::{PolicySlice, SidecarPort, SliceName, SliceRule, SliceService};
use crate::identity::SpiffeId;
use crate::policy::{Policy, Protocol, Rule, Service};

/// A slice on the wire has at most this many bytes, far more than a policy of usual names needs. A policy of which a
/// slice is larger cannot be distributed.
pub const SLICE_BYTES_MAX: usize = 16 * 1024 * 1024;

impl Policy {
    /// What concerns a sidecar of `identity` that calls `wanted` services by name. A policy read from it decides all
    /// questions to `identity` as this one does, and knows the identities of `wanted`.
    pub fn slice_for(&self, identity: &SpiffeId, wanted: &[impl AsRef<str>], version: u64) -> PolicySlice {
        let mut wanted: Vec<&str> = wanted.iter().map(AsRef::as_ref).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let name = |name: &str| {
            let spiffe_id = self.identity_of(name)?.to_string();
            Some(SliceName { name: name.to_owned(), spiffe_id })
        };
        PolicySlice {
            version,
            digest: self.digest().to_owned(),
            file: self.file().to_owned(),
            trust_domain: self.trust_domain().to_string(),
            names: wanted.into_iter().filter_map(name).collect(),
            own: self.service_with(identity).map(own),
        }
    }
}

fn own(service: &Service) -> SliceService {
    let port = |(name, protocol): (&str, Protocol)| SidecarPort {
        name: name.to_owned(),
        protocol: protocol.as_str().to_owned(),
    };
    SliceService {
        name: service.name.to_string(),
        spiffe_id: service.identity.to_string(),
        mode: service.mode.as_str().to_owned(),
        ports_declared: service.ports.is_some(),
        ports: service.ports().into_iter().flatten().map(port).collect(),
        rules: service.rules.iter().map(rule).collect(),
    }
}

fn rule(rule: &Rule) -> SliceRule {
    let about = &rule.about;
    SliceRule {
        line: about.line,
        from: rule.from.iter().map(ToString::to_string).collect(),
        calls: rule.calls.iter().flatten().map(ToString::to_string).collect(),
        port: rule.port.as_deref().map(str::to_owned),
        owner: about.owner.clone(),
        reason: about.reason.clone(),
        expires: about.expires.as_ref().map(ToString::to_string),
    }
}
