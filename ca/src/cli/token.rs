//! `postern-ca token`.

use std::process::ExitCode;
use std::time::Duration;

use postern_proto::wire::v1::CreateJoinTokenRequest;
use postern_server::config::parse_duration;
use serde_json::json;

use super::admin::{Admin, Output};
use super::{Format, cert, print};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    Create(Create),
}

/// Create a join token and print it. It is shown once; the CA keeps only a hash.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  postern-ca token create --id orders --data-dir ca > orders.token")]
pub(super) struct Create {
    /// The identity: a path under the CA's trust domain (orders, /ns/shop/sa/orders), or a full SPIFFE ID.
    #[arg(long, value_name = "NAME")]
    id: String,
    /// Lifetime, up to 7d.
    #[arg(long, default_value = "10m", value_parser = whole_seconds)]
    ttl: Duration,
    /// Number of uses.
    #[arg(long, default_value_t = 1)]
    uses: u32,
    #[command(flatten)]
    admin: Admin,
    #[command(flatten)]
    output: Output,
}

/// The CA counts in seconds; cutting off the rest would make another time than was asked for.
fn whole_seconds(text: &str) -> Result<Duration, String> {
    let ttl = parse_duration(text).map_err(|error| error.to_string())?;
    if ttl.subsec_nanos() == 0 { Ok(ttl) } else { Err("write whole seconds, as in \"10s\"".to_owned()) }
}

pub(super) fn run(command: Command) -> ExitCode {
    let Command::Create(Create { id, ttl, uses, admin, output }) = command;
    let request = CreateJoinTokenRequest { id, ttl_seconds: ttl.as_secs(), uses };
    admin.ask(
        async |client| client.create_join_token(request).await.map(tonic::Response::into_inner),
        |created| {
            match output.format {
                Format::Text => print(&created.token)?,
                Format::Json => print(
                    &json!({
                        "token": created.token,
                        "spiffe_id": created.spiffe_id,
                        "expires_at": cert::time(created.expires_at),
                    })
                    .to_string(),
                )?,
            }
            Ok(())
        },
    )
}
