//! `postern-ca policy show`: a stored policy's text.

use std::process::ExitCode;

use anyhow::Context as _;
use postern_proto::wire::v1::ShowPolicyRequest;
use serde_json::json;

use super::super::admin::{Admin, Output};
use super::super::{Format, print, print_exactly};
use super::apply::version_as_json;

/// Print the policy in force, or an older version, byte for byte as it was applied.
///
/// Exit code: 0 found; 1 there is none.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  postern-ca policy show --data-dir ca > in-force.toml\n  \
    postern-ca policy diff in-force.toml policy.toml")]
pub(in crate::cli) struct Show {
    /// A version's number [default: the one in force]
    version: Option<u64>,
    #[command(flatten)]
    admin: Admin,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(Show { version, admin, output }: Show) -> ExitCode {
    let request = ShowPolicyRequest { version };
    admin.ask(
        async |client| client.show_policy(request).await.map(tonic::Response::into_inner),
        |stored| {
            let version = stored.version.context("the CA's answer has no version")?;
            match output.format {
                Format::Text => print_exactly(&stored.text)?,
                Format::Json => {
                    let shown = json!({ "version": version_as_json(&version), "text": stored.text });
                    print(&shown.to_string())?;
                }
            }
            Ok(())
        },
    )
}
