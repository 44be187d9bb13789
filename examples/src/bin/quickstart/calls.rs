//! Calls between the services: allowed, refused with an explanation, and cut when their permission is withdrawn.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::Value;

use crate::authority::TRUST_DOMAIN;
use crate::client::{self, Connection};
use crate::mesh::{Mesh, POLICY, Service};
use crate::table::{Happened, Note};

/// The right to what is withdrawn, as the policy has it.
const EVENTS: &str = ", \"GET /events\"";
/// Until a stream that is no longer allowed is cut.
const CUT_PATIENCE: Duration = Duration::from_secs(5);

async fn charge(service: &Service) -> std::io::Result<(StatusCode, String)> {
    client::request(service.app, &Method::POST, "/ask/payments/charge").await
}

/// The app `orders` charges through its sidecar, and payments is told who calls.
pub(crate) async fn allowed(mesh: &Mesh) -> anyhow::Result<Happened> {
    let (status, text) = charge(&mesh.orders).await?;
    let told = text.contains(&format!("called by spiffe://{TRUST_DOMAIN}/orders"));
    Ok(Happened {
        as_expected: status == StatusCode::OK && told,
        what: if status == StatusCode::OK { "allowed".to_owned() } else { status.to_string() },
        notes: vec![Note::says("payments answers", text.trim_end())],
    })
}

/// The app `reports` may look at charges, but not charge.
pub(crate) async fn refused(mesh: &Mesh) -> anyhow::Result<Happened> {
    let (looked, _) = client::get(mesh.reports.app, "/ask/payments/charges/7").await?;
    let (status, text) = charge(&mesh.reports).await?;
    let mut notes = Vec::new();
    if let Ok(problem) = serde_json::from_str::<Value>(&text) {
        notes.push(Note::says("the answer", words(&problem, "title")));
        notes.push(Note::says("its detail", words(&problem, "detail")));
        notes.push(Note::Type(words(&problem, "explain").to_owned()));
    }
    Ok(Happened {
        as_expected: looked == StatusCode::OK && status == StatusCode::FORBIDDEN && notes.len() == 3,
        what: if status == StatusCode::OK { "let in".to_owned() } else { format!("refused ({status})") },
        notes,
    })
}

/// What the refused answer proposes to type is typed, just as it stands.
pub(crate) async fn explained(mesh: &Mesh) -> anyhow::Result<Happened> {
    let (_, text) = charge(&mesh.reports).await?;
    let problem: Value = serde_json::from_str(&text).context("the refusal is no problem document")?;
    let (detail, command) = (words(&problem, "detail"), words(&problem, "explain"));
    let output = mesh.ca.shell(command).await?;
    let said = String::from_utf8_lossy(&output.stdout);
    let same = output.status.code() == Some(1) && said.contains(detail);
    Ok(Happened {
        as_expected: same && !detail.is_empty(),
        what: if same { "the same verdict".to_owned() } else { format!("another: {}", output.status) },
        notes: vec![Note::says("policy explain", said.trim_end())],
    })
}

fn words<'p>(problem: &'p Value, key: &str) -> &'p str {
    problem.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// A stream is open when the right to it is taken away; the other calls of the same caller stay allowed.
pub(crate) async fn withdrawn(mesh: &Mesh) -> anyhow::Result<Happened> {
    let mut connection = Connection::open(mesh.orders_to_payments).await?;
    let answer = connection.send(&Method::GET, "/events").await?;
    ensure!(answer.status() == StatusCode::OK, "/events: {}", answer.status());
    let mut stream = answer.into_body();
    stream.frame().await.context("the stream is empty")??;
    mesh.replace_policy(&POLICY.replace(EVENTS, ""))?;
    let replaced = Instant::now();
    let end = tokio::time::timeout(CUT_PATIENCE, end_of(&mut stream)).await;
    let took = replaced.elapsed();
    let (still, _) = charge(&mesh.orders).await?;
    mesh.replace_policy(POLICY)?;
    let (as_expected, what) = match &end {
        Ok(Err(_)) => (still == StatusCode::OK, format!("cut after {} ms", took.as_millis())),
        Ok(Ok(())) => (false, "it ended as if it were whole".to_owned()),
        Err(_) => (false, "it goes on".to_owned()),
    };
    let mut notes = vec![Note::says("orders charges meanwhile", still.to_string())];
    if let Ok(Err(error)) = end {
        notes.insert(0, Note::says("orders, of its stream", client::innermost(error).to_string()));
    }
    Ok(Happened { as_expected, what, notes })
}

/// How a stream ends, whatever comes before.
async fn end_of(stream: &mut Incoming) -> Result<(), hyper::Error> {
    while let Some(frame) = stream.frame().await {
        frame?;
    }
    Ok(())
}
