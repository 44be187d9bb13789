//! `postern-ca policy test`: runs the expectations that a file carries, and reports like a test runner.

use std::path::PathBuf;
use std::process::ExitCode;

use postern_policy_analysis::text::counted;
use postern_proto::policy::{ExpectationResult, Policy, run_expectations};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::super::admin::Output;
use super::super::{Format, escaped, print};
use super::{load, time_of};

/// Run the expectations of a policy file.
///
/// Exit code: 0 all as expected; 1 not, or the file has errors; 2 the file cannot be read.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Test {
    file: PathBuf,
    /// Evaluate at this time, RFC 3339 [default: now]
    #[arg(long, value_name = "RFC3339", value_parser = time_of)]
    at: Option<OffsetDateTime>,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(Test { file, at, output }: &Test) -> anyhow::Result<ExitCode> {
    let Some(policy) = load(file)? else { return Ok(ExitCode::FAILURE) };
    let results = run_expectations(&policy, at.unwrap_or_else(OffsetDateTime::now_utc));
    match output.format {
        Format::Text => print(&for_people(&policy, &results))?,
        Format::Json => print(&as_json(&policy, &results).to_string())?,
    }
    let failed = results.iter().any(|result| result.failure.is_some());
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn for_people(policy: &Policy, results: &[ExpectationResult<'_>]) -> String {
    let file = escaped(policy.file());
    let mut lines = vec![format!("{file}: {}", counted(results.len(), "expectation"))];
    for result in results {
        let ExpectationResult { expectation, failure } = result;
        let verdict = expectation.verdict.as_str();
        let asked = question(policy, result);
        let outcome = match failure {
            None => "ok".to_owned(),
            Some((port, found)) => format!("FAILED: found {} on port {port:?}", found.as_str()),
        };
        lines.push(format!("  {file}:{} {verdict} {asked} ... {outcome}", expectation.line));
    }
    for service in policy.without_expectation() {
        let (name, line) = (service.name(), service.line());
        lines.push(format!("warning: {file}:{line} no expectation says who may call service {name:?}"));
    }
    let failed = results.iter().filter(|result| result.failure.is_some()).count();
    let sum = if failed == 0 { "ok" } else { "FAILED" };
    lines.push(format!("{sum}: {} passed, {failed} failed", results.len() - failed));
    lines.join("\n")
}

/// `orders -> payments POST /charge on port "api"`.
fn question(policy: &Policy, ExpectationResult { expectation, .. }: &ExpectationResult<'_>) -> String {
    let from = policy.spelling_of_id(&expectation.from);
    let call = expectation.call.as_deref().map(|call| format!(" {}", escaped(call))).unwrap_or_default();
    let port = expectation.port.as_deref().map(|port| format!(" on port {port:?}")).unwrap_or_default();
    format!("{from} -> {}{call}{port}", expectation.to)
}

fn as_json(policy: &Policy, results: &[ExpectationResult<'_>]) -> Value {
    let one = |ExpectationResult { expectation, failure }: &ExpectationResult<'_>| {
        json!({
            "line": expectation.line,
            "from": expectation.from.as_str(),
            "to": policy.identity_of(&expectation.to).map(|id| id.as_str()),
            "port": expectation.port,
            "call": expectation.call,
            "expected": expectation.verdict.as_str(),
            "passed": failure.is_none(),
            "found": failure.as_ref().map(|(port, verdict)| json!({ "port": port, "verdict": verdict.as_str() })),
        })
    };
    let failed = results.iter().filter(|result| result.failure.is_some()).count();
    json!({
        "passed": results.len() - failed,
        "failed": failed,
        "expectations": results.iter().map(one).collect::<Vec<_>>(),
        "without_expectation": policy.without_expectation().map(|service| service.name()).collect::<Vec<_>>(),
        "policy": policy.digest(),
    })
}
