//! What is tried, one line each: calls allowed and refused, strangers at the door, and certificates that change.

use std::io;
use std::net::SocketAddr;

use http::StatusCode;
use postern_proto::identity::TrustDomain;

use crate::authority::TRUST_DOMAIN;
use crate::calls;
use crate::client;
use crate::mesh::Mesh;
use crate::rotation;
use crate::sidecar::{Refusal, Sidecar};
use crate::stranger::{self, Got};
use crate::table::{Happened, Note, Progress, Table, Tried};

/// Tries everything.
pub(crate) async fn play(mesh: &mut Mesh, table: &mut Table) -> io::Result<()> {
    let tried = |what, expected| Tried { what, expected };
    table
        .line(tried("orders charges payments", "allowed"), async |_: &Progress| calls::allowed(mesh).await)
        .await?;
    table
        .line(tried("reports charges payments", "refused, with the reason"), async |_: &Progress| {
            calls::refused(mesh).await
        })
        .await?;
    table
        .line(tried("what that refusal says to type is typed", "the same verdict"), async |_: &Progress| {
            calls::explained(mesh).await
        })
        .await?;
    table
        .line(tried("a permission is withdrawn under a live stream", "cut"), async |_: &Progress| {
            calls::withdrawn(mesh).await
        })
        .await?;
    table
        .line(tried("a plaintext client calls payments", "refused"), async |_: &Progress| {
            plaintext(mesh).await
        })
        .await?;
    table
        .line(tried("a client with no certificate calls payments", "refused"), async |_: &Progress| {
            no_certificate(mesh).await
        })
        .await?;
    table
        .line(tried("another CA's certificate for orders is shown", "refused"), async |_: &Progress| {
            other_ca(mesh).await
        })
        .await?;
    table
        .line(tried("reports answers where payments was dialled", "refused"), async |_: &Progress| {
            wrong_service(mesh).await
        })
        .await?;
    table
        .line(
            tried("all certificates are rotated under load", "no request fails"),
            async |progress: &Progress| rotation::under_load(mesh, progress).await,
        )
        .await?;
    table
        .line(
            tried("the CA is stopped past a renewal, and comes back", "no request fails"),
            async |progress: &Progress| rotation::without_ca(mesh, progress).await,
        )
        .await
}

async fn plaintext(mesh: &Mesh) -> anyhow::Result<Happened> {
    at_the_door(mesh, "not_tls", async |address| Ok(stranger::plaintext(address).await?)).await
}

async fn no_certificate(mesh: &Mesh) -> anyhow::Result<Happened> {
    let bundles = mesh.ca.bundles().await?;
    at_the_door(mesh, "no_certificate", async |address| stranger::tls(address, None, bundles).await).await
}

async fn other_ca(mesh: &Mesh) -> anyhow::Result<Happened> {
    let bundles = mesh.ca.bundles().await?;
    let svid = stranger::svid_of_another_ca(&TrustDomain::new(TRUST_DOMAIN)?, "orders")?;
    at_the_door(mesh, "unknown_issuer", async |address| stranger::tls(address, Some(&svid), bundles).await)
        .await
}

/// A stranger comes to the door of `payments` itself.
async fn at_the_door(
    mesh: &Mesh,
    reason: &str,
    come: impl AsyncFnOnce(SocketAddr) -> anyhow::Result<Got>,
) -> anyhow::Result<Happened> {
    let receiver = &mesh.payments.sidecar;
    let before = receiver.refusals_told().await?;
    let got = match come(mesh.payments.inbound).await? {
        Got::Refused(got) => got,
        Got::Answer(answer) => {
            let notes = vec![Note::says("payments answered", answer)];
            return Ok(Happened { as_expected: false, what: "let in".to_owned(), notes });
        }
    };
    let told = receiver.refusal_after(before).await?;
    let mut happened = refused(true, &told, reason);
    happened.notes = vec![Note::says("the client", got)];
    happened.notes.extend(notes(receiver, &told));
    Ok(happened)
}

/// The address that `orders` has for `payments` is that of `reports`, whose certificate is as good as any.
async fn wrong_service(mesh: &Mesh) -> anyhow::Result<Happened> {
    let caller = &mesh.orders.sidecar;
    let before = caller.refusals_told().await?;
    let (status, _) = client::get(mesh.orders.app, "/ask/payments-misdirected/charges/7").await?;
    let told = caller.refusal_after(before).await?;
    let mut happened = refused(status != StatusCode::OK, &told, "wrong_identity");
    happened.notes = vec![Note::says("the app orders gets", status.to_string())];
    happened.notes.extend(notes(caller, &told));
    Ok(happened)
}

fn refused(refused: bool, told: &Refusal, reason: &str) -> Happened {
    let what = if refused { format!("refused ({})", told.reason) } else { "let in".to_owned() };
    Happened { as_expected: refused && told.reason == reason, what, notes: Vec::new() }
}

fn notes(sidecar: &Sidecar, told: &Refusal) -> Vec<Note> {
    let mut notes = vec![Note::says(by(sidecar), &told.detail)];
    notes.extend(told.explain.clone().map(Note::Type));
    notes
}

fn by(sidecar: &Sidecar) -> String {
    format!("{}' sidecar", sidecar.name)
}
