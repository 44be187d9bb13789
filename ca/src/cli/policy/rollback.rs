//! `postern-ca policy rollback`: an older version's text put in force again.

use std::process::ExitCode;

use postern_proto::wire::v1::RollBackPolicyRequest;
use tonic::Status;

use super::super::admin::{Admin, Output};
use super::apply::{Change, print_text};

/// Apply the text of an older version as a new version.
///
/// It is validated like any other policy: a text whose expectations no longer hold, e.g. because a rule has expired, is
/// refused, and the version in force stays.
///
/// Exit code: 0 in force; 1 refused, no such version, or another version was in force than expected.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  postern-ca policy history --data-dir ca\n  \
    postern-ca policy rollback 2 --comment \"3 broke reports\" --data-dir ca")]
pub(in crate::cli) struct Rollback {
    /// The version to apply again.
    version: u64,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    admin: Admin,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(Rollback { version, change, admin, output }: Rollback) -> ExitCode {
    let Change { comment, author, expect_version, wait } = change;
    let request = RollBackPolicyRequest { version, author: author.name(), comment, expect_version };
    admin.ask(
        async |client| {
            let answer = client.roll_back_policy(request).await?.into_inner();
            let status = wait.follow(client, &answer).await?;
            Ok::<_, Status>((answer, status))
        },
        |(answer, status)| print_text(answer, status.as_ref(), expect_version, output.format),
    )
}
