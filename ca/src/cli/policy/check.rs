//! `postern-ca policy check`: everything that is wrong with a file, and what to look at.

use std::path::PathBuf;
use std::process::ExitCode;

use postern_policy_analysis::text::counted;
use postern_proto::policy::{Problem, Severity, WARN_DAYS_DEFAULT, check};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::super::admin::Output;
use super::super::{Format, print};
use super::read;

/// Check a policy file and report every error and warning.
///
/// Exit code: 0 nothing but warnings; 1 errors, or warnings with --strict; 2 the file cannot be read.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Check {
    file: PathBuf,
    /// Treat warnings as errors.
    #[arg(long)]
    strict: bool,
    /// Warn of rules that expire within this number of days.
    #[arg(long, default_value_t = WARN_DAYS_DEFAULT)]
    warn_days: u16,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(Check { file, strict, warn_days, output }: &Check) -> anyhow::Result<ExitCode> {
    let name = file.display().to_string();
    let checked = check(&name, &read(file)?, OffsetDateTime::now_utc(), *warn_days);
    let errors = checked.problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    let warnings = checked.problems.len() - errors;
    match output.format {
        Format::Text => {
            checked.problems.iter().try_for_each(|problem| print(&format!("{problem}\n")))?;
            print(&format!("{name}: {}, {}", counted(errors, "error"), counted(warnings, "warning")))?;
        }
        Format::Json => {
            let problems: Vec<_> = checked.problems.iter().map(as_json).collect();
            print(&json!({ "errors": errors, "warnings": warnings, "problems": problems }).to_string())?;
        }
    }
    let bad = errors > 0 || (*strict && warnings > 0);
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn as_json(problem: &Problem) -> Value {
    json!({
        "severity": problem.severity.as_str(),
        "code": problem.kind.code(),
        "file": problem.file,
        "line": problem.line,
        "column": problem.column,
        "message": problem.message,
        "source_line": problem.source_line,
        "suggestion": problem.suggestion,
    })
}
