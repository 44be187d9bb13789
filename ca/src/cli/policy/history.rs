//! `postern-ca policy history`: which policies were in force, since when, by whom and why.

use std::process::ExitCode;

use postern_proto::wire::v1::{ListPolicyVersionsRequest, PolicyVersion};
use serde_json::json;

use super::super::admin::{Admin, Output};
use super::super::{Format, print};
use super::apply::{version_as_json, version_for_people};

/// Versions are fetched in pages of this size.
const PAGE: u32 = 100;

/// List the versions of the policy, newest first; the first line is in force.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  postern-ca policy history --limit 5 --data-dir ca")]
pub(in crate::cli) struct History {
    /// Maximum number of versions.
    #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
    limit: usize,
    #[command(flatten)]
    admin: Admin,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(History { limit, admin, output }: History) -> ExitCode {
    admin.ask(
        async |client| {
            let mut versions: Vec<PolicyVersion> = Vec::new();
            while versions.len() < limit {
                let before = versions.last().map_or(0, |last| last.number);
                let request = ListPolicyVersionsRequest { before, page_size: PAGE };
                let page = client.list_policy_versions(request).await?.into_inner().versions;
                if page.is_empty() {
                    break;
                }
                versions.extend(page);
            }
            versions.truncate(limit);
            anyhow::Ok(versions)
        },
        |versions| {
            match output.format {
                Format::Json => {
                    let versions: Vec<_> = versions.iter().map(version_as_json).collect();
                    print(&json!({ "versions": versions }).to_string())?;
                }
                Format::Text => {
                    print(&format!(
                        "VERSION  {:<20}  {:<19}  {:<12}  COMMENT",
                        "APPLIED", "DIGEST", "AUTHOR"
                    ))?;
                    versions.iter().try_for_each(|version| print(&version_for_people(version)))?;
                }
            }
            Ok(())
        },
    )
}
