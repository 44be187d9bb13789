//! Rules that would allow what was refused or observed, for review.

mod collapse;
mod fit;
#[cfg(test)]
mod property;
mod rules;

use postern_proto::policy::{Decision, Policy};
use serde_json::{Value, json};
use thiserror::Error;
use time::OffsetDateTime;

use crate::access_log::{Question, RecordedCalls, Tally};
use crate::text::escaped;
use rules::{Rules, rules_for};

/// What may be added to a policy file.
#[derive(Debug)]
pub struct Suggestion<'a> {
    rules: Rules<'a>,
    /// The rules as TOML, to be put at the file's end.
    toml: String,
    /// How many different questions the file does not allow.
    missing: usize,
}

/// Why nothing can be suggested.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SuggestError {
    /// The rules change what the rest of the file means.
    #[error("the suggestion does not fit the file: {problem}")]
    Outside {
        /// What the reader says.
        problem: String,
    },
    /// The file with the rules cannot be read.
    #[error("the suggestion does not fit the file")]
    Unreadable,
    /// The rules do not allow what they are for.
    #[error("the suggestion would not allow {question}")]
    NotAllowed {
        /// As a policy spells it.
        question: String,
    },
}

/// Suggests rules for what was refused or observed, and is still not allowed by the policy, whose file has this `text`.
pub fn suggest<'a>(
    policy: &Policy,
    text: &str,
    recorded: &'a RecordedCalls,
    now: OffsetDateTime,
) -> Result<Suggestion<'a>, SuggestError> {
    let missing = missing(recorded, policy, now);
    let mut rules = rules_for(policy, &missing);
    let toml = rules.fit(policy, text, now)?;
    check(policy.file(), text, &toml, &rules, now)?;
    Ok(Suggestion { rules, toml, missing: missing.len() })
}

impl Suggestion<'_> {
    /// Whether the rules allow all that is missing.
    pub fn is_complete(&self) -> bool {
        self.rules.notes.is_empty()
    }

    /// TOML, with comments where no rule can be suggested.
    pub fn format_text(&self) -> String {
        if self.missing == 0 {
            return "# nothing is missing: whatever was refused or observed, the file allows".to_owned();
        }
        let mut lines = Vec::new();
        let toml = self.toml.trim_end_matches('\n');
        if !toml.is_empty() {
            lines.push(toml.to_owned());
        }
        if !self.rules.notes.is_empty() {
            lines.push("# No rule can be suggested for:".to_owned());
        }
        lines.extend(self.rules.notes.iter().map(|note| format!("# - {}", escaped(note))));
        lines.join("\n")
    }

    /// Rules, their TOML and the notes.
    pub fn format_json(&self, policy: &Policy) -> Value {
        let rules: Vec<_> = self.rules.rules.iter().map(rules::Rule::as_json).collect();
        json!({ "policy": policy.digest(), "rules": rules, "toml": self.toml, "notes": self.rules.notes })
    }
}

/// What was asked, refused or observed, and is still not allowed by the file.
fn missing<'a>(
    recorded: &'a RecordedCalls,
    policy: &Policy,
    now: OffsetDateTime,
) -> Vec<(&'a Question, u64)> {
    let not_allowed = |(question, tally): (&'a Question, &'a Tally)| {
        let count = tally.observed + tally.denied;
        let allowed = matches!(question.decide(policy, now), Decision::Allow { .. });
        (count > 0 && !allowed).then_some((question, count))
    };
    let mut missing: Vec<_> = recorded.questions.iter().filter_map(not_allowed).collect();
    missing.sort_by_cached_key(|(question, _)| question.order(policy));
    missing
}

/// A suggestion that does not do what it says is none.
fn check(
    file: &str,
    text: &str,
    toml: &str,
    rules: &Rules<'_>,
    now: OffsetDateTime,
) -> Result<(), SuggestError> {
    let with = Policy::parse(file, &format!("{text}\n{toml}")).map_err(|_| SuggestError::Unreadable)?;
    for question in rules.rules.iter().flat_map(|rule| &rule.questions) {
        if !matches!(question.decide(&with, now), Decision::Allow { .. }) {
            return Err(SuggestError::NotAllowed { question: question.display(&with) });
        }
    }
    Ok(())
}
