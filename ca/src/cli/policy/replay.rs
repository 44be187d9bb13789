//! `postern-ca policy replay`: what a file would have decided about calls that were recorded.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use postern_policy_analysis::access_log::{QUESTIONS_BYTES_MAX, QUESTIONS_MAX, RecordedCalls};
use postern_policy_analysis::replay::replay;
use postern_policy_analysis::text::counted;
use time::OffsetDateTime;

use super::super::admin::Output;
use super::super::{Format, escaped, print};
use super::{must_load, read_access_log, time_of};

/// Evaluate a policy file on the calls of a sidecar's access log.
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
    /// Evaluate at this time, RFC 3339 [default: now]
    #[arg(long, value_name = "RFC3339", value_parser = time_of)]
    at: Option<OffsetDateTime>,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(Args { file, log, at, output }: &Args) -> anyhow::Result<ExitCode> {
    let policy = must_load(file)?;
    let recorded = read_access_log(log)?;
    if recorded.unreadable > 0 && recorded.unreadable == recorded.lines {
        let (line, reason) = recorded.unreadable_reasons.first().cloned().unwrap_or_default();
        bail!("{}: no line is one of an access log; line {line}: {reason}", log.display());
    }
    let replayed = replay(&policy, &recorded, at.unwrap_or_else(OffsetDateTime::now_utc));
    match output.format {
        Format::Text => {
            print(&replayed.format_text(&recorded, &policy))?;
            warn_of_incomplete(&recorded);
        }
        Format::Json => print(&replayed.format_json(&recorded, &policy).to_string())?,
    }
    let good = replayed.denied.is_empty() && recorded.not_kept == 0;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Says on standard error what of the log was not compared.
fn warn_of_incomplete(recorded: &RecordedCalls) {
    let RecordedCalls { unreadable, unreadable_reasons, not_kept, .. } = recorded;
    for (line, reason) in unreadable_reasons {
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
}
