//! Certificates are replaced under load, with the CA there and with the CA away.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::load::{Load, Outcome};
use crate::mesh::Mesh;
use crate::sidecar::Renewals;
use crate::table::{Happened, Progress};

/// How often every certificate is replaced while the load runs.
const ROTATIONS: u64 = 2;
/// Fewer requests than this are no load.
const REQUESTS_MIN: u64 = 500;
const PATIENCE: Duration = Duration::from_secs(25);
const POLL: Duration = Duration::from_millis(100);

/// Every sidecar's certificate is replaced, again and again, while requests flow.
pub(crate) async fn under_load(mesh: &Mesh, progress: &Progress) -> anyhow::Result<Happened> {
    let before = renewals(mesh).await?;
    let load = Load::start(mesh.orders_to_payments);
    let rotated = |now: Renewals, before: Renewals| now.rotations - before.rotations;
    let reached =
        until(mesh, &before, &load, progress, |now, before| rotated(now, before) >= ROTATIONS).await;
    let outcome = load.stop().await;
    let counts = told(mesh, &before, &reached?, rotated);
    let mut happened = judged(&outcome, "the load");
    happened.notes.push(("certificates replaced".to_owned(), counts));
    let (issued, keys) = issued(mesh).await?;
    happened.as_expected &= issued == keys;
    happened
        .notes
        .push(("the CA".to_owned(), format!("{issued} certificates issued, with {keys} different keys")));
    Ok(happened)
}

/// Renewals fall due and fail while the CA is away; when it is back, they succeed by themselves.
pub(crate) async fn without_ca(mesh: &mut Mesh, progress: &Progress) -> anyhow::Result<Happened> {
    let load = Load::start(mesh.orders_to_payments);
    let told = away_and_back(mesh, &load, progress).await;
    let outcome = load.stop().await;
    let mut happened = judged(&outcome, "the load");
    happened.notes.extend(told?);
    Ok(happened)
}

async fn away_and_back(
    mesh: &mut Mesh,
    load: &Load,
    progress: &Progress,
) -> anyhow::Result<Vec<(String, String)>> {
    let before = renewals(mesh).await?;
    mesh.ca.stop().await?;
    let failed = |now: Renewals, before: Renewals| now.failures - before.failures;
    let away = until(mesh, &before, load, progress, |now, before| failed(now, before) > 0).await?;
    mesh.ca.start_again().await?;
    let rotated = |now: Renewals, before: Renewals| now.rotations - before.rotations;
    let back = until(mesh, &away, load, progress, |now, before| rotated(now, before) > 0).await?;
    Ok(vec![
        ("while the CA was away, renewals failed".to_owned(), told(mesh, &before, &away, failed)),
        ("after its return, certificates replaced".to_owned(), told(mesh, &away, &back, rotated)),
    ])
}

fn judged(outcome: &Outcome, whose: &str) -> Happened {
    let Outcome { requests, failures } = outcome;
    let mut notes: Vec<_> =
        failures.first().map(|first| ("the first failure".to_owned(), first.clone())).into_iter().collect();
    if *requests < REQUESTS_MIN {
        notes.push((whose.to_owned(), format!("fewer than {REQUESTS_MIN} requests")));
    }
    Happened {
        as_expected: failures.is_empty() && *requests >= REQUESTS_MIN,
        what: format!("{} of {requests} requests failed", failures.len()),
        notes,
    }
}

async fn renewals(mesh: &Mesh) -> anyhow::Result<Vec<Renewals>> {
    let mut all = Vec::new();
    for sidecar in mesh.sidecars() {
        all.push(sidecar.renewals().await?);
    }
    Ok(all)
}

/// Waits until every sidecar's renewals have come as far as `enough` says.
async fn until(
    mesh: &Mesh,
    before: &[Renewals],
    load: &Load,
    progress: &Progress,
    enough: impl Fn(Renewals, Renewals) -> bool,
) -> anyhow::Result<Vec<Renewals>> {
    let reached = tokio::time::timeout(PATIENCE, async {
        loop {
            let now = renewals(mesh).await?;
            let done = now.iter().zip(before).filter(|(now, before)| enough(**now, **before)).count();
            progress.say(format!(
                "{} requests so far; {done} of {} sidecars done",
                load.requests(),
                now.len()
            ));
            if done == now.len() {
                return anyhow::Ok(now);
            }
            tokio::time::sleep(POLL).await;
        }
    });
    match reached.await {
        Ok(reached) => reached,
        Err(_) => bail!("the sidecars have not come so far in {PATIENCE:?}"),
    }
}

/// "orders 2, payments 2, reports 2".
fn told(
    mesh: &Mesh,
    before: &[Renewals],
    after: &[Renewals],
    count: impl Fn(Renewals, Renewals) -> u64,
) -> String {
    let counts = mesh.sidecars().into_iter().zip(after.iter().zip(before));
    let counts: Vec<_> = counts
        .map(|(sidecar, (after, before))| format!("{} {}", sidecar.name, count(*after, *before)))
        .collect();
    counts.join(", ")
}

/// How many certificates are on the CA's record, and how many different keys.
async fn issued(mesh: &Mesh) -> anyhow::Result<(usize, usize)> {
    let list: Value = serde_json::from_str(&mesh.ca.run(&["cert", "list", "--format", "json"]).await?)?;
    let records =
        list.get("certificates").and_then(Value::as_array).context("the CA lists no certificates")?;
    let keys: HashSet<_> = records.iter().filter_map(|record| record.get("key_sha256")?.as_str()).collect();
    Ok((records.len(), keys.len()))
}
