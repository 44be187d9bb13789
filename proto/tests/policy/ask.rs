//! Short ways to ask a policy in tests.

use postern_proto::policy::{Call, Checked, Decision, Policy, Port, ProblemKind, Protocol, check, decide};
use time::OffsetDateTime;
use time::macros::datetime;

/// The time at which tests ask unless they say otherwise.
pub(crate) const NOW: OffsetDateTime = datetime!(2026-11-23 12:00:00 UTC);

/// A policy of the trust domain `shop.example`; panics with the problems if it is none.
pub(crate) fn policy(text: &str) -> Policy {
    let text = format!("trust_domain = \"shop.example\"\n{text}");
    Policy::parse("policy.toml", &text).unwrap_or_else(|problems| {
        let shown: Vec<_> = problems.iter().map(ToString::to_string).collect();
        panic!("{text}\n{}", shown.join("\n"))
    })
}

/// A policy with one rule for `payments`, beside `orders` and `reports`.
pub(crate) fn with_rule(rule: &str) -> Policy {
    policy(&one_rule(rule))
}

pub(crate) fn one_rule(rule: &str) -> String {
    format!("[service.payments]\n[service.orders]\n[service.reports]\n[[service.payments.allow]]\n{rule}\n")
}

/// The errors of a file, as their kinds.
pub(crate) fn errors(text: &str) -> Vec<ProblemKind> {
    let text = format!("trust_domain = \"shop.example\"\n{text}");
    let problems = Policy::parse("policy.toml", &text).err().unwrap_or_default();
    problems.iter().map(|problem| problem.kind).collect()
}

/// The warnings of a file that has no errors, as their kinds; services without expectations left out.
pub(crate) fn warnings(text: &str) -> Vec<ProblemKind> {
    let text = format!("trust_domain = \"shop.example\"\n{text}");
    let Checked { policy, problems } = check("policy.toml", &text, NOW, 14);
    assert!(policy.is_some(), "{problems:?}");
    let kinds = problems.iter().map(|problem| problem.kind);
    kinds.filter(|kind| *kind != ProblemKind::NoExpectation).collect()
}

pub(crate) const HTTP: Port<'static> = Port { name: "api", protocol: Protocol::Http };
pub(crate) const TCP: Port<'static> = Port { name: "bulk", protocol: Protocol::Tcp };

/// Asks whether `from` may make `call` on a port of `payments`.
pub(crate) fn ask(policy: &Policy, from: &str, port: Port<'_>, call: Option<&str>) -> Decision {
    let call = call.map(|call| Call::parse(call).unwrap());
    ask_at(policy, from, port, call, NOW)
}

pub(crate) fn ask_at(
    policy: &Policy,
    from: &str,
    port: Port<'_>,
    call: Option<Call<'_>>,
    now: OffsetDateTime,
) -> Decision {
    let peer = policy.peer(from).unwrap();
    decide(policy, &peer, policy.identity_of("payments").unwrap(), port, call, now)
}

pub(crate) fn allowed(decision: &Decision) -> bool {
    matches!(decision, Decision::Allow { .. })
}

/// Whether `from` may make `call` on an `http` inbound of `payments`.
pub(crate) fn may(policy: &Policy, from: &str, call: &str) -> bool {
    allowed(&ask(policy, from, HTTP, Some(call)))
}
