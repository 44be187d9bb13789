//! `postern-ca policy suggest`: rules that would allow what was refused or observed, for review.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use postern_policy_analysis::access_log::{Question, RecordedCalls, Tally};
use postern_policy_analysis::suggest::suggest;
use postern_policy_analysis::text::counted;
use postern_proto::identity::SpiffeId;
use postern_proto::policy::{Policy, Protocol};
use postern_proto::wire::v1::call_report::Outcome;
use postern_proto::wire::v1::{CallReport, ListCallReportsRequest, ReportedCalls};
use time::OffsetDateTime;

use super::super::admin::{Admin, Output};
use super::super::{Format, print};
use super::{must_load, read, read_access_log};

/// Suggest rules that would allow the refused or observed calls. Nothing is changed.
///
/// Exit code: 0 something is suggested, or nothing is missing; 1 not everything can be allowed by a rule; 2 unreadable.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  postern-ca policy suggest policy.toml --log access.log\n  \
    postern-ca policy suggest policy.toml --live --data-dir ca\n\n\
    After mode = \"observe\" has seen enough, this is what enforcing would need.")]
pub(in crate::cli) struct Args {
    /// The policy file.
    file: PathBuf,
    /// The access log of a sidecar; - is standard input.
    #[arg(long, required_unless_present = "live")]
    log: Option<PathBuf>,
    /// Use the calls that sidecars reported to the CA instead of a log.
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
        Some(log) => read_access_log(log)?,
        None => reported(admin.clone(), &policy)?,
    };
    if recorded.unreadable > 0 && recorded.unreadable == recorded.lines {
        bail!("no line is one of an access log; docs/ACCESS_LOG.md has its keys");
    }
    let suggestion = suggest(&policy, &text, &recorded, OffsetDateTime::now_utc())?;
    match output.format {
        Format::Text => print(&suggestion.format_text())?,
        Format::Json => print(&suggestion.format_json(&policy).to_string())?,
    }
    let RecordedCalls { not_kept, unreadable, nameless, .. } = recorded;
    if not_kept + unreadable > 0 {
        eprintln!("{} not looked at", counted_lines(not_kept + unreadable));
    }
    if nameless > 0 {
        eprintln!("{} from callers without an identity, whom no rule can name", counted_lines(nameless));
    }
    let all = suggestion.is_complete() && not_kept == 0;
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn counted_lines(count: u64) -> String {
    counted(usize::try_from(count).unwrap_or(usize::MAX), "line")
}

/// What sidecars have reported, page by page.
fn reported(admin: Admin, policy: &Policy) -> anyhow::Result<RecordedCalls> {
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
    let mut recorded = RecordedCalls::default();
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
