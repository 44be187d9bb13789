//! Where a service and its rules are reached, beside what another policy says of the same service's inbounds.

use super::Inbound;
use crate::policy::Service;
use crate::policy::rule::Rule;
use crate::policy::service::Protocol;

/// The inbounds of a service as one policy declares them, split by whether the other policy serves them at all.
#[derive(Debug, Clone, Default)]
pub(super) struct Inbounds {
    /// Those that the other policy refuses whole, or whose service it does not know.
    pub(super) foreign: Vec<Inbound>,
    /// Those that it serves, too.
    pub(super) shared: Vec<Inbound>,
}

impl Inbounds {
    pub(super) fn new(service: &Service, other: Option<&Service>) -> Self {
        let (shared, foreign) = reached(service, other)
            .into_iter()
            .partition(|inbound| other.is_some_and(|other| serves(other, inbound)));
        Self { foreign, shared }
    }

    /// Those on which a rule can allow anything (policy.md `Ports`).
    pub(super) fn of_rule(&self, rule: &Rule) -> Self {
        let reachable = |inbound: &&Inbound| {
            let named = rule.port.is_none() || rule.port == inbound.name;
            named && (rule.calls.is_none() || inbound.protocol == Protocol::Http)
        };
        Self {
            foreign: self.foreign.iter().filter(reachable).cloned().collect(),
            shared: self.shared.iter().filter(reachable).cloned().collect(),
        }
    }
}

/// Every inbound that a service may have. Without `ports` that is any, so those that the other policy names come
/// one by one and the rest as one without name.
fn reached(service: &Service, other: Option<&Service>) -> Vec<Inbound> {
    let of_ports = |service: &Service| -> Vec<Inbound> {
        let ports = service.ports.iter().flatten();
        ports.map(|(name, protocol)| Inbound { name: Some(name.clone()), protocol: *protocol }).collect()
    };
    if service.ports.is_some() {
        return of_ports(service);
    }
    let mut inbounds = other.map(of_ports).unwrap_or_default();
    inbounds.extend([Protocol::Http, Protocol::Tcp].map(|protocol| Inbound { name: None, protocol }));
    inbounds
}

fn serves(service: &Service, inbound: &Inbound) -> bool {
    let Some(ports) = &service.ports else { return true };
    inbound.name.as_ref().is_some_and(|name| ports.get(name) == Some(&inbound.protocol))
}
