//! `postern-ca policy suggest`: rules that would allow what was refused or observed, for review.

mod collapse;
mod fit;
#[cfg(test)]
mod property;
mod rules;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;
use postern_proto::identity::SpiffeId;
use postern_proto::policy::{Decision, Policy, Protocol};
use postern_proto::wire::v1::call_report::Outcome;
use postern_proto::wire::v1::{CallReport, ListCallReportsRequest, ReportedCalls};
use serde_json::json;
use time::OffsetDateTime;

use super::super::admin::{Admin, Output};
use super::super::{Format, escaped, print};
use super::check::counted;
use super::recorded::{Question, Recorded, Tally};
use super::{must_load, read};
use rules::{Suggestion, suggest};

/// Suggest rules that would allow what was refused or observed. Nothing is changed: a person decides.
///
/// Exit code: 0 something is suggested, or nothing is missing; 1 not everything can be allowed by a rule; 2 unreadable.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  postern-ca policy suggest policy.toml --log access.log\n  \
    postern-ca policy suggest policy.toml --live --data-dir ca\n\n\
    After mode = \"observe\" has seen enough, this is what enforcing would need.")]
pub(in crate::cli) struct Args {
    /// The policy file to which rules are missing.
    file: PathBuf,
    /// The access log of a sidecar; - is standard input.
    #[arg(long, required_unless_present = "live")]
    log: Option<PathBuf>,
    /// What sidecars have told the CA, and not a log.
    #[arg(long, conflicts_with = "log")]
    live: bool,
    #[command(flatten)]
    admin: Admin,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(Args { file, log, live: _, admin, output }: &Args) -> anyhow::Result<ExitCode> {
    let (policy, text) = (must_load(file)?, read(file)?);
    let recorded = match log {
        Some(log) => Recorded::read(log)?,
        None => reported(admin.clone(), &policy)?,
    };
    if recorded.unreadable > 0 && recorded.unreadable == recorded.lines {
        bail!("no line is one of an access log; docs/ACCESS_LOG.md has its keys");
    }
    let now = OffsetDateTime::now_utc();
    let missing = missing(&recorded, &policy, now);
    let mut suggestion = suggest(&policy, &missing);
    let snippet = suggestion.fit(&policy, &text, now)?;
    check(file, &text, &snippet, &suggestion, now)?;
    match output.format {
        Format::Text => tell(&suggestion, snippet.trim_end_matches('\n'), missing.len())?,
        Format::Json => {
            let Suggestion { rules, notes, .. } = &suggestion;
            let rules: Vec<_> = rules.iter().map(rules::Rule::as_json).collect();
            print(
                &json!({ "policy": policy.digest(), "rules": rules, "toml": snippet, "notes": notes })
                    .to_string(),
            )?;
        }
    }
    let Recorded { not_kept, unreadable, nameless, .. } = recorded;
    if not_kept + unreadable > 0 {
        eprintln!("{} not looked at", counted_lines(not_kept + unreadable));
    }
    if nameless > 0 {
        eprintln!("{} from callers without an identity, whom no rule can name", counted_lines(nameless));
    }
    let all = suggestion.notes.is_empty() && not_kept == 0;
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What was asked, refused or observed, and is still not allowed by the file.
fn missing<'a>(recorded: &'a Recorded, policy: &Policy, now: OffsetDateTime) -> Vec<(&'a Question, u64)> {
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
    file: &Path,
    text: &str,
    snippet: &str,
    suggestion: &Suggestion<'_>,
    now: OffsetDateTime,
) -> anyhow::Result<()> {
    let Ok(with) = Policy::parse(&file.display().to_string(), &format!("{text}\n{snippet}")) else {
        bail!("the suggestion does not fit the file");
    };
    for question in suggestion.rules.iter().flat_map(|rule| &rule.questions) {
        if !matches!(question.decide(&with, now), Decision::Allow { .. }) {
            bail!("the suggestion would not allow {}", question.spelled(&with));
        }
    }
    Ok(())
}

fn counted_lines(count: u64) -> String {
    counted(usize::try_from(count).unwrap_or(usize::MAX), "line")
}

fn tell(suggestion: &Suggestion<'_>, snippet: &str, missing: usize) -> std::io::Result<()> {
    if missing == 0 {
        return print("# nothing is missing: whatever was refused or observed, the file allows");
    }
    if !snippet.is_empty() {
        print(snippet)?;
    }
    if !suggestion.notes.is_empty() {
        print("# No rule can be suggested for:")?;
    }
    suggestion.notes.iter().try_for_each(|note| print(&format!("# - {}", escaped(note))))
}

/// What sidecars have reported, page by page.
fn reported(admin: Admin, policy: &Policy) -> anyhow::Result<Recorded> {
    let (rows, lost) = admin.fetch(async |client| {
        let (mut rows, mut after) = (Vec::new(), 0);
        loop {
            let page =
                client.list_call_reports(ListCallReportsRequest { after, page_size: 0 }).await?.into_inner();
            match page.rows.last() {
                Some(last) => after = last.number,
                None => return Ok::<_, tonic::Status>((rows, page.lost)),
            }
            rows.extend(page.rows);
        }
    })?;
    let mut recorded = Recorded::default();
    recorded.not_kept = lost;
    for row in rows {
        recorded.lines += 1;
        match question(row, policy) {
            Some((question, tally)) => recorded.count(question, tally),
            None => recorded.unreadable += 1,
        }
    }
    Ok(recorded)
}

fn question(row: ReportedCalls, policy: &Policy) -> Option<(Question, Tally)> {
    let CallReport { outcome, from, port, method, path, count, .. } = row.calls?;
    let tally = match Outcome::try_from(outcome).ok()? {
        Outcome::Observed => Tally { observed: count, ..Tally::default() },
        Outcome::Refused => Tally { denied: count, ..Tally::default() },
        Outcome::Unspecified => return None,
    };
    let (from, to) = (SpiffeId::parse_canonical(&from).ok()?, SpiffeId::parse_canonical(&row.to).ok()?);
    let declared = policy.service_with(&to).and_then(|service| service.ports());
    let declared =
        declared.into_iter().flatten().find(|(name, _)| *name == port).map(|(_, protocol)| protocol);
    let call = (!method.is_empty()).then_some((method, path));
    // A connection that was refused for want of any call looks like one that carries none. To take it for tcp would
    // suggest to allow everything.
    let protocol = declared.unwrap_or(Protocol::Http);
    Some((Question { from, to, port, protocol, call }, tally))
}
