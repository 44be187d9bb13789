//! `postern-ca policy status`: which sidecars run the policy in force, and why others do not.

use std::cell::Cell;
use std::process::ExitCode;

use postern_proto::wire::v1::sidecar_status::Lag;
use postern_proto::wire::v1::{PolicyStatus, ShowPolicyStatusRequest, SidecarStatus};
use serde_json::{Value, json};

use super::super::admin::{Admin, Output};
use super::super::{Format, cert, escaped, print};

/// Print which sidecars have the policy in force, and which do not and why.
///
/// Counts connected sidecars, and those that disconnected within the last hour without closing their stream.
///
/// Exit code: 0 all of them run it; 1 not all, or no policy is stored.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  postern-ca policy status --data-dir ca")]
pub(in crate::cli) struct Status {
    #[command(flatten)]
    admin: Admin,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(Status { admin, output }: Status) -> ExitCode {
    let everywhere = Cell::new(true);
    let code = admin.ask(
        async |client| {
            client.show_policy_status(ShowPolicyStatusRequest {}).await.map(tonic::Response::into_inner)
        },
        |status| {
            everywhere.set(status.policy.is_some() && status.running == status.sidecars);
            match output.format {
                Format::Text => print_text(&status)?,
                Format::Json => print(&as_json(&status).to_string())?,
            }
            Ok(())
        },
    );
    if everywhere.get() { code } else { ExitCode::FAILURE }
}

/// The state of all sidecars, for people.
fn print_text(status: &PolicyStatus) -> std::io::Result<()> {
    let PolicyStatus { policy, sidecars, running, .. } = status;
    match policy {
        Some(policy) => {
            let (at, author) = (cert::time(policy.applied_at), escaped(&policy.author));
            print(&format!("version   {}", policy.version))?;
            print(&format!("digest    {}", policy.digest))?;
            print(&format!("applied   {at} by {author}, from {}", escaped(&policy.file)))?;
            print(&format!("sidecars  {running} of {sidecars} run version {}", policy.version))?;
        }
        None => {
            print("no policy is stored: every sidecar without a policy file of its own refuses everybody")?;
            print(&format!("sidecars  {sidecars}"))?;
        }
    }
    print_notable(status)
}

/// Those that lag, or cannot enforce all.
pub(super) fn print_notable(PolicyStatus { notable, more, .. }: &PolicyStatus) -> std::io::Result<()> {
    if !notable.is_empty() {
        print(&format!(
            "\n{:<40}  {:<12}  {:<7}  {:<12}  {:<20}  WHY",
            "SPIFFE ID", "INSTANCE", "VERSION", "STATE", "SINCE"
        ))?;
    }
    notable.iter().try_for_each(tell_sidecar)?;
    if *more > 0 {
        print(&format!("and {more} more"))?;
    }
    Ok(())
}

fn tell_sidecar(sidecar: &SidecarStatus) -> std::io::Result<()> {
    let SidecarStatus { spiffe_id, instance, since, version, reason, unenforceable, .. } = sidecar;
    let instance: String = escaped(instance).chars().take(12).collect();
    let version = version.map_or_else(|| "-".to_owned(), |version| version.to_string());
    let (state, since) = (state(sidecar), cert::time(*since));
    let start = format!("{spiffe_id:<40}  {instance:<12}  {version:<7}  {state:<12}  {since:<20}");
    if sidecar.lag() != Lag::None {
        print(&format!("{start}  {}", escaped(reason)))?;
    }
    unenforceable.iter().try_for_each(|what| print(&format!("{start}  cannot enforce: {}", escaped(what))))
}

fn state(sidecar: &SidecarStatus) -> &'static str {
    match sidecar.lag() {
        Lag::None => "synced",
        Lag::Awaited => "pending",
        Lag::Away => "disconnected",
        Lag::Refused => "refused",
        Lag::OwnFile => "local policy",
        Lag::Unspecified => "unknown",
    }
}

/// The same, for machines.
pub(super) fn as_json(status: &PolicyStatus) -> Value {
    let policy = status.policy.as_ref().map(|policy| {
        json!({
            "version": policy.version,
            "digest": policy.digest,
            "file": policy.file,
            "author": policy.author,
            "applied_at": cert::time(policy.applied_at),
        })
    });
    let notable: Vec<_> = status.notable.iter().map(sidecar_as_json).collect();
    json!({
        "policy": policy,
        "sidecars": status.sidecars,
        "running": status.running,
        "awaited": status.awaited,
        "notable": notable,
        "more": status.more,
    })
}

fn sidecar_as_json(sidecar: &SidecarStatus) -> Value {
    json!({
        "spiffe_id": sidecar.spiffe_id,
        "instance": sidecar.instance,
        "program": sidecar.program,
        "state": state(sidecar).replace(' ', "_"),
        "since": cert::time(sidecar.since),
        "version": sidecar.version,
        "reason": sidecar.reason,
        "unenforceable": sidecar.unenforceable,
    })
}
