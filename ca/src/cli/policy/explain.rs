//! `postern-ca policy explain`: one question, and the line that decides.

mod shown;

use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use postern_proto::identity::SpiffeId;
use postern_proto::policy::{
    AllowedCalls, Call, Decision, PeerError, Policy, Port, Protocol, Service, Verdict, allowed_calls, decide,
    may_connect,
};
use time::OffsetDateTime;

use super::super::admin::Output;
use super::super::{Format, print};
use super::source::Source;
use super::time_of;

/// Say whether a caller may call a service, and which line decides.
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
    /// On one of its ports [default: every declared one]
    #[arg(long)]
    port: Option<String>,
    /// One HTTP request, as in "POST /charge" [default: any]
    #[arg(long)]
    call: Option<String>,
    /// As of this time, RFC 3339 [default: now]
    #[arg(long, value_name = "RFC3339", value_parser = time_of)]
    at: Option<OffsetDateTime>,
    #[command(flatten)]
    output: Output,
}

/// A question that was read.
#[derive(Debug)]
struct Question<'a> {
    policy: &'a Policy,
    from: SpiffeId,
    /// The identity that is called, or the word that names none.
    to: String,
    port: Option<&'a str>,
    call: Option<&'a str>,
}

/// What the policy says of one port.
#[derive(Debug)]
struct Answer<'a> {
    port: Port<'a>,
    /// None where neither the question nor the policy names one.
    port_name: Option<&'a str>,
    verdict: Verdict,
    decision: Decision,
    /// Asked without a call, what is allowed where not everything is.
    calls: Option<Vec<AllowedCalls<'a>>>,
}

pub(super) fn run(explain: &Explain) -> anyhow::Result<ExitCode> {
    let policy = explain.source.load()?;
    let from =
        policy.peer(&explain.from).map_err(|error| malformed("--from", &explain.from, &policy, &error))?;
    let call = explain.call.as_deref().map(Call::parse).transpose().context("--call")?;
    let now = explain.at.unwrap_or_else(OffsetDateTime::now_utc);
    let to = match policy.peer(&explain.to) {
        Ok(id) => Some(id),
        Err(PeerError::Undeclared { .. }) => None,
        Err(error) => return Err(malformed("--to", &explain.to, &policy, &error)),
    };
    let question = Question {
        policy: &policy,
        from,
        to: to.as_ref().map_or(explain.to.as_str(), SpiffeId::as_str).to_owned(),
        port: explain.port.as_deref(),
        call: explain.call.as_deref(),
    };
    let Some(service) = to.and_then(|id| policy.service_with(&id)) else {
        let file = policy.file().escape_debug();
        let detail = format!("{file} declares no service {:?}, so nobody may call it", explain.to);
        return tell_nobody(&question, with_nearest(detail, &explain.to, &policy), explain);
    };
    let asked = service.asked_ports(explain.port.as_deref());
    let answers: Vec<_> = asked.map(|port| question.ask(service, port, call, now)).collect();
    if answers.is_empty() {
        let which = explain.port.as_deref().map_or("any port".to_owned(), |port| format!("a port {port:?}"));
        let detail =
            format!("service {:?} does not declare {which}, so nobody may call it there", service.name());
        return tell_nobody(&question, detail, explain);
    }
    match explain.output.format {
        Format::Text => {
            answers.iter().try_for_each(|answer| print(&shown::for_people(answer)))?;
        }
        Format::Json => print(&shown::as_json(&answers, &question).to_string())?,
    }
    Ok(if answers.iter().all(Answer::passes) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Question<'_> {
    fn ask<'s>(
        &self,
        service: &'s Service,
        port: Port<'s>,
        call: Option<Call<'_>>,
        now: OffsetDateTime,
    ) -> Answer<'s> {
        let decision = decide(self.policy, &self.from, service.identity(), port, call, now);
        // Without a call, what no rule allows whole may be allowed in part.
        let in_part = || {
            let some = may_connect(self.policy, &self.from, service.identity(), port, now);
            call.is_none() && port.protocol == Protocol::Http && matches!(some, Decision::Allow { .. })
        };
        let verdict = match &decision {
            Decision::Allow { .. } => Verdict::Allow,
            Decision::Observed { .. } => Verdict::Observed,
            Decision::Deny { .. } if in_part() => Verdict::Depends,
            Decision::Deny { .. } => Verdict::Deny,
        };
        let calls = (call.is_none() && verdict != Verdict::Allow)
            .then(|| allowed_calls(self.policy, &self.from, service, port, now));
        let named = self.port.is_some() || service.ports().is_some();
        Answer { port, port_name: named.then_some(port.name), verdict, decision, calls }
    }
}

impl Answer<'_> {
    fn passes(&self) -> bool {
        matches!(self.verdict, Verdict::Allow | Verdict::Observed)
    }
}

/// What nobody may call, because the policy does not have it.
fn tell_nobody(question: &Question<'_>, detail: String, explain: &Explain) -> anyhow::Result<ExitCode> {
    match explain.output.format {
        Format::Text => print(&format!("deny: {detail}"))?,
        Format::Json => print(&shown::nobody(question, &detail).to_string())?,
    }
    Ok(ExitCode::FAILURE)
}

fn malformed(option: &str, given: &str, policy: &Policy, error: &PeerError) -> anyhow::Error {
    let said = format!("{option} {given:?}: {error}");
    match error {
        PeerError::Undeclared { name } => anyhow!(with_nearest(said, name, policy)),
        _ => anyhow!(said),
    }
}

fn with_nearest(said: String, word: &str, policy: &Policy) -> String {
    match policy.nearest_service(word) {
        Some(name) => format!("{said}; did you mean {name:?}?"),
        None => said,
    }
}
