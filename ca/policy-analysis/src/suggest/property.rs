//! Whatever the file and whatever was asked: a suggestion fits, allows what it says, and opens nothing else.

use postern_proto::identity::SpiffeId;
use postern_proto::policy::{Call, CallPattern, Decision, Policy, Protocol, normalise};
use proptest::prelude::*;
use proptest::sample::select;
use time::OffsetDateTime;
use time::macros::datetime;

use super::rules::{Rules, rules_for};
use crate::access_log::Question;

const NOW: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);
const PEERS: [&str; 4] = ["orders", "payments", "nobody", "postern/ca"];
const FROM: [&str; 5] = ["orders", "payments", "/nobody", "/*", "spiffe://partner.example/**"];
const CALLS: [&str; 5] = ["GET /a/b", "* /a/*", "POST /**", "GET /a", "GET /%2A"];
const METHODS: [&str; 6] = ["GET", "POST", "*", "get", "CONNECT", "M…"];
const SEGMENTS: [&str; 12] = ["a", "b", "c", "d", "e", "f", "", "*", "%61", "%2a", "..", "\"'"];

/// The rest of a rule: whether it has calls, which, and how it ends.
fn rule(service: &'static str, ported: bool) -> impl Strategy<Value = String> {
    let calls = prop::option::of(select(&CALLS[..]));
    let port = prop::option::of(Just("port = \"api\"\n"));
    let end = prop::option::of(select(vec!["expires = 2026-01-01\n", "expires = 2027-01-01\n"]));
    (select(&FROM[..]), calls, port, end).prop_map(move |(from, calls, port, end)| {
        let calls = calls.map(|call| format!("calls = [{call:?}]\n")).unwrap_or_default();
        let port = port.filter(|_| ported).unwrap_or_default();
        let end = end.unwrap_or_default();
        format!("[[service.{service}.allow]]\nfrom = [{from:?}]\n{calls}{port}owner = \"o\"\nreason = \"r\"\n{end}")
    })
}

/// A file that reads, with one service that declares its ports and one that does not.
fn file() -> impl Strategy<Value = String> {
    let require = select(vec!["", "require = [\"owner\", \"reason\"]\n", "require = [\"owner\"]\n"]);
    let mode = select(vec!["enforce", "observe"]);
    let rules = |service, ported| prop::collection::vec(rule(service, ported), 0..4);
    (require, mode, rules("payments", true), rules("orders", false))
        .prop_map(|(require, mode, payments, orders)| {
            format!(
                "trust_domain = \"shop.example\"\n{require}[service.payments]\nmode = \"{mode}\"\n\
                 ports = {{ api = \"http\", bulk = \"tcp\" }}\n{}[service.orders]\n{}",
                payments.concat(),
                orders.concat()
            )
        })
        .prop_filter("a rule twice", |text| Policy::parse("p.toml", text).is_ok())
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::parse_canonical(&format!("spiffe://shop.example/{path}")).unwrap()
}

fn question() -> impl Strategy<Value = Question> {
    let path = prop::collection::vec(select(&SEGMENTS[..]), 1..4);
    let call = (select(&METHODS[..]), path)
        .prop_map(|(method, path)| (method.to_owned(), format!("/{}", path.join("/"))));
    let port = select(vec![("api", Protocol::Http), ("bulk", Protocol::Tcp), ("other", Protocol::Http)]);
    let to = select(vec!["payments", "orders", "unknown"]);
    (select(&PEERS[..]), to, port, prop::option::weighted(0.9, call)).prop_map(
        |(from, to, (port, protocol), call)| {
            let call = call.filter(|_| protocol == Protocol::Http);
            Question { from: id(from), to: id(to), port: port.to_owned(), protocol, call }
        },
    )
}

/// Whether one of the suggested rules speaks of a question, found out without the code that decides.
fn is_suggested(suggestion: &Rules<'_>, policy: &Policy, question: &Question) -> bool {
    let covers = |calls: &str| match &question.call {
        Some((method, path)) => normalise(path).is_ok_and(|path| {
            method != "CONNECT" && CallPattern::parse(calls).unwrap().matches(method, &path)
        }),
        // A connection for calls is let in for any of them.
        None => question.protocol == Protocol::Http,
    };
    suggestion.rules.iter().any(|rule| {
        policy.service_of(&question.to) == Some(&*rule.service)
            && rule.from.contains(&policy.spelling_of_id(&question.from))
            && rule.port.as_ref().is_none_or(|port| *port == question.port)
            && rule.calls.as_ref().is_none_or(|calls| calls.iter().any(|calls| covers(calls)))
    })
}

/// How many of the asked paths a suggested call stands for.
fn asked_for(call: &str, suggestion: &Rules<'_>) -> usize {
    let pattern = CallPattern::parse(call).unwrap();
    let asked = suggestion.rules.iter().flat_map(|rule| &rule.questions);
    let paths = asked.filter_map(|question| question.call.as_ref()).filter_map(|(method, path)| {
        let path = normalise(path).ok()?;
        pattern.matches(method, &path).then(|| path.into_owned())
    });
    paths.collect::<std::collections::BTreeSet<_>>().len()
}

fn is_allowed(policy: &Policy, question: &Question) -> bool {
    matches!(question.decide(policy, NOW), Decision::Allow { .. })
}

proptest! {
    #[test]
    fn a_suggestion_fits_allows_what_it_says_and_opens_nothing_else(
        text in file(),
        asked in prop::collection::hash_set(question(), 1..40),
        others in prop::collection::vec(question(), 30),
    ) {
        let policy = Policy::parse("p.toml", &text).unwrap();
        let missing: Vec<_> = asked.iter().filter(|question| !is_allowed(&policy, question)).map(|question| (question, 1)).collect();
        let mut suggestion = rules_for(&policy, &missing);
        let snippet = suggestion.fit(&policy, &text, NOW).unwrap();
        let with = Policy::parse("p.toml", &format!("{text}\n{snippet}")).unwrap();
        for question in suggestion.rules.iter().flat_map(|rule| &rule.questions) {
            prop_assert!(is_allowed(&with, question), "{question:?}\n{snippet}");
        }
        for (question, _) in &missing {
            prop_assert!(is_allowed(&with, question) || !suggestion.notes.is_empty(), "{question:?}\n{snippet}");
        }
        for question in asked.iter().chain(&others).filter(|question| !is_suggested(&suggestion, &with, question)) {
            prop_assert_eq!(is_allowed(&with, question), is_allowed(&policy, question), "{:?}\n{}", question, snippet);
        }
        for call in suggestion.rules.iter().flat_map(|rule| rule.calls.iter().flatten()) {
            let most_narrow = if call.contains('*') { super::collapse::PATHS_COLLAPSED_MIN } else { 1 };
            prop_assert!(asked_for(call, &suggestion) >= most_narrow, "{} is wider than what was asked\n{}", call, snippet);
            prop_assert!(!call.starts_with('*'), "{}", call);
            let (method, path) = call.split_once(' ').unwrap();
            prop_assert!(normalise(path).is_ok() && Call::parse(call).is_ok() && method != "CONNECT");
        }
    }
}
