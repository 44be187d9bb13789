//! What is shown, line by line.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::http;
use crate::load::{self, Count};
use crate::peers;
use crate::shop::{Shop, Sidecar};
use crate::table::{Outcome, Table};

/// How long anything may take before its line fails.
const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);
/// Each sidecar's certificate is replaced so often under load.
const ROTATIONS: u64 = 2;

pub(crate) async fn run(shop: &mut Shop, table: &mut Table) -> anyhow::Result<()> {
    allowed(shop, table).await?;
    not_allowed(shop, table).await?;
    plaintext(shop, table).await?;
    no_certificate(shop, table).await?;
    another_ca(shop, table).await?;
    wrong_service(shop, table).await?;
    rotated_under_load(shop, table).await?;
    ca_away(shop, table).await
}

async fn allowed(shop: &Shop, table: &mut Table) -> anyhow::Result<()> {
    let outcome = match http::get(first(&shop.orders)?, "/").await {
        Ok((status, body)) => Outcome {
            good: status == 200 && body == "this is payments\n",
            happened: format!("{status} {}", body.trim()),
        },
        Err(error) => Outcome { good: false, happened: error.to_string() },
    };
    table.line("orders → payments", "allowed", &outcome);
    Ok(())
}

async fn not_allowed(shop: &Shop, table: &mut Table) -> anyhow::Result<()> {
    let answer = http::get(first(&shop.reports)?, "/").await;
    let (here, there) =
        (refusal(&shop.reports, "access_denied").await?, refusal(&shop.payments, "denied").await?);
    let outcome = Outcome {
        good: answer.is_err(),
        happened: format!(
            "reports' sidecar:  {}\npayments' sidecar: {}\nto learn more:     {}",
            text(&here, "detail"),
            text(&there, "detail"),
            text(&here, "explain")
        ),
    };
    table.line("reports → payments", "refused: no rule allows it", &outcome);
    Ok(())
}

async fn plaintext(shop: &Shop, table: &mut Table) -> anyhow::Result<()> {
    let answer = http::get(inbound(shop)?, "/").await;
    let told = refusal(&shop.payments, "not_tls").await?;
    let good = matches!(answer, Ok((400, _)) | Err(_));
    table.line("a plaintext client", "refused", &Outcome { good, happened: text(&told, "detail") });
    Ok(())
}

async fn no_certificate(shop: &Shop, table: &mut Table) -> anyhow::Result<()> {
    let answer = peers::request(inbound(shop)?, None, shop.bundles.clone()).await?;
    let told = refusal(&shop.payments, "no_certificate").await?;
    let outcome = Outcome { good: answer.is_err(), happened: text(&told, "detail") };
    table.line("a client with no certificate", "refused", &outcome);
    Ok(())
}

async fn another_ca(shop: &Shop, table: &mut Table) -> anyhow::Result<()> {
    let impostor = peers::impostor()?;
    let answer = peers::request(inbound(shop)?, Some(&impostor), shop.bundles.clone()).await?;
    let told = refusal(&shop.payments, "unknown_issuer").await?;
    let outcome = Outcome { good: answer.is_err(), happened: text(&told, "detail") };
    table.line("a certificate of another CA, in the name of orders", "refused", &outcome);
    Ok(())
}

async fn wrong_service(shop: &Shop, table: &mut Table) -> anyhow::Result<()> {
    let trap = shop.orders.outbounds.get(1).context("orders means to call reports, too")?;
    let answer = http::get(*trap, "/").await;
    let told = refusal(&shop.orders, "wrong_identity").await?;
    let outcome = Outcome { good: answer.is_err(), happened: text(&told, "detail") };
    table.line("orders calls reports, and payments answers", "refused by the caller", &outcome);
    Ok(())
}

async fn rotated_under_load(shop: &Shop, table: &mut Table) -> anyhow::Result<()> {
    let sidecars = [&shop.payments, &shop.orders, &shop.reports];
    let mut before = Vec::new();
    for sidecar in sidecars {
        before.push(sidecar.rotations().await?);
    }
    table.progress("rotating all certificates under load");
    let rotate = async {
        for (sidecar, before) in sidecars.into_iter().zip(before) {
            wait_for(&format!("{}'s rotations", sidecar.name), async || {
                Ok((sidecar.rotations().await? >= before + ROTATIONS).then_some(()))
            })
            .await?;
        }
        Ok(())
    };
    let ((), count) = load::during(first(&shop.orders)?, rotate).await?;
    let what = format!("each certificate replaced {ROTATIONS} times");
    table.line("all certificates rotated under load", "nothing fails", &counted(&what, &count));
    Ok(())
}

async fn ca_away(shop: &mut Shop, table: &mut Table) -> anyhow::Result<()> {
    table.progress("stopping the CA past a renewal");
    shop.stop_ca().await?;
    let callers = first(&shop.orders)?;
    let meanwhile = async {
        for sidecar in [&shop.payments, &shop.orders] {
            wait_for(&format!("{}'s renewal to fail", sidecar.name), async || {
                Ok(sidecar.status().await?.pointer("/identity/last_error/reason").map(|_| ()))
            })
            .await?;
        }
        Ok(())
    };
    let ((), away) = load::during(callers, meanwhile).await?;
    table.progress("starting the CA again");
    shop.restart_ca()?;
    let back = async {
        for sidecar in [&shop.payments, &shop.orders] {
            wait_for(&format!("{}'s renewal", sidecar.name), async || {
                Ok(sidecar
                    .status()
                    .await?
                    .pointer("/identity/last_error")
                    .is_some_and(Value::is_null)
                    .then_some(()))
            })
            .await?;
        }
        Ok(())
    };
    let ((), since) = load::during(callers, back).await?;
    let count = Count::default();
    count.sent.set(away.sent.get() + since.sent.get());
    count.failed.set(away.failed.get() + since.failed.get());
    let outcome = counted("renewals failed while the CA was away and went on when it was back", &count);
    table.line("the CA stopped past a renewal, and back", "nothing fails", &outcome);
    Ok(())
}

fn counted(what: &str, count: &Count) -> Outcome {
    let (sent, failed) = (count.sent.get(), count.failed.get());
    Outcome { good: failed == 0 && sent > 0, happened: format!("{what}; {failed} of {sent} requests failed") }
}

/// The newest refusal with this reason, as the sidecar tells it.
async fn refusal(sidecar: &Sidecar, reason: &str) -> anyhow::Result<Value> {
    wait_for(&format!("{}'s refusal ({reason})", sidecar.name), async || {
        let status = sidecar.status().await?;
        let mut refusals = status.get("refusals").and_then(Value::as_array).into_iter().flatten();
        Ok(refusals.find(|refusal| text(refusal, "reason") == reason).cloned())
    })
    .await
}

async fn wait_for<T>(
    what: &str,
    mut ask: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await? {
            return Ok(answer);
        }
        if tokio::time::Instant::now() >= deadline {
            bail!("waited in vain for {what}");
        }
        tokio::time::sleep(POLL).await;
    }
}

fn text(refusal: &Value, key: &str) -> String {
    refusal.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn first(caller: &Sidecar) -> anyhow::Result<SocketAddr> {
    caller.outbounds.first().copied().with_context(|| format!("{} calls somebody", caller.name))
}

fn inbound(shop: &Shop) -> anyhow::Result<SocketAddr> {
    shop.payments.inbound.context("payments can be called")
}
