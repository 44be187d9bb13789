//! Certificates are replaced under load, with the CA there and with the CA away.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::load::{Load, Outcome};
use crate::mesh::Mesh;
use crate::sidecar::Renewals;
use crate::table::{Happened, Note, Progress};

/// How often every certificate is replaced while the load runs.
const ROTATIONS: u64 = 2;
/// Fewer requests than this are no load.
const REQUESTS_MIN: u64 = 500;
const ROTATIONS_PATIENCE: Duration = Duration::from_secs(20);
/// Until every sidecar has found the CA away.
const AWAY_PATIENCE: Duration = Duration::from_secs(10);
/// Until every sidecar has a new certificate afterwards.
const BACK_PATIENCE: Duration = Duration::from_secs(8);
const POLL: Duration = Duration::from_millis(100);

/// Every sidecar's certificate is replaced, again and again, while requests flow.
pub(crate) async fn under_load(mesh: &Mesh, progress: &Progress) -> anyhow::Result<Happened> {
    let before = renewals(mesh).await?;
    let load = Load::start(mesh.orders_to_payments);
    let watch = Watch { load: &load, progress, patience: ROTATIONS_PATIENCE };
    let reached = watch.until(mesh, &before, |now, before| rotated(now, before) >= ROTATIONS).await;
    let outcome = load.stop().await;
    let counts = counted(mesh, &before, &reached?, rotated);
    let mut happened = judged(&outcome);
    happened.notes.push(Note::says("certificates replaced", counts));
    let (issued, keys) = issued(mesh).await?;
    happened.as_expected &= issued == keys;
    let on_record = format!("{issued} certificates issued so far, with {keys} different keys");
    happened.notes.push(Note::says("the CA", on_record));
    Ok(happened)
}

/// Renewals fall due and fail while the CA is away; when it is back, they succeed by themselves.
pub(crate) async fn without_ca(mesh: &mut Mesh, progress: &Progress) -> anyhow::Result<Happened> {
    let load = Load::start(mesh.orders_to_payments);
    let told = away_and_back(mesh, &load, progress).await;
    let outcome = load.stop().await;
    let mut happened = judged(&outcome);
    happened.notes.extend(told?);
    Ok(happened)
}

async fn away_and_back(mesh: &mut Mesh, load: &Load, progress: &Progress) -> anyhow::Result<[Note; 2]> {
    let before = renewals(mesh).await?;
    mesh.ca.stop().await?;
    let watch = Watch { load, progress, patience: AWAY_PATIENCE };
    let away = watch.until(mesh, &before, |now, before| failed(now, before) > 0).await?;
    mesh.ca.start_again().await?;
    let watch = Watch { load, progress, patience: BACK_PATIENCE };
    let back = watch.until(mesh, &away, |now, away| rotated(now, away) > 0).await?;
    Ok([
        Note::says("while the CA was away, renewals failed", counted(mesh, &before, &away, failed)),
        Note::says("after its return, certificates replaced", counted(mesh, &away, &back, rotated)),
    ])
}

fn judged(Outcome { requests, failures }: &Outcome) -> Happened {
    let mut notes: Vec<_> =
        failures.first().map(|first| Note::says("the first failure", first)).into_iter().collect();
    if *requests < REQUESTS_MIN {
        notes.push(Note::says("the load", format!("fewer than {REQUESTS_MIN} requests")));
    }
    Happened {
        as_expected: failures.is_empty() && *requests >= REQUESTS_MIN,
        what: format!("{} of {requests} requests failed", failures.len()),
        notes,
    }
}

/// What the three sidecars tell, in the order of [`Mesh::sidecars`].
type Round = [Renewals; 3];

async fn renewals(mesh: &Mesh) -> anyhow::Result<Round> {
    let [orders, payments, reports] = mesh.sidecars();
    Ok([orders.renewals().await?, payments.renewals().await?, reports.renewals().await?])
}

fn rotated(now: Renewals, before: Renewals) -> u64 {
    now.rotations.saturating_sub(before.rotations)
}

fn failed(now: Renewals, before: Renewals) -> u64 {
    now.failures.saturating_sub(before.failures)
}

/// "orders 2, payments 2, reports 2".
fn counted(mesh: &Mesh, before: &Round, now: &Round, count: fn(Renewals, Renewals) -> u64) -> String {
    let rounds = now.iter().zip(before).map(|(now, before)| count(*now, *before));
    let counts = mesh.sidecars().into_iter().zip(rounds);
    counts.map(|(sidecar, count)| format!("{} {count}", sidecar.name)).collect::<Vec<_>>().join(", ")
}

/// Waits for something that every sidecar shall have done.
struct Watch<'a> {
    load: &'a Load,
    progress: &'a Progress,
    patience: Duration,
}

impl Watch<'_> {
    async fn until(
        &self,
        mesh: &Mesh,
        before: &Round,
        done: impl Fn(Renewals, Renewals) -> bool,
    ) -> anyhow::Result<Round> {
        let all_done = tokio::time::timeout(self.patience, async {
            loop {
                let now = renewals(mesh).await?;
                let count = now.iter().zip(before).filter(|(now, before)| done(**now, **before)).count();
                let requests = self.load.requests();
                self.progress
                    .say(format!("{requests} requests so far; {count} of {} sidecars done", now.len()));
                if count == now.len() {
                    return anyhow::Ok(now);
                }
                tokio::time::sleep(POLL).await;
            }
        });
        match all_done.await {
            Ok(now) => now,
            Err(_) => bail!("not every sidecar has come so far within {:?}", self.patience),
        }
    }
}

/// How many certificates are on the CA's record, and how many different keys.
async fn issued(mesh: &Mesh) -> anyhow::Result<(usize, usize)> {
    let list: Value = serde_json::from_str(&mesh.ca.run(&["cert", "list", "--format", "json"]).await?)?;
    let records =
        list.get("certificates").and_then(Value::as_array).context("the CA lists no certificates")?;
    let keys: HashSet<_> = records.iter().filter_map(|record| record.get("key_sha256")?.as_str()).collect();
    Ok((records.len(), keys.len()))
}
