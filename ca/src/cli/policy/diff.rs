//! `postern-ca policy diff`: what a new file allows that the old one does not, and the reverse.

use std::path::PathBuf;
use std::process::ExitCode;

use postern_proto::policy::{Change, Changes, Diff, Direction, Inbound, Policy, diff};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::super::admin::Output;
use super::super::{Format, print};
use super::check::counted;
use super::{must_load, rule_as_json, time_of};

/// Say what a new policy allows that the old one does not, and the reverse, by evaluating both.
///
/// Exit code: 0 nothing is gained; 1 access is gained; 2 a file cannot be read.
#[derive(Debug, clap::Args)]
#[command(after_help = "In a CI gate:\n  git show main:policy.toml > old.toml && \
    postern-ca policy diff old.toml policy.toml || echo needs the security team")]
pub(in crate::cli) struct Args {
    old: PathBuf,
    new: PathBuf,
    /// From this time on, RFC 3339 [default: now]
    #[arg(long, value_name = "RFC3339", value_parser = time_of)]
    at: Option<OffsetDateTime>,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(Args { old, new, at, output }: &Args) -> anyhow::Result<ExitCode> {
    // Both files' problems are told before either ends the run.
    let (old, new) = (must_load(old), must_load(new));
    let (old, new) = (old?, new?);
    let at = at.unwrap_or_else(OffsetDateTime::now_utc);
    let found = diff(&old, &new, at);
    match output.format {
        Format::Text => print(&for_people(&found))?,
        Format::Json => print(&as_json(&found, &old, &new, at)?.to_string())?,
    }
    Ok(if found.gained.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn for_people(Diff { gained, lost }: &Diff) -> String {
    let mut lines = Vec::new();
    for (label, changes, direction) in
        [("gains", gained, Direction::Gained), ("loses", lost, Direction::Lost)]
    {
        lines.extend(changes.kept.iter().map(|change| format!("{label}: {}", change.sentence(direction))));
        if changes.more > 0 {
            lines.push(format!("{label}: {} are not shown", counted(changes.more, "more change")));
        }
    }
    let count = |changes: &Changes| counted(changes.kept.len() + changes.more, "change");
    let sum = match (gained.is_empty(), lost.is_empty()) {
        (true, true) => "nothing gained, nothing lost".to_owned(),
        (true, false) => format!("nothing gained; lost: {}", count(lost)),
        (false, true) => format!("access gained: {}; nothing lost", count(gained)),
        (false, false) => format!("access gained: {}; lost: {}", count(gained), count(lost)),
    };
    lines.push(sum);
    lines.join("\n")
}

fn as_json(found: &Diff, old: &Policy, new: &Policy, at: OffsetDateTime) -> anyhow::Result<Value> {
    let file = |policy: &Policy| json!({ "file": policy.file(), "policy": policy.digest() });
    let changes = |changes: &Changes, direction| {
        let each = |change| change_as_json(change, direction);
        changes.kept.iter().map(each).collect::<Vec<_>>()
    };
    Ok(json!({
        "at": at.format(&Rfc3339)?,
        "old": file(old),
        "new": file(new),
        "gained": changes(&found.gained, Direction::Gained),
        "gained_not_shown": found.gained.more,
        "lost": changes(&found.lost, Direction::Lost),
        "lost_not_shown": found.lost.more,
    }))
}

fn change_as_json(change: &Change, direction: Direction) -> Value {
    let mut said = match change {
        Change::TrustDomain { old, new } => {
            json!({ "kind": "trust_domain", "old": old.as_str(), "new": new.as_str() })
        }
        Change::Identity { service, old, new, place: (_, line) } => json!({
            "kind": "identity", "service": service, "old": old.as_str(), "new": new.as_str(), "line": line,
        }),
        Change::Observed { service, identity, inbounds, place: (_, line) } => json!({
            "kind": "observed",
            "service": service,
            "identity": identity.as_str(),
            "ports": ports(inbounds),
            "line": line,
        }),
        Change::Access(access) => json!({
            "kind": "access",
            "service": &*access.rule.service,
            "identity": access.service.as_str(),
            "from": access.from,
            "calls": access.calls.as_ref().map(|calls| calls.iter().map(ToString::to_string).collect::<Vec<_>>()),
            "ports": ports(&access.inbounds),
            "after": access.after.and_then(|after| after.format(&Rfc3339).ok()),
            "rule": rule_as_json(&access.rule),
        }),
        Change::NotCompared { rule } => json!({ "kind": "not_compared", "rule": rule_as_json(rule) }),
    };
    if let Value::Object(fields) = &mut said {
        fields.insert("text".to_owned(), change.sentence(direction).into());
    }
    said
}

/// A port without name is any other.
fn ports(inbounds: &[Inbound]) -> Vec<Value> {
    let one = |inbound: &Inbound| json!({ "port": inbound.name, "protocol": inbound.protocol.as_str() });
    inbounds.iter().map(one).collect()
}
