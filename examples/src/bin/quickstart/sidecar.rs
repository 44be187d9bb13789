//! A sidecar as its operator sees it: what it says at its admin endpoint.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http::StatusCode;
use serde_json::Value;

use crate::client;
use crate::process::Process;

/// Until a refusal shows in `/status`.
const TELL_PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

/// A running `postern-sidecar`.
#[derive(Debug)]
pub(crate) struct Sidecar {
    pub(crate) name: &'static str,
    pub(crate) admin: SocketAddr,
    pub(crate) process: Process,
}

/// One refusal, as a sidecar tells it.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) reason: String,
    pub(crate) detail: String,
    pub(crate) explain: Option<String>,
}

/// How an identity has fared so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Renewals {
    pub(crate) rotations: u64,
    pub(crate) failures: u64,
}

impl Sidecar {
    pub(crate) async fn ready(&mut self, patience: Duration) -> anyhow::Result<()> {
        let admin = self.admin;
        let ask = async |_: &Process| {
            let (status, _) = client::get(admin, "/ready").await.ok()?;
            (status == StatusCode::OK).then_some(())
        };
        self.process.until("ready", patience, ask).await
    }

    async fn ask(&self, path: &str) -> anyhow::Result<Value> {
        let whose = || format!("{}'s sidecar does not tell its {path}", self.name);
        let (status, text) = client::get(self.admin, path).await.with_context(whose)?;
        if status != StatusCode::OK {
            bail!("{}: {status}", whose());
        }
        serde_json::from_str(&text).with_context(whose)
    }

    pub(crate) async fn renewals(&self) -> anyhow::Result<Renewals> {
        let status = self.ask("/status").await?;
        let count = |key: &str| {
            let value = status.pointer(&format!("/identity/{key}")).and_then(Value::as_u64);
            value.with_context(|| format!("{}'s sidecar tells no number of {key}", self.name))
        };
        Ok(Renewals { rotations: count("rotations")?, failures: count("failures")? })
    }

    /// How many refusals it has told of so far.
    pub(crate) async fn refusals_told(&self) -> anyhow::Result<u64> {
        Ok(count(&self.refusals().await?))
    }

    /// The newest refusal, as soon as there are more than `before`.
    pub(crate) async fn refusal_after(&self, before: u64) -> anyhow::Result<Refusal> {
        let told = tokio::time::timeout(TELL_PATIENCE, async {
            loop {
                let refusals = self.refusals().await?;
                match refusals.first() {
                    Some(newest) if count(&refusals) > before => return refusal(newest),
                    _ => tokio::time::sleep(POLL).await,
                }
            }
        });
        told.await.with_context(|| format!("{}'s sidecar tells of no refusal", self.name))?
    }

    async fn refusals(&self) -> anyhow::Result<Vec<Value>> {
        let mut status = self.ask("/status").await?;
        match status.get_mut("refusals").map(Value::take) {
            Some(Value::Array(refusals)) => Ok(refusals),
            _ => bail!("{}'s sidecar tells nothing of refusals", self.name),
        }
    }
}

fn count(refusals: &[Value]) -> u64 {
    refusals.iter().filter_map(|refusal| refusal.get("count")?.as_u64()).sum()
}

fn refusal(told: &Value) -> anyhow::Result<Refusal> {
    let text = |key: &str| told.get(key).and_then(Value::as_str).map(str::to_owned);
    let missing = || format!("a refusal that does not say why: {told}");
    Ok(Refusal {
        reason: text("reason").with_context(missing)?,
        detail: text("detail").with_context(missing)?,
        explain: text("explain"),
    })
}
