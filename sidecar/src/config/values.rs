//! The small values of `sidecar.toml`: addresses and names.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use thiserror::Error;

use super::{HostPort, NAME_BYTES_MAX};

/// A text that is not a valid `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("must be HOST:PORT, the host a name or an address (IPv6 in brackets), the port from 1 to 65535")]
pub struct HostPortError;

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = text.rsplit_once(':').ok_or(HostPortError)?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) => address.parse::<Ipv6Addr>().map_err(|_| HostPortError)?.to_string(),
            None if is_host_name(host) => host.to_owned(),
            None => return Err(HostPortError),
        };
        Ok(Self { host, port: parse_port(port)? })
    }
}

/// Whether the text is a DNS host name or IPv4 address. Checks only the characters (RFC 1123 §2.1, plus `_`, which is
/// used in practice).
fn is_host_name(host: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !host.is_empty()
        && host.len() <= HOST_BYTES_MAX
        && !host.starts_with('.')
        && !host.contains("..")
        && host.bytes().all(allowed)
}

/// RFC 1035 §2.3.4.
const HOST_BYTES_MAX: usize = 253;

fn parse_port(text: &str) -> Result<u16, HostPortError> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(HostPortError);
    }
    match text.parse() {
        Ok(0) | Err(_) => Err(HostPortError),
        Ok(port) => Ok(port),
    }
}

/// Parses `https://HOST:PORT`.
pub(super) fn parse_ca(text: &str) -> Result<HostPort, &'static str> {
    const RULE: &str = "must be https://HOST:PORT";
    let rest = text.strip_prefix("https://").ok_or(RULE)?;
    rest.strip_suffix('/').unwrap_or(rest).parse().map_err(|_| RULE)
}

/// Whether the text is a valid name of an inbound or a service (policy.md, Names).
pub(super) fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.len() <= NAME_BYTES_MAX && text.bytes().all(allowed)
}

/// Whether only programs on this machine can reach the address.
pub(super) fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// Whether two listen addresses conflict. `[::]` also accepts IPv4, unless there is a listener on `0.0.0.0` too.
pub(super) fn clash(one: SocketAddr, other: SocketAddr) -> bool {
    let (a, b) = (one.ip().to_canonical(), other.ip().to_canonical());
    let any = |address: IpAddr| address.is_unspecified();
    let same_addresses = match (a.is_ipv4(), b.is_ipv4()) {
        (true, false) => any(b) && !any(a),
        (false, true) => any(a) && !any(b),
        (true, true) | (false, false) => a == b || any(a) || any(b),
    };
    one.port() == other.port() && one.port() != 0 && same_addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_port_are_read_back_as_written() {
        for text in ["payments.internal:8443", "127.0.0.1:1", "[::1]:65535", "a_b:80"] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn invalid_host_and_port_is_refused() {
        let long = format!("{}:80", "a".repeat(HOST_BYTES_MAX + 1));
        for text in
            ["", ":", "host", "host:", ":80", "host:0", "host:65536", "host:+80", "::1:80", "[::1]", "[x]:80"]
        {
            assert_eq!(text.parse::<HostPort>(), Err(HostPortError), "{text}");
        }
        for text in ["http://host:80", "ho st:80", "host/x:80", "a..b:80", ".a:80", "hö:80", long.as_str()] {
            assert_eq!(text.parse::<HostPort>(), Err(HostPortError), "{text}");
        }
    }

    #[test]
    fn a_wildcard_listener_clashes_with_every_other_that_it_would_hide() {
        let clashes = |one: &str, other: &str| {
            let (one, other) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!(clash(one, other), clash(other, one));
            clash(one, other)
        };
        for (one, other) in [
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "127.0.0.1:1"),
            ("[::]:1", "[::1]:1"),
            ("[::ffff:127.0.0.1]:1", "127.0.0.1:1"),
        ] {
            assert!(clashes(one, other), "{one} {other}");
        }
        for (one, other) in [
            ("127.0.0.2:1", "127.0.0.1:1"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("[::]:1", "0.0.0.0:1"),
            ("[::1]:1", "0.0.0.0:1"),
            ("[::]:1", "[::]:2"),
        ] {
            assert!(!clashes(one, other), "{one} {other}");
        }
    }
}
