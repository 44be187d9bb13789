//! `decide` against a naive evaluator written straight from policy.md, over random policies and questions.

use std::fmt::Write as _;

use postern_proto::identity::SpiffeId;
use postern_proto::policy::{
    Call, Decision, Policy, Port, ProblemKind, Protocol, check, decide, may_connect, normalise,
};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use time::OffsetDateTime;

use crate::ask::NOW;

/// Peer, port, and method with path.
pub(crate) type Question = (&'static str, Port<'static>, Option<(&'static str, &'static str)>);

#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) from: Vec<&'static str>,
    pub(crate) calls: Option<Vec<&'static str>>,
    pub(crate) port: Option<&'static str>,
    pub(crate) expires: Option<&'static str>,
}

#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) ports: Option<Vec<(&'static str, &'static str)>>,
    pub(crate) observe: bool,
    pub(crate) rules: Vec<Rule>,
}

/// A name, path or full ID, and what it means.
const PEERS: [&str; 11] = [
    "s0",
    "s1",
    "/a",
    "/a/b",
    "/a/*",
    "/*",
    "/**",
    "/a/**",
    "/*/b",
    "spiffe://partner.example/a",
    "spiffe://partner.example/*",
];
const IDS: [&str; 8] = [
    "spiffe://shop.example/s0",
    "spiffe://shop.example/ns/one",
    "spiffe://shop.example/a",
    "spiffe://shop.example/a/b",
    "spiffe://shop.example/a/c/d",
    "spiffe://shop.example/c/b",
    "spiffe://partner.example/a",
    "spiffe://other.example/a",
];
const CALLS: [&str; 11] = [
    "GET /a", "GET /a/", "POST /a", "* /a", "GET /*", "GET /a/*", "* /a/**", "* /**", "GET /", "GET /*/b",
    "PUT /%2A",
];
const METHODS: [&str; 6] = ["GET", "POST", "get", "CONNECT", "OPTIONS", "PUT"];
const PATHS: [&str; 22] = [
    "/",
    "/a",
    "/a/",
    "/a/b",
    "/b/b",
    "/a/b/c",
    "/A",
    "/%61",
    "/%2a",
    "/*",
    "*",
    "",
    "//a",
    "/a//",
    "/./a",
    "/a/..",
    "/a%2fb",
    "/a;b",
    "/a%",
    "/a%00",
    "/caf%c3%a9",
    "a",
];
const EXPIRES: [&str; 4] = ["2026-11-22", "2026-11-23", "2026-11-23T12:00:00Z", "2026-11-23T11:59:59Z"];

fn rule() -> impl Strategy<Value = Rule> {
    (
        subsequence(PEERS.to_vec(), 1..4),
        proptest::option::of(subsequence(CALLS.to_vec(), 1..4)),
        proptest::option::of(select(vec!["api", "bulk", "web"])),
        proptest::option::weighted(0.3, select(EXPIRES.to_vec())),
    )
        .prop_map(|(from, calls, port, expires)| Rule { from, calls, port, expires })
}

pub(crate) fn service() -> impl Strategy<Value = Service> {
    let ports = subsequence(vec![("api", "http"), ("bulk", "tcp"), ("web", "http")], 1..=3);
    (proptest::option::of(ports), proptest::bool::weighted(0.2), proptest::collection::vec(rule(), 0..5))
        .prop_map(|(ports, observe, rules)| Service { ports, observe, rules }.fitting())
}

impl Service {
    /// With rules that its ports allow.
    pub(crate) fn fitting(mut self) -> Self {
        for rule in &mut self.rules {
            match self.ports.iter().flatten().find(|(name, _)| Some(*name) == rule.port) {
                None => rule.port = None,
                Some((_, "tcp")) => rule.calls = None,
                Some(_) => {}
            }
        }
        self
    }
}

/// The file, and for each service the lines of its rules.
pub(crate) fn render(services: &[Service]) -> (String, Vec<Vec<u32>>) {
    let mut text = String::from("trust_domain = \"shop.example\"\n");
    let mut lines = Vec::new();
    for (number, service) in services.iter().enumerate() {
        writeln!(text, "[service.s{number}]").unwrap();
        if number == 1 {
            writeln!(text, "identity = \"/ns/one\"").unwrap();
        }
        if service.observe {
            writeln!(text, "mode = \"observe\"").unwrap();
        }
        if let Some(ports) = &service.ports {
            let ports: Vec<_> =
                ports.iter().map(|(name, protocol)| format!("{name} = {protocol:?}")).collect();
            writeln!(text, "ports = {{ {} }}", ports.join(", ")).unwrap();
        }
        let mut rule_lines = Vec::new();
        for rule in &service.rules {
            rule_lines.push(u32::try_from(text.lines().count() + 1).unwrap());
            writeln!(text, "[[service.s{number}.allow]]\nfrom = {:?}", rule.from).unwrap();
            if let Some(calls) = &rule.calls {
                writeln!(text, "calls = {calls:?}").unwrap();
            }
            if let Some(port) = rule.port {
                writeln!(text, "port = {port:?}").unwrap();
            }
            if let Some(expires) = rule.expires {
                writeln!(text, "expires = {expires}").unwrap();
            }
        }
        lines.push(rule_lines);
    }
    (text, lines)
}

pub(crate) fn peer_matches(written: &str, id: &str) -> bool {
    let pattern = match written {
        "s0" => "spiffe://shop.example/s0".to_owned(),
        "s1" => "spiffe://shop.example/ns/one".to_owned(),
        path if path.starts_with('/') => format!("spiffe://shop.example{path}"),
        full => full.to_owned(),
    };
    segments_match(pattern.strip_prefix("spiffe://").unwrap(), id.strip_prefix("spiffe://").unwrap())
}

/// `*`: one non-empty segment; a last `**`: at least one more segment, which may be empty.
fn segments_match(pattern: &str, given: &str) -> bool {
    match (pattern.split_once('/'), given.split_once('/')) {
        _ if pattern == "**" => true,
        (None, None) => one_matches(pattern, given),
        (Some((p, pattern)), Some((g, given))) => one_matches(p, g) && segments_match(pattern, given),
        _ => false,
    }
}

fn one_matches(pattern: &str, given: &str) -> bool {
    if pattern == "*" { !given.is_empty() } else { pattern == given }
}

/// policy.md `Paths`, as a list of what is forbidden; `None` is ambiguous.
fn plain_path(path: &str) -> Option<String> {
    if !path.starts_with('/') || path.len() > 8192 {
        return None;
    }
    if path.contains([';', '\\', '#', '?']) || path.bytes().any(|b| !(0x20..0x7f).contains(&b)) {
        return None;
    }
    let mut out = String::new();
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let digits = rest.get(at + 1..at + 3)?;
        let byte = u8::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))?;
        match byte {
            b'/' | b'\\' | b'%' | 0..=0x1f | 0x7f => return None,
            b'-' | b'.' | b'_' | b'~' => out.push(byte as char),
            _ if byte.is_ascii_alphanumeric() => out.push(byte as char),
            _ => write!(out, "%{byte:02X}").unwrap(),
        }
        rest = &rest[at + 3..];
    }
    out.push_str(rest);
    let segments: Vec<_> = out[1..].split('/').collect();
    let (_, all_but_last) = segments.split_last().unwrap();
    let bad = all_but_last.contains(&"") || segments.contains(&".") || segments.contains(&"..");
    (!bad).then_some(out)
}

pub(crate) fn call_matches(pattern: &str, method: &str, path: &str) -> bool {
    let (pattern_method, pattern_path) = pattern.split_once(' ').unwrap();
    let Some(path) = plain_path(path) else { return false };
    method != "CONNECT"
        && (pattern_method == "*" || pattern_method == method)
        && segments_match(&pattern_path[1..], &path[1..])
}

fn is_over(expires: &str, now: OffsetDateTime) -> bool {
    use time::macros::datetime;
    now >= match expires {
        "2026-11-22" => datetime!(2026-11-23 00:00:00 UTC),
        "2026-11-23" => datetime!(2026-11-24 00:00:00 UTC),
        "2026-11-23T12:00:00Z" => datetime!(2026-11-23 12:00:00.000_000_001 UTC),
        _ => datetime!(2026-11-23 11:59:59.000_000_001 UTC),
    }
}

fn rule_allows(
    rule: &Rule,
    id: &str,
    port: Port<'_>,
    call: Option<(&str, &str)>,
    now: OffsetDateTime,
) -> bool {
    let peer = rule.from.iter().any(|from| peer_matches(from, id));
    let in_time = !rule.expires.is_some_and(|expires| is_over(expires, now));
    let on_port = rule.port.is_none() || rule.port == Some(port.name);
    let what = match (&rule.calls, call) {
        (None, Some(("CONNECT", _))) => port.protocol == Protocol::Tcp,
        (None, _) => true,
        (Some(_), None) => false,
        (Some(calls), Some((method, path))) => {
            port.protocol == Protocol::Http && calls.iter().any(|call| call_matches(call, method, path))
        }
    };
    peer && in_time && on_port && what
}

/// `allow` with the number of the first rule, `deny` or `observed`.
fn expected(
    service: &Service,
    id: &str,
    port: Port<'_>,
    call: Option<(&str, &str)>,
    now: OffsetDateTime,
) -> (&'static str, Option<usize>) {
    let speaks = if port.protocol == Protocol::Http { "http" } else { "tcp" };
    if service.ports.as_ref().is_some_and(|ports| !ports.contains(&(port.name, speaks))) {
        return ("deny", None);
    }
    match service.rules.iter().position(|rule| rule_allows(rule, id, port, call, now)) {
        Some(number) => ("allow", Some(number)),
        None if service.observe => ("observed", None),
        None => ("deny", None),
    }
}

fn port() -> impl Strategy<Value = Port<'static>> {
    let name = select(vec!["api", "bulk", "web", "other"]);
    let protocol = select(vec![Protocol::Http, Protocol::Tcp]);
    (name, protocol).prop_map(|(name, protocol)| Port { name, protocol })
}

pub(crate) fn questions() -> impl Strategy<Value = Vec<Question>> {
    let call = proptest::option::weighted(0.8, (select(METHODS.to_vec()), select(PATHS.to_vec())));
    proptest::collection::vec((select(IDS.to_vec()), port(), call), 40)
}

/// A policy of these services; random rules may be the same twice, which is no policy.
pub(crate) fn parsed(services: &[Service]) -> Option<(Policy, Vec<Vec<u32>>)> {
    let (text, lines) = render(services);
    Some((Policy::parse("p", &text).ok()?, lines))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn decide_says_what_the_reference_says(
        services in proptest::collection::vec(service(), 2..4),
        questions in questions(),
    ) {
        let Some((policy, lines)) = parsed(&services) else { return Ok(()) };
        for (id, port, call) in questions {
            let peer = SpiffeId::parse(id).unwrap();
            for (number, service) in services.iter().enumerate() {
                let target = policy.identity_of(&format!("s{number}")).unwrap();
                let asked = call.map(|(method, path)| Call { method, path });
                let decision = decide(&policy, &peer, target, port, asked, NOW);
                let (verdict, rule) = expected(service, id, port, call, NOW);
                prop_assert_eq!(decision.as_str(), verdict, "{} {:?} {:?} s{}", id, port, call, number);
                if let (Decision::Allow { rule: found }, Some(rule)) = (&decision, rule) {
                    prop_assert_eq!(found.line, lines[number][rule]);
                }
            }
        }
    }

    #[test]
    fn a_connection_is_let_in_exactly_when_some_call_could_be_allowed(
        service in service(),
        questions in questions(),
    ) {
        let services = [service.clone(), Service { ports: None, observe: false, rules: vec![] }];
        let Some((policy, _)) = parsed(&services) else { return Ok(()) };
        let target = policy.identity_of("s0").unwrap();
        for (id, port, call) in questions {
            let peer = SpiffeId::parse(id).unwrap();
            let connects = may_connect(&policy, &peer, target, port, NOW);
            let asked = call.map(|(method, path)| Call { method, path });
            let call_passes = port.protocol == Protocol::Http || asked.is_none();
            if call_passes && decide(&policy, &peer, target, port, asked, NOW).lets_pass() {
                prop_assert!(connects.lets_pass(), "{} {:?} {:?}", id, port, call);
            }
            let could = |rule: &Rule| {
                let open = Rule { calls: None, ..rule.clone() };
                let calls_arrive = rule.calls.is_none() || port.protocol == Protocol::Http;
                calls_arrive && rule_allows(&open, id, port, None, NOW)
            };
            if matches!(connects, Decision::Allow { .. }) {
                prop_assert!(service.rules.iter().any(could), "{} {:?}", id, port);
            }
        }
    }

    #[test]
    fn a_rule_called_covered_allows_nothing_of_its_own(service in service(), questions in questions()) {
        let services = [service.clone(), Service { ports: None, observe: false, rules: vec![] }];
        let (text, lines) = render(&services);
        for problem in check("p", &text, NOW, 14).problems {
            if problem.kind != ProblemKind::Covered {
                continue;
            }
            let (_, rest) = problem.message.split_once("the rule of line ").unwrap();
            let by: u32 = rest.split(' ').next().unwrap().parse().unwrap();
            let rule_at = |line: u32| &service.rules[lines[0].iter().position(|at| *at == line).unwrap()];
            for (id, port, call) in &questions {
                let fits = service.ports.as_ref().is_none_or(|ports| ports.iter().any(|(name, protocol)| {
                    *name == port.name && (*protocol == "http") == (port.protocol == Protocol::Http)
                }));
                if fits && rule_allows(rule_at(problem.line), id, *port, *call, NOW) {
                    prop_assert!(rule_allows(rule_at(by), id, *port, *call, NOW), "{} {:?} {:?}", id, port, call);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn normalising_says_what_the_reference_says(path in "/?([ab.;%/~*]|%[0-9a-fA-F]{2}|%2[eEfF5]|[ -~]){0,10}") {
        prop_assert_eq!(normalise(&path).ok().map(|normal| normal.into_owned()), plain_path(&path));
    }

    /// However a backend decodes an unambiguous path, it arrives where the rule's author pointed.
    #[test]
    fn normalising_never_widens_a_match(path in "/([ab~*]|%[0-9a-fA-F]{2}|/){0,8}") {
        if let Ok(normal) = normalise(&path) {
            prop_assert_eq!(decoded(&normal), decoded(&path));
            prop_assert_eq!(
                decoded(&normal).iter().filter(|byte| **byte == b'/').count(),
                path.matches('/').count()
            );
        }
    }
}

fn decoded(path: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut pieces = path.split('%');
    bytes.extend(pieces.next().unwrap().bytes());
    for piece in pieces {
        bytes.push(u8::from_str_radix(&piece[..2], 16).unwrap());
        bytes.extend(piece[2..].bytes());
    }
    bytes
}
