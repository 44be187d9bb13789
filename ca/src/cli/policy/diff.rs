//! `postern-ca policy diff`: what a new file allows that the old one does not, and the reverse.

use std::path::PathBuf;
use std::process::ExitCode;

use postern_policy_analysis::diff::{format_json, format_text};
use postern_proto::policy::diff;
use time::OffsetDateTime;

use super::super::admin::Output;
use super::super::{Format, print};
use super::{must_load, time_of};

/// Print the access that a new policy adds and removes, by evaluating both.
///
/// Exit code: 0 nothing is gained; 1 access is gained; 2 a file cannot be read.
#[derive(Debug, clap::Args)]
#[command(after_help = "In a CI gate:\n  git show main:policy.toml > old.toml && \
    postern-ca policy diff old.toml policy.toml || echo needs the security team")]
pub(in crate::cli) struct Args {
    old: PathBuf,
    new: PathBuf,
    /// Evaluate from this time on, RFC 3339 [default: now]
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
        Format::Text => print(&format_text(&found))?,
        Format::Json => print(&format_json(&found, &old, &new, at)?.to_string())?,
    }
    Ok(if found.gained.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
