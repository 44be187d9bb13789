//! A configured `HOST:PORT`: an IP address, this machine, or a DNS name.

use std::net::{IpAddr, SocketAddr};

use super::load_balancer::Endpoint;
use crate::config::HostPort;
use crate::network::resolver::name::{ResolutionState, ResolvedName};
use crate::network::resolver::{LOOPBACK, is_localhost};

/// One configured upstream host.
#[derive(Debug)]
pub(super) struct UpstreamHost {
    pub(super) at: HostPort,
    host: Host,
}

#[derive(Debug)]
enum Host {
    /// Needs no resolution.
    Address(IpAddr),
    /// This machine, at the loopback address of either family.
    Localhost,
    Named(ResolvedName),
}

impl UpstreamHost {
    pub(super) fn new(at: &HostPort) -> Self {
        let host = match at.host.parse::<IpAddr>() {
            Ok(address) => Host::Address(address.to_canonical()),
            Err(_) if is_localhost(&at.host) => Host::Localhost,
            Err(_) => Host::Named(ResolvedName::unresolved()),
        };
        Self { at: at.clone(), host }
    }

    /// The DNS name, if it is one.
    pub(super) fn name(&self) -> Option<&str> {
        matches!(self.host, Host::Named(_)).then_some(self.at.host.as_str())
    }

    pub(super) fn known_mut(&mut self) -> Option<&mut ResolvedName> {
        match &mut self.host {
            Host::Address(_) | Host::Localhost => None,
            Host::Named(known) => Some(known),
        }
    }

    pub(super) fn standing(&self) -> &ResolutionState {
        match &self.host {
            Host::Address(_) | Host::Localhost => &ResolutionState::Answered,
            Host::Named(known) => &known.state,
        }
    }

    /// The resolution state of the DNS name, if it is one.
    pub(super) fn known(&self) -> Option<&ResolvedName> {
        match &self.host {
            Host::Address(_) | Host::Localhost => None,
            Host::Named(known) => Some(known),
        }
    }

    pub(super) fn endpoints(&self) -> Vec<Endpoint> {
        let at = |address: IpAddr| SocketAddr::new(address, self.at.port);
        match &self.host {
            Host::Address(address) => vec![at(*address).into()],
            Host::Localhost => {
                let [v4, v6] = LOOPBACK.map(at);
                vec![Endpoint { at: v4, also: Some(v6) }]
            }
            Host::Named(known) => known.addresses.iter().map(|&address| at(address).into()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(host: &str) -> UpstreamHost {
        UpstreamHost::new(&HostPort { host: host.to_owned(), port: 80 })
    }

    #[test]
    fn ip_addresses_and_localhost_need_no_resolution() {
        for host in ["10.0.0.1", "::1", "localhost", "LOCALHOST.", "app.localhost"] {
            let place = place(host);
            assert_eq!((place.name(), place.standing()), (None, &ResolutionState::Answered), "{host}");
            assert_eq!(place.endpoints().len(), 1, "one instance");
        }
        for host in ["payments", "localhost.example", "mylocalhost", "127.1"] {
            assert_eq!(place(host).name(), Some(host));
        }
    }
}
