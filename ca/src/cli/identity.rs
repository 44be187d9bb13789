//! `postern-ca identity`: who is revoked.

use std::process::ExitCode;

use postern_proto::wire::v1::{
    ListRevokedIdentitiesRequest, RestoreIdentityRequest, RevokeIdentityRequest, RevokedIdentity,
};
use serde_json::{Value, json};

use super::admin::{Admin, Output};
use super::author::Author;
use super::{Format, cert, escaped, print};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    Revoke(Revoke),
    Restore(Restore),
    List(List),
}

/// Revoke an identity until it is restored.
///
/// The CA issues it no certificate and no join token, and every connected sidecar closes its connections. Tokens made
/// earlier are refused, too, and valid again after `identity restore`. Revoking twice changes nothing.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  postern-ca identity revoke orders --reason \"key found in a log\" --data-dir ca"
)]
pub(super) struct Revoke {
    /// A path under the CA's trust domain (orders, /ns/shop/sa/orders), or a full SPIFFE ID.
    id: String,
    /// The reason; it is shown to the refused client.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    author: Author,
    #[command(flatten)]
    admin: Admin,
    #[command(flatten)]
    output: Output,
}

/// Restore a revoked identity. One that is not revoked stays as it is.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  postern-ca identity restore orders --data-dir ca")]
pub(super) struct Restore {
    /// A path under the CA's trust domain, or a full SPIFFE ID.
    id: String,
    #[command(flatten)]
    author: Author,
    #[command(flatten)]
    admin: Admin,
    #[command(flatten)]
    output: Output,
}

/// List revoked identities.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  postern-ca identity list --format json --data-dir ca")]
pub(super) struct List {
    #[command(flatten)]
    admin: Admin,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(command: Command) -> ExitCode {
    match command {
        Command::Revoke(Revoke { id, reason, author, admin, output }) => {
            let request = RevokeIdentityRequest { id, reason, author: author.name() };
            admin.ask(
                async |client| client.revoke_identity(request).await.map(tonic::Response::into_inner),
                |answer| {
                    let said = if answer.already { "was revoked already" } else { "is revoked" };
                    tell_changed(&answer.spiffe_id, "revoked", answer.already, said, output.format)
                },
            )
        }
        Command::Restore(Restore { id, author, admin, output }) => {
            let request = RestoreIdentityRequest { id, author: author.name() };
            admin.ask(
                async |client| client.restore_identity(request).await.map(tonic::Response::into_inner),
                |answer| {
                    let said = if answer.already { "was not revoked" } else { "is restored" };
                    tell_changed(&answer.spiffe_id, "restored", answer.already, said, output.format)
                },
            )
        }
        Command::List(list) => run_list(list),
    }
}

/// Either way the identity now is as it was asked for.
fn tell_changed(id: &str, state: &str, already: bool, said: &str, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Text => print(&format!("{id} {said}"))?,
        Format::Json => {
            print(&json!({ "spiffe_id": id, "state": state, "changed": !already }).to_string())?;
        }
    }
    Ok(())
}

fn run_list(List { admin, output }: List) -> ExitCode {
    admin.ask(
        async |client| {
            let mut revoked: Vec<RevokedIdentity> = Vec::new();
            loop {
                let after = revoked.last().map(|last| last.spiffe_id.clone()).unwrap_or_default();
                let request = ListRevokedIdentitiesRequest { after };
                let page = client.list_revoked_identities(request).await?.into_inner().identities;
                if page.is_empty() {
                    return anyhow::Ok(revoked);
                }
                revoked.extend(page);
            }
        },
        |revoked| {
            match output.format {
                Format::Json => {
                    let revoked: Vec<_> = revoked.iter().map(as_json).collect();
                    print(&json!({ "revoked": revoked }).to_string())?;
                }
                Format::Text => {
                    print(&format!("{:<20}  {:<40}  {:<12}  REASON", "REVOKED", "SPIFFE ID", "AUTHOR"))?;
                    revoked.iter().try_for_each(|revoked| print(&for_people(revoked)))?;
                }
            }
            Ok(())
        },
    )
}

fn as_json(revoked: &RevokedIdentity) -> Value {
    json!({
        "spiffe_id": revoked.spiffe_id,
        "reason": revoked.reason,
        "author": revoked.author,
        "revoked_at": cert::time(revoked.revoked_at),
    })
}

fn for_people(RevokedIdentity { spiffe_id, reason, author, revoked_at }: &RevokedIdentity) -> String {
    let (at, author, reason) = (cert::time(*revoked_at), escaped(author), escaped(reason));
    format!("{at:<20}  {spiffe_id:<40}  {author:<12}  {reason}")
}
