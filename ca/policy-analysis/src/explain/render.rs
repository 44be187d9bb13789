//! Answers of `explain` for people, and as JSON.

use std::collections::HashSet;

use postern_proto::policy::{AllowedCalls, CallPattern, Decision, Nearest, RuleRef, Verdict};
use serde_json::{Map, Value, json};

use super::{Answer, Question};
use crate::json::rule_as_json;
use crate::text::escaped;

/// The verdict on one port, and below it the calls that are allowed when it depends.
pub(super) fn format_text(answer: &Answer<'_>) -> String {
    let Answer { port, port_name, verdict, decision, calls } = answer;
    let reason = match (verdict, decision) {
        (Verdict::Depends, _) => "only these calls are allowed; ask for one with --call".to_owned(),
        (_, Decision::Allow { rule }) => format!("{}{}", decision.reason(), about(rule)),
        _ => decision.reason(),
    };
    let protocol = port.protocol.as_str();
    let place = match port_name {
        Some(name) => format!("port {name:?} ({protocol})"),
        None => format!("any {protocol} port"),
    };
    let mut lines = vec![format!("{} on {place}: {reason}", verdict.as_str())];
    for AllowedCalls { rule, calls } in calls.iter().flatten() {
        let place = format!("{}:{}", escaped(&rule.file), rule.line);
        lines.extend(calls.iter().map(|call| format!("  {call}  by {place}{}", about(rule))));
    }
    lines.join("\n")
}

fn about(rule: &RuleRef) -> String {
    let said = [rule.owner.as_deref(), rule.reason.as_deref()].into_iter().flatten();
    let mut about: String = said.map(|text| format!(" ({})", escaped(text))).collect();
    if let Some(expires) = &rule.expires {
        about.push_str(&format!(" (until {expires})"));
    }
    about
}

/// One object for the one port that was asked; for several, a common one around one for each.
pub(super) fn format_json(answers: &[Answer<'_>], question: &Question<'_>) -> Value {
    let one = |answer: &Answer<'_>| port_as_json(answer, question);
    if let [only] = answers {
        return one(only);
    }
    let mut all = frame(question, together(answers).as_str());
    all.insert("ports".to_owned(), answers.iter().map(one).collect());
    all.into()
}

/// One verdict where all ports agree, `observed` where each lets pass, and `depends` otherwise.
fn together(answers: &[Answer<'_>]) -> Verdict {
    let first = answers.first().map_or(Verdict::Deny, |answer| answer.verdict);
    if answers.iter().all(|answer| answer.verdict == first) {
        first
    } else if answers.iter().all(Answer::passes) {
        Verdict::Observed
    } else {
        Verdict::Depends
    }
}

fn port_as_json(answer: &Answer<'_>, question: &Question<'_>) -> Value {
    let Answer { port, port_name, verdict, decision, calls } = answer;
    let mut object = frame(question, verdict.as_str());
    object.insert("port".to_owned(), (*port_name).into());
    object.insert("protocol".to_owned(), port.protocol.as_str().into());
    object.insert("detail".to_owned(), decision.reason().into());
    match decision {
        Decision::Allow { rule } => {
            object.insert("rule".to_owned(), rule_as_json(rule));
        }
        Decision::Deny { refusal } | Decision::Observed { refusal } => {
            object.insert("nearest".to_owned(), refusal.nearest.iter().map(nearest).collect());
        }
    }
    if let Some(calls) = calls {
        let rule = |AllowedCalls { rule, calls }: &AllowedCalls<'_>| json!({ "line": rule.line, "calls": texts(calls.iter()) });
        let mut seen = HashSet::new();
        let each = calls.iter().flat_map(|rule| rule.calls).filter(|call| seen.insert(*call));
        object.insert("calls".to_owned(), texts(each));
        object.insert("rules".to_owned(), calls.iter().map(rule).collect());
    }
    object.into()
}

fn texts<'c>(calls: impl Iterator<Item = &'c CallPattern>) -> Value {
    calls.map(ToString::to_string).collect::<Vec<_>>().into()
}

fn nearest(near: &Nearest) -> Value {
    let lacked: Vec<_> = near.mismatches.iter().map(|mismatch| mismatch.as_str()).collect();
    json!({ "line": near.rule.line, "lacked": lacked })
}

/// What nobody may call, because the policy does not have it.
pub(super) fn not_declared(question: &Question<'_>, detail: &str) -> Value {
    let mut object = frame(question, Verdict::Deny.as_str());
    object.insert("detail".to_owned(), detail.into());
    object.into()
}

/// What every answer has.
fn frame(question: &Question<'_>, verdict: &str) -> Map<String, Value> {
    let fields: [(&str, Value); 8] = [
        ("verdict", verdict.into()),
        ("from", question.from.as_str().into()),
        ("to", question.to.as_str().into()),
        ("port", question.port.into()),
        ("call", question.call.into()),
        ("rule", Value::Null),
        ("nearest", json!([])),
        ("policy", question.policy.digest().into()),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
