//! `postern-ca policy explain`: one question, and the line that decides.

use std::process::ExitCode;

use anyhow::anyhow;
use postern_policy_analysis::explain::{Query, QueryError, explain};
use time::OffsetDateTime;

use super::super::admin::Output;
use super::super::{Format, print};
use super::source::Source;
use super::time_of;

/// Print whether a caller may call a service, and the line that decides.
///
/// Exit code: 0 allowed (or observed), on every port that was asked; 1 not; 2 the question is malformed, or there is no
/// policy to ask.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  postern-ca policy explain policy.toml --from orders --to payments --port api --call 'POST /charge'\n  \
    postern-ca policy explain --live --data-dir ca --from orders --to payments"
)]
pub(in crate::cli) struct Explain {
    #[command(flatten)]
    source: Source,
    /// The caller: a declared service, a path under the own trust domain, or a SPIFFE ID.
    #[arg(long)]
    from: String,
    /// The service that is called, or its SPIFFE ID.
    #[arg(long)]
    to: String,
    /// Port of the service [default: every declared port]
    #[arg(long)]
    port: Option<String>,
    /// One HTTP request, as in "POST /charge" [default: any]
    #[arg(long)]
    call: Option<String>,
    /// Evaluate at this time, RFC 3339 [default: now]
    #[arg(long, value_name = "RFC3339", value_parser = time_of)]
    at: Option<OffsetDateTime>,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(asked: &Explain) -> anyhow::Result<ExitCode> {
    let policy = asked.source.load()?;
    let query = Query {
        from: &asked.from,
        to: &asked.to,
        port: asked.port.as_deref(),
        call: asked.call.as_deref(),
        at: asked.at.unwrap_or_else(OffsetDateTime::now_utc),
    };
    let explanation = explain(&policy, &query).map_err(|error| match error {
        QueryError::From(text) => anyhow!("--from {text}"),
        QueryError::To(text) => anyhow!("--to {text}"),
        QueryError::Call(error) => anyhow!(error).context("--call"),
    })?;
    match asked.output.format {
        Format::Text => print(&explanation.format_text())?,
        Format::Json => print(&explanation.format_json().to_string())?,
    }
    Ok(if explanation.passes() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
