//! The hosts file (hosts(5)). Invalid lines are ignored.

use std::collections::HashMap;
use std::net::IpAddr;

use super::ignored_line::IgnoredLine;

/// Addresses of both families by name.
#[derive(Debug, Default)]
pub struct Hosts(HashMap<Vec<u8>, Vec<IpAddr>>);

impl Hosts {
    /// Parses the file and returns the ignored lines too. Names are bytes, because they need not be UTF-8.
    pub fn parse(text: &[u8]) -> (Self, Vec<IgnoredLine>) {
        let (mut hosts, mut ignored) = (Self::default(), Vec::new());
        for (number, line) in (1..).zip(text.split(|&byte| byte == b'\n')) {
            let words = line.split(|&byte| byte == b'#').next().unwrap_or_default();
            let mut words = words.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
            let Some(address) = words.next() else { continue };
            match str::from_utf8(address).ok().and_then(|address| address.parse::<IpAddr>().ok()) {
                Some(address) => words.for_each(|name| hosts.add(name, address)),
                None => ignored.push(IgnoredLine::new(number, line, "it does not begin with an IP address")),
            }
        }
        (hosts, ignored)
    }

    fn add(&mut self, name: &[u8], address: IpAddr) {
        let addresses = self.0.entry(key(name)).or_default();
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }

    /// The addresses of a name, if the file contains it.
    pub fn addresses(&self, name: &str) -> Option<&[IpAddr]> {
        self.0.get(&key(name.as_bytes())).map(Vec::as_slice)
    }
}

/// The normalized name: lower case, without a trailing dot.
fn key(name: &[u8]) -> Vec<u8> {
    name.strip_suffix(b".").unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(hosts: &Hosts, name: &str) -> Vec<String> {
        hosts.addresses(name).unwrap_or_default().iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn a_name_has_all_its_addresses_whatever_its_case() {
        let text =
            b"10.0.0.1\tPayments pay # 10.0.0.9 other\n::1 payments.\r\n10.0.0.1 payments\n\n# nothing";
        let (hosts, ignored) = Hosts::parse(text);
        assert_eq!(addresses(&hosts, "payments."), ["10.0.0.1", "::1"]);
        assert_eq!(addresses(&hosts, "PAY"), ["10.0.0.1"]);
        assert_eq!((hosts.addresses("other"), ignored.len()), (None, 0));
    }

    #[test]
    fn a_bad_line_costs_that_line_and_is_counted_from_1() {
        let text = b"# caf\xe9\n10.0.0.1 caf\xe9 a\n10.0.0.256 b\nfe80::1%eth0 c\n\xff\xfe d\n10.0.0.2 e";
        let (hosts, ignored) = Hosts::parse(text);
        assert_eq!(
            (addresses(&hosts, "a"), addresses(&hosts, "e")),
            (vec!["10.0.0.1".into()], vec!["10.0.0.2".into()])
        );
        assert_eq!(ignored.iter().map(|ignored| ignored.line).collect::<Vec<_>>(), [3, 4, 5]);
    }
}
