//! `postern-ca policy apply`: a policy put in force, and what came of it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use postern_proto::wire::v1::apply_policy_response::Outcome;
use postern_proto::wire::v1::{ApplyPolicyRequest, ApplyPolicyResponse, PolicyStatus, PolicyVersion};
use serde_json::{Value, json};
use tonic::Status;

use super::super::admin::{Admin, Output};
use super::super::author::Author;
use super::super::{Format, cert, escaped, print};
use super::wait::{self, Wait};
use super::{read, status};

/// Apply a policy: the CA validates it, stores it as a new version and sends each connected sidecar its part.
///
/// It is refused if `policy check` finds an error, if `policy test` fails, or if its trust domain is not the
/// CA's; the version in force stays. Applying the text in force makes no new version.
///
/// Exit code: 0 in force; 1 refused, or another version was in force than expected; 2 the file cannot be read.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example, which loses nobody's change:\n  \
    postern-ca policy apply policy.toml --comment \"ticket 7\" --expect-version 3 --data-dir ca")]
pub(in crate::cli) struct Apply {
    file: PathBuf,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    admin: Admin,
    #[command(flatten)]
    output: Output,
}

/// What is said of a change, and when it may be made.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Change {
    /// Reason for the change, for the audit log.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(super) comment: String,
    #[command(flatten)]
    pub(super) author: Author,
    /// Apply only if this version is in force; 0 means none.
    #[arg(long, value_name = "N")]
    pub(super) expect_version: Option<u64>,
    #[command(flatten)]
    pub(super) wait: Wait,
}

pub(super) fn run(Apply { file, change, admin, output }: Apply) -> anyhow::Result<ExitCode> {
    let Change { comment, author, expect_version, wait } = change;
    let request = ApplyPolicyRequest {
        text: read(&file)?,
        file: file.display().to_string(),
        author: author.name(),
        comment,
        expect_version,
    };
    Ok(admin.ask(
        async |client| {
            let answer = client.apply_policy(request).await?.into_inner();
            let status = wait.follow(client, &answer).await?;
            Ok::<_, Status>((answer, status))
        },
        |(answer, status)| print_text(answer, status.as_ref(), expect_version, output.format),
    ))
}

/// Says what came of a change; where nothing did, that is an error.
pub(super) fn print_text(
    ApplyPolicyResponse { outcome }: ApplyPolicyResponse,
    status: Option<&PolicyStatus>,
    expected: Option<u64>,
    format: Format,
) -> anyhow::Result<()> {
    let Some(outcome) = outcome else { bail!("the CA's answer has no outcome") };
    if format == Format::Json {
        let mut shown = as_json(&outcome, expected);
        if let (Some(status), Some(shown)) = (status, shown.as_object_mut()) {
            shown.insert("status".to_owned(), status::as_json(status));
        }
        print(&shown.to_string())?;
    }
    match (outcome, format) {
        (Outcome::Applied(version), Format::Text) => {
            print(&format!("version {} is in force ({})", version.number, version.digest))?;
        }
        (Outcome::Unchanged(version), Format::Text) => {
            let said = "was in force already with the same text; nothing has changed";
            print(&format!("version {} {said} ({})", version.number, version.digest))?;
        }
        (Outcome::Applied(_) | Outcome::Unchanged(_), Format::Json) => {}
        (Outcome::Refused(refused), _) => {
            refused.problems.iter().for_each(|problem| eprintln!("{problem}\n"));
            if refused.more > 0 {
                eprintln!("and {} more\n", refused.more);
            }
            bail!("the policy is refused; what was in force stays");
        }
        (Outcome::Conflict(current), _) => {
            let expected = expected.map(|expected| expected.to_string()).unwrap_or_default();
            bail!("version {current} is in force, not {expected}: version conflict; nothing was changed");
        }
    }
    match (status, format) {
        (Some(status), Format::Text) => Ok(wait::print_text(status)?),
        _ => Ok(()),
    }
}

fn as_json(outcome: &Outcome, expected: Option<u64>) -> Value {
    match outcome {
        Outcome::Applied(version) => json!({ "outcome": "applied", "version": version_as_json(version) }),
        Outcome::Unchanged(version) => {
            json!({ "outcome": "unchanged", "version": version_as_json(version) })
        }
        Outcome::Refused(refused) => {
            json!({ "outcome": "refused", "problems": refused.problems, "more": refused.more })
        }
        Outcome::Conflict(current) => {
            json!({ "outcome": "conflict", "current": current, "expected": expected })
        }
    }
}

/// A version as every command's JSON shows it.
pub(super) fn version_as_json(version: &PolicyVersion) -> Value {
    json!({
        "number": version.number,
        "digest": version.digest,
        "file": version.file,
        "author": version.author,
        "applied_at": cert::time(version.applied_at),
        "comment": version.comment,
    })
}

/// A version as a line of the history.
pub(super) fn version_for_people(version: &PolicyVersion) -> String {
    let PolicyVersion { number, digest, author, applied_at, comment, .. } = version;
    let digest: String = digest.chars().take("sha256:".len() + 12).collect();
    let (at, author, comment) = (cert::time(*applied_at), escaped(author), escaped(comment));
    format!("{number:<7}  {at:<20}  {digest}  {author:<12}  {comment}")
}
