//! `diff` against brute force with `decide` over every peer, port, call and time that random pairs of policies tell
//! apart.

use postern_proto::identity::SpiffeId;
use postern_proto::policy::{
    Access, Call, CallPattern, Change, Changes, Diff, Inbound, Policy, Port, Protocol, decide, diff,
};
use proptest::prelude::*;
use time::OffsetDateTime;
use time::macros::datetime;

use crate::ask::NOW;
use crate::reference::{Rule, Service, call_matches, peer_matches, render, service};

/// A peer for every literal, and one fresh segment at each place, as deep as `**` makes a difference.
const PEERS: [&str; 17] = [
    "spiffe://shop.example/s0",
    "spiffe://shop.example/ns/one",
    "spiffe://shop.example/a",
    "spiffe://shop.example/z",
    "spiffe://shop.example/a/b",
    "spiffe://shop.example/a/z",
    "spiffe://shop.example/z/b",
    "spiffe://shop.example/z/z",
    "spiffe://shop.example/a/b/z",
    "spiffe://shop.example/a/z/z",
    "spiffe://shop.example/z/b/z",
    "spiffe://shop.example/z/z/z",
    "spiffe://shop.example/z/z/z/z",
    "spiffe://partner.example/a",
    "spiffe://partner.example/z",
    "spiffe://partner.example/z/z",
    "spiffe://fresh.example/z",
];
const METHODS: [&str; 5] = ["GET", "POST", "PUT", "FRESH", "CONNECT"];
const PATHS: [&str; 15] = [
    "/", "/a", "/a/", "/z", "/z/", "/a/b", "/a/z", "/a/z/", "/z/b", "/z/z", "/z/z/", "/a/z/z", "/z/z/z",
    "/%2A", "//a",
];
const PORTS: [&str; 4] = ["api", "bulk", "web", "fresh"];

/// From when `diff` is asked, and just after each `expires` that comes later.
const TIMES: [OffsetDateTime; 3] =
    [NOW, datetime!(2026-11-23 12:00:00.000_000_001 UTC), datetime!(2026-11-24 00:00:00 UTC)];

/// One question.
#[derive(Debug, Clone, Copy)]
struct Point {
    service: usize,
    peer: &'static str,
    port: Port<'static>,
    call: Option<Call<'static>>,
    at: OffsetDateTime,
    /// Whether one of the policies declares the port so.
    declared: bool,
}

fn universe(old: &Policy, new: &Policy) -> Vec<Point> {
    let mut points = Vec::new();
    for service in 0..old.services().len() {
        for peer in PEERS {
            for name in PORTS {
                for at in TIMES {
                    let mut add = |protocol, call| {
                        let port = Port { name, protocol };
                        let declared = [old, new].iter().any(|policy| declares(policy, service, port));
                        points.push(Point { service, peer, port, call, at, declared });
                    };
                    add(Protocol::Tcp, None);
                    add(Protocol::Http, None);
                    for method in METHODS {
                        for path in PATHS {
                            add(Protocol::Http, Some(Call { method, path }));
                        }
                    }
                }
            }
        }
    }
    points
}

fn declares(policy: &Policy, service: usize, port: Port<'_>) -> bool {
    let ports = policy.services().get(service).and_then(|service| service.ports());
    ports.into_iter().flatten().any(|declared| declared == (port.name, port.protocol))
}

fn passes(policy: &Policy, point: &Point) -> bool {
    let peer = SpiffeId::parse(point.peer).unwrap();
    let identity = if point.service == 1 { "/ns/one".to_owned() } else { format!("/s{}", point.service) };
    let service = SpiffeId::parse_under(policy.trust_domain(), &identity).unwrap();
    decide(policy, &peer, &service, point.port, point.call, point.at).lets_pass()
}

/// Whether a change speaks of a question.
fn covers(change: &Change, point: &Point) -> bool {
    let identity = if point.service == 1 { "/ns/one".to_owned() } else { format!("/s{}", point.service) };
    match change {
        Change::Observed { identity: observed, inbounds, .. } => {
            observed.path() == identity && reaches(inbounds, point)
        }
        Change::Access(access) => access.service.path() == identity && access_covers(access, point),
        Change::TrustDomain { .. } | Change::Identity { .. } | Change::NotCompared { .. } => false,
    }
}

fn access_covers(access: &Access, point: &Point) -> bool {
    let in_time = access.after.is_none_or(|after| point.at > after)
        && !access.rule.expires.as_ref().is_some_and(|expires| expires.is_over(point.at));
    let called = |patterns: &[CallPattern]| {
        point.call.is_some_and(|call| {
            patterns.iter().any(|pattern| call_matches(&pattern.to_string(), call.method, call.path))
        })
    };
    let what = match &access.calls {
        Some(calls) => point.port.protocol == Protocol::Http && called(calls),
        None => {
            point.port.protocol == Protocol::Tcp || point.call.is_none_or(|call| call.method != "CONNECT")
        }
    };
    in_time
        && what
        && access.from.iter().any(|from| peer_matches(from, point.peer))
        && reaches(&access.inbounds, point)
}

/// An inbound without name is any that no inbound with a name is.
fn reaches(inbounds: &[Inbound], point: &Point) -> bool {
    let Port { name, protocol } = point.port;
    inbounds.iter().filter(|inbound| inbound.protocol == protocol).any(|inbound| match &inbound.name {
        Some(named) => **named == *name,
        None => !point.declared,
    })
}

/// What two policies say to every question of the universe.
struct Answers {
    point: Point,
    old: bool,
    new: bool,
}

fn answers(old: &Policy, new: &Policy) -> Vec<Answers> {
    let answer = |point: Point| Answers { old: passes(old, &point), new: passes(new, &point), point };
    universe(old, new).into_iter().map(answer).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn diff_says_what_brute_force_says((old, new) in pair()) {
        let read = |services: &[Service]| Policy::parse("p", &render(services).0).ok();
        let (Some(old), Some(new)) = (read(&old), read(&new)) else { return Ok(()) };
        let Diff { gained, lost } = diff(&old, &new, NOW);
        let (mut told_gained, mut told_lost) = (Told::new(&gained), Told::new(&lost));
        for Answers { point, old, new } in answers(&old, &new) {
            told_gained.meet(&point, new, old)?;
            told_lost.meet(&point, old, new)?;
        }
        told_gained.finish()?;
        told_lost.finish()?;
    }
}

/// The changes of one direction, and which of them some question has shown.
struct Told<'a> {
    changes: &'a Changes,
    shown: Vec<bool>,
}

impl<'a> Told<'a> {
    fn new(changes: &'a Changes) -> Self {
        Self { changes, shown: vec![false; changes.kept.len()] }
    }

    /// What differs is told, and what is told of a rule is allowed.
    fn meet(&mut self, point: &Point, allowing: bool, other: bool) -> Result<(), TestCaseError> {
        let differs = allowing && !other;
        let mut told = false;
        for (change, shown) in self.changes.kept.iter().zip(&mut self.shown) {
            if covers(change, point) {
                prop_assert!(allowing, "told, but not allowed: {:?} {:?}", point, change);
                told = true;
                *shown |= differs;
            }
        }
        prop_assert!(!differs || told, "not told: {:?}", point);
        Ok(())
    }

    /// What is told differs for someone.
    fn finish(self) -> Result<(), TestCaseError> {
        for (change, shown) in self.changes.kept.iter().zip(self.shown) {
            prop_assert!(shown, "told, but nothing differs: {:?}", change);
        }
        Ok(())
    }
}

/// Two policies that share most of what they say, or nothing.
fn pair() -> impl Strategy<Value = (Vec<Service>, Vec<Service>)> {
    let services = || proptest::collection::vec(service(), 2);
    (services(), services(), proptest::collection::vec(0..8_u8, 2)).prop_map(|(old, fresh, choices)| {
        let changed = |(before, fresh, choice): (&Service, Service, u8)| {
            let mut after = before.clone();
            match choice {
                0 => return fresh,
                1 => after.observe = fresh.observe,
                2 => after.ports = fresh.ports,
                3 => after.rules.extend(fresh.rules),
                4 => after.rules = fresh.rules.into_iter().chain(after.rules.into_iter().skip(1)).collect(),
                5 => after.rules.iter_mut().for_each(|rule| rule.expires = None),
                6 => after.rules.iter_mut().for_each(|rule| rule.port = None),
                _ => after.rules = split(after.rules),
            }
            after.fitting()
        };
        let new = old.iter().zip(fresh).zip(choices).map(|((before, fresh), choice)| (before, fresh, choice));
        let new = new.map(changed).collect();
        (old, new)
    })
}

/// The same access in other rules: one for each entry of each `from`.
fn split(rules: Vec<Rule>) -> Vec<Rule> {
    let one_each = |rule: Rule| {
        let from = rule.from.clone();
        from.into_iter().map(move |peer| Rule { from: vec![peer], ..rule.clone() })
    };
    rules.into_iter().flat_map(one_each).collect()
}
