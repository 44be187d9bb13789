//! One entry of a configuration, `HOST:PORT`: an address, this machine, or a name to ask about.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::name::{Known, Standing};
use crate::config::HostPort;

/// Where a connection may go.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) at: HostPort,
    host: Host,
}

#[derive(Debug)]
enum Host {
    /// Nobody is ever asked about these.
    Addresses(Vec<IpAddr>),
    Named(Known),
}

impl Place {
    pub(super) fn new(at: &HostPort) -> Self {
        let host = match at.host.parse::<IpAddr>() {
            Ok(address) => Host::Addresses(vec![address]),
            Err(_) if is_localhost(&at.host) => {
                Host::Addresses(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()])
            }
            Err(_) => Host::Named(Known::nothing()),
        };
        Self { at: at.clone(), host }
    }

    /// The name to ask about, if it is one.
    pub(super) fn name(&self) -> Option<&str> {
        matches!(self.host, Host::Named(_)).then_some(self.at.host.as_str())
    }

    pub(super) fn known_mut(&mut self) -> Option<&mut Known> {
        match &mut self.host {
            Host::Addresses(_) => None,
            Host::Named(known) => Some(known),
        }
    }

    pub(super) fn standing(&self) -> &Standing {
        match &self.host {
            Host::Addresses(_) => &Standing::Answered,
            Host::Named(known) => &known.standing,
        }
    }

    pub(super) fn addresses(&self) -> &[IpAddr] {
        match &self.host {
            Host::Addresses(addresses) => addresses,
            Host::Named(known) => &known.addresses,
        }
    }

    pub(super) fn socket_addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.addresses().iter().map(|&address| SocketAddr::new(address, self.at.port))
    }
}

/// RFC 6761 §6.3: never asked about, and always this machine.
fn is_localhost(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(host: &str) -> Place {
        Place::new(&HostPort { host: host.to_owned(), port: 80 })
    }

    #[test]
    fn nobody_is_asked_about_addresses_and_this_machine() {
        for host in ["10.0.0.1", "::1", "localhost", "LOCALHOST.", "app.localhost"] {
            let place = place(host);
            assert_eq!((place.name(), place.standing()), (None, &Standing::Answered), "{host}");
            assert!(!place.addresses().is_empty());
        }
        for host in ["payments", "localhost.example", "mylocalhost", "127.1"] {
            assert_eq!(place(host).name(), Some(host));
        }
    }
}
