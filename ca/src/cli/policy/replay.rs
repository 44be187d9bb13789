//! `postern-ca policy replay`: what a file would have decided about calls that were recorded.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use postern_proto::policy::{Decision, Policy};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::super::admin::Output;
use super::super::{Format, escaped, print};
use super::check::counted;
use super::recorded::{QUESTIONS_BYTES_MAX, QUESTIONS_MAX, Question, Recorded, Tally};
use super::{must_load, rule_as_json, time_of};

/// Say what a policy file would have decided about the calls in a sidecar's access log.
///
/// Only lines of the called side (inbound) on which a policy decided are questions; docs/ACCESS_LOG.md has their keys.
///
/// Exit code: 0 nothing that passed would be denied; 1 something would, or not all could be told apart; 2 unreadable.
#[derive(Debug, clap::Args)]
#[command(after_help = "Before a change:\n  postern-ca policy replay policy.toml access.log\n\n\
    From elsewhere:\n  cat access.log.1 access.log | postern-ca policy replay policy.toml -")]
pub(in crate::cli) struct Args {
    file: PathBuf,
    /// The access log; - is standard input.
    log: PathBuf,
    /// As of this time, RFC 3339 [default: now]
    #[arg(long, value_name = "RFC3339", value_parser = time_of)]
    at: Option<OffsetDateTime>,
    #[command(flatten)]
    output: Output,
}

/// What changes for one question.
struct Change<'a> {
    question: &'a Question,
    /// How often it was asked and decided otherwise.
    count: u64,
    decision: Decision,
}

#[derive(Default)]
struct Found<'a> {
    denied: Vec<Change<'a>>,
    allowed: Vec<Change<'a>>,
    still_passing: u64,
    still_denied: u64,
}

pub(super) fn run(Args { file, log, at, output }: &Args) -> anyhow::Result<ExitCode> {
    let policy = must_load(file)?;
    let recorded = Recorded::read(log)?;
    if recorded.unreadable > 0 && recorded.unreadable == recorded.lines {
        let (line, reason) = recorded.unreadable_told.first().cloned().unwrap_or_default();
        bail!("{}: no line is one of an access log; line {line}: {reason}", log.display());
    }
    let found = replay(&policy, &recorded, at.unwrap_or_else(OffsetDateTime::now_utc));
    match output.format {
        Format::Text => tell(&found, &recorded, &policy)?,
        Format::Json => print(&as_json(&found, &recorded, &policy).to_string())?,
    }
    let good = found.denied.is_empty() && recorded.not_kept == 0;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn replay<'a>(policy: &Policy, recorded: &'a Recorded, now: OffsetDateTime) -> Found<'a> {
    let mut found = Found::default();
    for (question, Tally { allowed, observed, denied }) in &recorded.questions {
        let (passed, denied) = (allowed + observed, *denied);
        let decision = question.decide(policy, now);
        if decision.lets_pass() {
            found.still_passing += passed;
            if denied > 0 {
                found.allowed.push(Change { question, count: denied, decision });
            }
        } else {
            found.still_denied += denied;
            if passed > 0 {
                found.denied.push(Change { question, count: passed, decision });
            }
        }
    }
    for changes in [&mut found.denied, &mut found.allowed] {
        // The most frequent first; the rest of the order only makes it the same each time.
        changes.sort_by_cached_key(|change| (u64::MAX - change.count, change.question.order(policy)));
    }
    found
}

fn tell(found: &Found<'_>, recorded: &Recorded, policy: &Policy) -> anyhow::Result<()> {
    for (label, changes) in [("now denied", &found.denied), ("now allowed", &found.allowed)] {
        for Change { question, count, decision } in changes {
            print(&format!("{label}: {count} × {}: {}", question.spelled(policy), decision.reason()))?;
        }
    }
    let Found { still_passing, still_denied, .. } = found;
    print(&format!(
        "unchanged: {still_passing} passed and would pass, {still_denied} denied and would be denied"
    ))?;
    let Recorded { outbound, refused, nameless, unreadable, unreadable_told, not_kept, .. } = recorded;
    if outbound + refused + nameless > 0 {
        print(&format!(
            "not decided: {outbound} of the calling side, {refused} refused before any question to a policy, \
             {nameless} from callers without an identity"
        ))?;
    }
    for (line, reason) in unreadable_told {
        eprintln!("line {line} is unreadable: {}", escaped(reason));
    }
    if *unreadable > 0 {
        eprintln!("{} unreadable", counted(usize::try_from(*unreadable).unwrap_or(usize::MAX), "line"));
    }
    if *not_kept > 0 {
        eprintln!(
            "{not_kept} lines were not compared: the log has more than {QUESTIONS_MAX} different questions, or \
             {QUESTIONS_BYTES_MAX} bytes of them; replay it in parts"
        );
    }
    Ok(())
}

fn as_json(found: &Found<'_>, recorded: &Recorded, policy: &Policy) -> Value {
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
        "now_denied": all(&found.denied),
        "now_allowed": all(&found.allowed),
        "unchanged": { "passing": found.still_passing, "denied": found.still_denied },
        "not_decided": { "outbound": recorded.outbound, "refused": recorded.refused, "nameless": recorded.nameless },
        "unreadable": recorded.unreadable,
        "not_compared": recorded.not_kept,
    })
}
