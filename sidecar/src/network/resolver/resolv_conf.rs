//! The resolver's configuration file (resolv.conf(5)). Invalid lines are ignored, as in the C library.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::proto::rr::Name;

use super::ignored_line::IgnoredLine;

/// Maximum number of name servers (resolv.conf(5), MAXNS).
pub const NAME_SERVERS_MAX: usize = 3;
/// Maximum number of search domains.
pub const SEARCH_MAX: usize = 32;
/// Maximum values of the options (resolv.conf(5)).
const NDOTS_MAX: u32 = 15;
const TIMEOUT_SECONDS_MAX: u32 = 30;
const ATTEMPTS_MAX: u32 = 5;

/// The parsed file.
#[derive(Debug)]
pub struct ResolvConf {
    pub config: ResolverConfig,
    pub options: ResolverOpts,
    pub ignored: Vec<IgnoredLine>,
}

impl ResolvConf {
    pub fn parse(text: &[u8]) -> Self {
        let mut parser = Parser::default();
        for (number, line) in (1..).zip(text.split(|&byte| byte == b'\n')) {
            parser.line(number, line);
        }
        let Parser { servers, search, mut options, over_tcp, ignored } = parser;
        // Without a `nameserver` line, the name server on this machine is used.
        let servers = if servers.is_empty() { vec![IpAddr::V4(Ipv4Addr::LOCALHOST)] } else { servers };
        let server = if over_tcp { NameServerConfig::tcp } else { NameServerConfig::udp_and_tcp };
        let config = ResolverConfig::from_parts(None, search, servers.into_iter().map(server).collect());
        // Callers cache the answers.
        options.cache_size = 0;
        Self { config, options, ignored }
    }
}

#[derive(Debug, Default)]
struct Parser {
    servers: Vec<IpAddr>,
    search: Vec<Name>,
    options: ResolverOpts,
    over_tcp: bool,
    ignored: Vec<IgnoredLine>,
}

impl Parser {
    fn line(&mut self, number: usize, line: &[u8]) {
        if line.trim_ascii().is_empty() || matches!(line.first(), Some(b'#' | b';')) {
            return;
        }
        let end = line.iter().position(|byte| matches!(byte, b'#' | b';')).unwrap_or(line.len());
        let mut words = line.split_at(end).0.split(u8::is_ascii_whitespace);
        let keyword = words.next().unwrap_or_default();
        let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
        let problem = match keyword {
            b"nameserver" => self.name_server(&words),
            b"search" => self.search(&words),
            // The last of `search` and `domain` is used.
            b"domain" => self.search(words.get(..1).unwrap_or_default()),
            b"options" => words.iter().fold(None, |problem, word| self.option(word).or(problem)),
            b"sortlist" => None,
            _ => Some("it does not begin with a keyword of resolv.conf(5)"),
        };
        self.ignored.extend(problem.map(|problem| IgnoredLine::new(number, line, problem)));
    }

    fn name_server(&mut self, words: &[&[u8]]) -> Option<&'static str> {
        let address = words.first().and_then(|word| str::from_utf8(word).ok()?.parse().ok());
        match address {
            Some(_) if self.servers.len() >= NAME_SERVERS_MAX => Some("three name servers are used at most"),
            Some(address) => {
                self.servers.push(address);
                None
            }
            None => Some("it names no IP address"),
        }
    }

    fn search(&mut self, words: &[&[u8]]) -> Option<&'static str> {
        let name = |word: &&[u8]| Name::from_ascii(str::from_utf8(word).ok()?).ok();
        self.search = words.iter().filter_map(name).take(SEARCH_MAX).collect();
        (self.search.len() < words.len()).then_some("a domain in it is no valid name, or one too many")
    }

    fn option(&mut self, word: &[u8]) -> Option<&'static str> {
        let (name, value) = match word.iter().position(|&byte| byte == b':') {
            Some(colon) => (word.get(..colon).unwrap_or_default(), word.get(colon + 1..)),
            None => (word, None),
        };
        let number = value.and_then(|value| str::from_utf8(value).ok()?.parse::<u32>().ok());
        match (name, number) {
            (b"ndots", Some(number)) => self.options.ndots = number.min(NDOTS_MAX) as usize,
            (b"timeout", Some(number)) => {
                self.options.timeout = Duration::from_secs(number.clamp(1, TIMEOUT_SECONDS_MAX).into());
            }
            (b"attempts", Some(number)) => self.options.attempts = number.clamp(1, ATTEMPTS_MAX) as usize,
            (b"ndots" | b"timeout" | b"attempts", None) => return Some("an option in it has no number"),
            (b"edns0", _) => self.options.edns0 = true,
            (b"use-vc" | b"usevc" | b"tcp", _) => self.over_tcp = true,
            // Other options have no effect here.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(conf: &ResolvConf) -> Vec<String> {
        conf.config.name_servers().iter().map(|server| server.ip.to_string()).collect()
    }

    fn search(conf: &ResolvConf) -> Vec<String> {
        conf.config.search().iter().map(Name::to_string).collect()
    }

    fn ignored(conf: &ResolvConf) -> Vec<usize> {
        conf.ignored.iter().map(|ignored| ignored.line).collect()
    }

    #[test]
    fn a_whole_file_is_read() {
        let conf = ResolvConf::parse(
            b"# a comment\n; another\nnameserver 10.0.0.53 # the first\nnameserver\tfd00::53\r\n\
              domain a.example\nsearch shop.example b.example ; both\nsortlist 10.0.0.0\n\
              options ndots:5 timeout:2 attempts:1 rotate edns0 trust-ad\n",
        );
        assert_eq!(servers(&conf), ["10.0.0.53", "fd00::53"]);
        assert_eq!(search(&conf), ["shop.example", "b.example"]);
        let options = &conf.options;
        assert_eq!((options.ndots, options.timeout, options.attempts), (5, Duration::from_secs(2), 1));
        assert!(options.edns0 && conf.ignored.is_empty(), "{:?}", conf.ignored);
    }

    #[test]
    fn invalid_lines_are_ignored_and_reported_by_number() {
        let long = "a".repeat(70);
        let text = format!(
            "search {long}.test good.test\nnameserver 10.0.0.53\nnonsense \u{0}\n nameserver 10.0.0.1\n"
        );
        let conf = ResolvConf::parse(text.as_bytes());
        assert_eq!((servers(&conf), search(&conf)), (vec!["10.0.0.53".into()], vec!["good.test".into()]));
        assert_eq!(ignored(&conf), [1, 3, 4]);

        let conf = ResolvConf::parse(
            b"search caf\xe9.test good.test\nnameserver 10.0.0.53\nnameserver fe80::1%eth0\n",
        );
        assert_eq!((servers(&conf), search(&conf)), (vec!["10.0.0.53".into()], vec!["good.test".into()]));
        assert_eq!(ignored(&conf), [1, 3]);

        let conf =
            ResolvConf::parse(b"domain -bad-..x\noptions ndots:x timeout:99 attempts:0 ndots\nnameserver\n");
        assert_eq!((servers(&conf), search(&conf).len()), (vec!["127.0.0.1".into()], 0));
        assert_eq!((conf.options.timeout, conf.options.attempts), (Duration::from_secs(30), 1));
        assert_eq!(ignored(&conf), [1, 2, 3]);
    }

    #[test]
    fn no_more_name_servers_and_domains_are_used_than_there_may_be() {
        let many = "nameserver 10.0.0.1\n".repeat(5) + "search" + &" shop.example".repeat(40) + "\n";
        let conf = ResolvConf::parse(many.as_bytes());
        assert_eq!((servers(&conf).len(), search(&conf).len()), (NAME_SERVERS_MAX, SEARCH_MAX));
        assert_eq!(ignored(&conf), [4, 5, 6]);
    }

    #[test]
    fn without_a_line_the_name_server_is_on_this_machine() {
        assert_eq!(servers(&ResolvConf::parse(b"")), ["127.0.0.1"]);
    }
}
