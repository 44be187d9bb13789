//! `postern-ca policy explain`: one question, and the line that decides.

use std::process::ExitCode;

use anyhow::Context as _;
use postern_proto::identity::SpiffeId;
use postern_proto::policy::{Call, Decision, Policy, Port, Protocol, Service, Verdict, decide, may_connect};
use serde_json::{Value, json};
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
    after_help = "Example:\n  postern-ca policy explain policy.toml --from orders --to payments --port api\n  \
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

struct Answer<'a> {
    port: Port<'a>,
    verdict: Verdict,
    decision: Decision,
}

pub(super) fn run(explain: &Explain) -> anyhow::Result<ExitCode> {
    let policy = explain.source.load()?;
    let from = policy.peer(&explain.from).with_context(|| format!("--from {:?}", explain.from))?;
    let call = explain.call.as_deref().map(Call::parse).transpose().context("--call")?;
    let now = explain.at.unwrap_or_else(OffsetDateTime::now_utc);
    let service = policy.peer(&explain.to).ok().and_then(|id| policy.service_with(&id));
    let Some(service) = service else {
        let file = policy.file().escape_debug();
        eprintln!("{file} declares no service {:?}, so nobody may call it", explain.to);
        return Ok(ExitCode::FAILURE);
    };
    let asked = service.asked_ports(explain.port.as_deref());
    let answers: Vec<_> = asked.map(|port| answer(&policy, &from, service, port, call, now)).collect();
    if answers.is_empty() {
        eprintln!("service {:?} has no port {:?}, so nobody may call it there", service.name(), explain.port);
        return Ok(ExitCode::FAILURE);
    }
    match explain.output.format {
        Format::Text => answers.iter().try_for_each(|answer| print(&for_people(answer)))?,
        Format::Json => print(&as_json(&answers, &policy, &from, service, explain).to_string())?,
    }
    let good = |answer: &Answer<'_>| matches!(answer.verdict, Verdict::Allow | Verdict::Observed);
    Ok(if answers.iter().all(good) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn answer<'a>(
    policy: &Policy,
    from: &SpiffeId,
    service: &Service,
    port: Port<'a>,
    call: Option<Call<'_>>,
    now: OffsetDateTime,
) -> Answer<'a> {
    let decision = decide(policy, from, service.identity(), port, call, now);
    // Without a call, what no rule allows whole may be allowed in part.
    let in_part = || {
        let some = may_connect(policy, from, service.identity(), port, now);
        call.is_none() && port.protocol == Protocol::Http && matches!(some, Decision::Allow { .. })
    };
    let verdict = match &decision {
        Decision::Allow { .. } => Verdict::Allow,
        _ if in_part() => Verdict::Depends,
        Decision::Deny { .. } => Verdict::Deny,
        Decision::Observed { .. } => Verdict::Observed,
    };
    Answer { port, verdict, decision }
}

fn for_people(Answer { port, verdict, decision }: &Answer<'_>) -> String {
    let about = match decision {
        Decision::Allow { rule } => {
            let said = [rule.owner.as_deref(), rule.reason.as_deref()].into_iter().flatten();
            said.map(|text| format!(" ({})", text.escape_debug())).collect()
        }
        _ => String::new(),
    };
    let reason = match verdict {
        Verdict::Depends => "some calls are allowed; ask for one with --call".to_owned(),
        _ => decision.reason(),
    };
    format!("{} on port {:?} ({}): {reason}{about}", verdict.as_str(), port.name, port.protocol.as_str())
}

fn as_json(
    answers: &[Answer<'_>],
    policy: &Policy,
    from: &SpiffeId,
    service: &Service,
    explain: &Explain,
) -> Value {
    let one = |Answer { port, verdict, decision }: &Answer<'_>| {
        let rule = match decision {
            Decision::Allow { rule } => json!({
                "file": &*rule.file,
                "line": rule.line,
                "service": &*rule.service,
                "owner": rule.owner,
                "reason": rule.reason,
                "expires": rule.expires.as_ref().map(ToString::to_string),
            }),
            _ => Value::Null,
        };
        let nearest = match decision {
            Decision::Deny { refusal } | Decision::Observed { refusal } => refusal.nearest.as_slice(),
            Decision::Allow { .. } => &[],
        };
        let nearest: Vec<_> = nearest
            .iter()
            .map(|near| {
                let lacked: Vec<_> = near.lacked.iter().map(|lacked| lacked.as_str()).collect();
                json!({ "line": near.rule.line, "lacked": lacked })
            })
            .collect();
        json!({
            "verdict": verdict.as_str(),
            "from": from.as_str(),
            "to": service.identity().as_str(),
            "port": port.name,
            "call": explain.call,
            "rule": rule,
            "nearest": nearest,
            "policy": policy.digest(),
        })
    };
    match answers {
        [only] => one(only),
        many => {
            let verdicts: Vec<_> = many.iter().map(|answer| answer.verdict).collect();
            let same = verdicts.windows(2).all(|pair| pair.first() == pair.last());
            let verdict = verdicts.first().filter(|_| same).map_or("depends", |verdict| verdict.as_str());
            json!({ "verdict": verdict, "ports": many.iter().map(one).collect::<Vec<_>>() })
        }
    }
}
