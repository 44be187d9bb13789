//! What a policy would have decided about recorded calls.

use postern_proto::policy::{Decision, Policy};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::access_log::{Question, RecordedCalls, Tally};
use crate::json::rule_as_json;

/// What changes for one question.
#[derive(Debug)]
pub struct Change<'a> {
    pub question: &'a Question,
    /// How often it was asked and decided otherwise.
    pub count: u64,
    pub decision: Decision,
}

/// Every recorded question, decided again.
#[derive(Debug, Default)]
pub struct Replay<'a> {
    /// Passed, and would be denied.
    pub denied: Vec<Change<'a>>,
    /// Denied, and would be allowed.
    pub allowed: Vec<Change<'a>>,
    pub still_passing: u64,
    pub still_denied: u64,
}

/// Decides every recorded question by `policy` at `now`.
pub fn replay<'a>(policy: &Policy, recorded: &'a RecordedCalls, now: OffsetDateTime) -> Replay<'a> {
    let mut replayed = Replay::default();
    for (question, Tally { allowed, observed, denied }) in &recorded.questions {
        let (passed, denied) = (allowed + observed, *denied);
        let decision = question.decide(policy, now);
        if decision.lets_pass() {
            replayed.still_passing += passed;
            if denied > 0 {
                replayed.allowed.push(Change { question, count: denied, decision });
            }
        } else {
            replayed.still_denied += denied;
            if passed > 0 {
                replayed.denied.push(Change { question, count: passed, decision });
            }
        }
    }
    for changes in [&mut replayed.denied, &mut replayed.allowed] {
        // The most frequent first; the rest of the order only makes it the same each time.
        changes.sort_by_cached_key(|change| (u64::MAX - change.count, change.question.order(policy)));
    }
    replayed
}

impl Replay<'_> {
    /// One line for each change, the most frequent first, and the sums.
    pub fn format_text(&self, recorded: &RecordedCalls, policy: &Policy) -> String {
        let mut lines = Vec::new();
        for (label, changes) in [("now denied", &self.denied), ("now allowed", &self.allowed)] {
            for Change { question, count, decision } in changes {
                lines.push(format!("{label}: {count} × {}: {}", question.display(policy), decision.reason()));
            }
        }
        let Self { still_passing, still_denied, .. } = self;
        lines.push(format!(
            "unchanged: {still_passing} passed and would pass, {still_denied} denied and would be denied"
        ));
        let RecordedCalls { outbound, refused, nameless, .. } = recorded;
        if outbound + refused + nameless > 0 {
            lines.push(format!(
                "not decided: {outbound} of the calling side, {refused} refused before any question to a policy, \
                 {nameless} from callers without an identity"
            ));
        }
        lines.join("\n")
    }

    /// Every change and the sums.
    pub fn format_json(&self, recorded: &RecordedCalls, policy: &Policy) -> Value {
        let each = |Change { question, count, decision }: &Change<'_>| {
            json!({
                "count": count,
                "from": question.from.as_str(),
                "to": question.to.as_str(),
                "port": question.port,
                "protocol": question.protocol.as_str(),
                "call": question.call.as_ref().map(|(method, path)| format!("{method} {path}")),
                "verdict": decision.as_str(),
                "rule": match decision {
                    Decision::Allow { rule } => rule_as_json(rule),
                    _ => Value::Null,
                },
                "why": decision.reason(),
            })
        };
        let all = |changes: &[Change<'_>]| changes.iter().map(each).collect::<Vec<_>>();
        json!({
            "policy": policy.digest(),
            "now_denied": all(&self.denied),
            "now_allowed": all(&self.allowed),
            "unchanged": { "passing": self.still_passing, "denied": self.still_denied },
            "not_decided": { "outbound": recorded.outbound, "refused": recorded.refused, "nameless": recorded.nameless },
            "unreadable": recorded.unreadable,
            "not_compared": recorded.not_kept,
        })
    }
}
