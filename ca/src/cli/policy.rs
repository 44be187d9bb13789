//! `postern-ca policy`: the allow-list, read and questioned by the code that enforces it, and put in force.

mod apply;
mod explain;
mod history;
mod rollback;
mod show;
mod source;
mod status;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use postern_proto::policy::{
    FILE_BYTES_MAX, Policy, Severity, WARN_DAYS_DEFAULT, check as check_policy, run_expectations,
};
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::admin::Output;
use super::{Format, print};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    Check(Check),
    Test(Test),
    Explain(explain::Explain),
    Apply(apply::Apply),
    Show(show::Show),
    History(history::History),
    Rollback(rollback::Rollback),
    Status(status::Status),
}

/// Tell everything that is wrong with a policy file, and what to look at.
///
/// Exit code: 0 nothing but warnings; 1 errors, or warnings with --strict; 2 the file cannot be read.
#[derive(Debug, clap::Args)]
pub(super) struct Check {
    file: PathBuf,
    /// Take warnings for errors.
    #[arg(long)]
    strict: bool,
    /// Warn of rules that end within so many days.
    #[arg(long, default_value_t = WARN_DAYS_DEFAULT)]
    warn_days: u16,
    #[command(flatten)]
    output: Output,
}

/// Run the expectations that a policy file carries.
///
/// Exit code: 0 all as expected; 1 not; 2 the file cannot be read.
#[derive(Debug, clap::Args)]
pub(super) struct Test {
    file: PathBuf,
    /// As of this time, RFC 3339 [default: now]
    #[arg(long, value_name = "RFC3339", value_parser = time_of)]
    at: Option<OffsetDateTime>,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(command: Command) -> ExitCode {
    let done = match command {
        Command::Check(check) => run_check(&check),
        Command::Test(test) => run_test(&test),
        Command::Explain(explain) => explain::run(&explain),
        Command::Apply(apply) => apply::run(apply),
        Command::Show(show) => Ok(show::run(show)),
        Command::History(history) => Ok(history::run(history)),
        Command::Rollback(rollback) => Ok(rollback::run(rollback)),
        Command::Status(status) => Ok(status::run(status)),
    };
    done.unwrap_or_else(|error| {
        eprintln!("postern-ca: {error:#}");
        ExitCode::from(2)
    })
}

fn run_check(Check { file, strict, warn_days, output }: &Check) -> anyhow::Result<ExitCode> {
    let checked =
        check_policy(&file.display().to_string(), &read(file)?, OffsetDateTime::now_utc(), *warn_days);
    let errors = checked.problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    let warnings = checked.problems.len() - errors;
    match output.format {
        Format::Text => {
            checked.problems.iter().try_for_each(|problem| print(&format!("{problem}\n")))?;
            print(&format!("{}: {errors} errors, {warnings} warnings", file.display()))?;
        }
        Format::Json => {
            let problem = |problem: &postern_proto::policy::Problem| {
                json!({
                    "severity": problem.severity.as_str(),
                    "code": problem.kind.code(),
                    "line": problem.line,
                    "column": problem.column,
                    "message": problem.message,
                    "suggestion": problem.suggestion,
                })
            };
            let problems: Vec<_> = checked.problems.iter().map(problem).collect();
            print(&json!({ "errors": errors, "warnings": warnings, "problems": problems }).to_string())?;
        }
    }
    let bad = errors > 0 || (*strict && warnings > 0);
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn run_test(Test { file, at, output }: &Test) -> anyhow::Result<ExitCode> {
    let Some(policy) = load(file)? else { return Ok(ExitCode::FAILURE) };
    let results = run_expectations(&policy, at.unwrap_or_else(OffsetDateTime::now_utc));
    let failed = results.iter().filter(|result| result.failure.is_some()).count();
    let lines = results.iter().map(|result| {
        let expected = result.expectation;
        let asked = format!("{} -> {}", expected.from, expected.to);
        let call = expected.call.as_deref().map(|call| format!(" {call}")).unwrap_or_default();
        let found =
            result.failure.as_ref().map(|(port, found)| format!("{} on port {port:?}", found.as_str()));
        (expected.line, format!("{asked}{call}"), expected.verdict.as_str(), found)
    });
    match output.format {
        Format::Text => {
            for (line, asked, verdict, found) in lines {
                let found = found.map_or_else(|| "ok".to_owned(), |found| format!("FAILED: found {found}"));
                print(&format!("{}:{line}: {asked} is expected to {verdict} ... {found}", file.display()))?;
            }
            print(&format!("{} passed, {failed} failed", results.len() - failed))?;
        }
        Format::Json => {
            let results: Vec<_> = lines
                .map(|(line, asked, verdict, found)| {
                    json!({ "line": line, "question": asked, "expected": verdict, "passed": found.is_none(), "found": found })
                })
                .collect();
            print(&json!({ "failed": failed, "expectations": results }).to_string())?;
        }
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The policy, or nothing after its problems have been told.
fn load(file: &Path) -> anyhow::Result<Option<Policy>> {
    match Policy::parse(&file.display().to_string(), &read(file)?) {
        Ok(policy) => Ok(Some(policy)),
        Err(problems) => {
            problems.iter().for_each(|problem| eprintln!("{problem}\n"));
            Ok(None)
        }
    }
}

/// The file's text. One that is too large is read just so far that the reader says so.
fn read(file: &Path) -> anyhow::Result<String> {
    use std::io::Read as _;
    let limit = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).with_context(|| file.display().to_string())?;
    opened.take(limit).read_to_end(&mut bytes).with_context(|| file.display().to_string())?;
    String::from_utf8(bytes).with_context(|| format!("{} is not UTF-8 text", file.display()))
}

fn time_of(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|error| format!("not an RFC 3339 time: {error}"))
}
