//! `postern-ca audit`: who was granted or refused what, and whether that record is whole.

use std::process::ExitCode;

use anyhow::bail;
use postern_proto::wire::v1::admin_client::AdminClient;
use postern_proto::wire::v1::audit_verdict::Verdict;
use postern_proto::wire::v1::list_audit_entries_request::From;
use postern_proto::wire::v1::{AuditEntry, AuditWhole, ListAuditEntriesRequest, VerifyAuditRequest};
use serde_json::{Value, json};
use tonic::transport::Channel;

use super::admin::{Admin, Output};
use super::{Format, cert, escaped, print};

/// Rows are fetched in pages of this size.
const PAGE: u32 = 100;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    Tail(Tail),
    Verify(Verify),
    Export(Export),
}

/// Show the newest decisions, oldest first.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  postern-ca audit tail --limit 50 --data-dir ca")]
pub(super) struct Tail {
    /// Maximum number of rows.
    #[arg(long, default_value_t = 20)]
    limit: u32,
    #[command(flatten)]
    admin: Admin,
    #[command(flatten)]
    output: Output,
}

/// Verify that no row was changed or removed. Exit code: 0 intact; 1 not, and the first bad row is named.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Rows taken from the end leave a whole, shorter chain: keep the last hash elsewhere, as\n\
    `audit export` prints it with every row, and look it up in a later export."
)]
pub(super) struct Verify {
    #[command(flatten)]
    admin: Admin,
    #[command(flatten)]
    output: Output,
}

/// Print every row as a line of JSON with its hash, for storage and verification elsewhere.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Each hash is SHA-256 over: the hash before (32 zero octets at first), number and unix time \
    (8 octets\neach, big endian), then decision, subject and detail, each after its length (8 octets, big endian).\n\n\
    Example:\n  postern-ca audit export --after 1000 --data-dir ca >> audit.jsonl"
)]
pub(super) struct Export {
    /// Only rows with a higher number; the last exported line has it.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    after: i64,
    #[command(flatten)]
    admin: Admin,
}

pub(super) fn run(command: Command) -> ExitCode {
    match command {
        Command::Tail(tail) => run_tail(tail),
        Command::Verify(Verify { admin, output }) => admin.ask(
            async |client| client.verify_audit(VerifyAuditRequest {}).await.map(tonic::Response::into_inner),
            |answer| tell_verdict(answer.verdict, output.format),
        ),
        Command::Export(Export { after, admin }) => admin.ask(
            async |client| {
                let print_line = |entry: AuditEntry| Ok(print(&as_json(&entry).to_string())?);
                each_from(client, From::After(after), print_line).await
            },
            |()| Ok(()),
        ),
    }
}

fn run_tail(Tail { limit, admin, output }: Tail) -> ExitCode {
    admin.ask(
        async |client| {
            let mut entries = Vec::new();
            let keep = |entry| {
                entries.push(entry);
                Ok(())
            };
            each_from(client, From::Newest(limit), keep).await?;
            anyhow::Ok(entries)
        },
        |entries| {
            match output.format {
                Format::Json => {
                    let entries: Vec<_> = entries.iter().map(as_json).collect();
                    print(&json!({ "entries": entries }).to_string())?;
                }
                Format::Text => {
                    print(&format!("{:<20}  {:<13}  {:<40}  DETAIL", "TIME", "DECISION", "SUBJECT"))?;
                    for entry in &entries {
                        print(&for_people(entry))?;
                    }
                }
            }
            Ok(())
        },
    )
}

/// Asks page by page, until a page is not full: rows that come meanwhile would keep it going for ever.
async fn each_from(
    client: &mut AdminClient<Channel>,
    mut from: From,
    mut take: impl FnMut(AuditEntry) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    loop {
        let request = ListAuditEntriesRequest { from: Some(from), page_size: PAGE };
        let entries = client.list_audit_entries(request).await?.into_inner().entries;
        let full = u32::try_from(entries.len()).is_ok_and(|rows| rows >= PAGE);
        let Some(last) = entries.last().filter(|_| full).map(|last| last.number) else {
            return entries.into_iter().try_for_each(take);
        };
        entries.into_iter().try_for_each(&mut take)?;
        from = From::After(last);
    }
}

fn tell_verdict(verdict: Option<Verdict>, format: Format) -> anyhow::Result<()> {
    match (verdict, format) {
        (Some(Verdict::Whole(AuditWhole { rows, hash })), Format::Text) => {
            print(&format!("whole: {rows} rows, the last with hash {}", hex(&hash)))?;
        }
        (Some(Verdict::Whole(AuditWhole { rows, hash })), Format::Json) => {
            print(&json!({ "verdict": "whole", "rows": rows, "last_hash": hex(&hash) }).to_string())?;
        }
        (Some(Verdict::BrokenAt(number)), format) => {
            if format == Format::Json {
                print(&json!({ "verdict": "broken", "broken_at": number }).to_string())?;
            }
            bail!(
                "the audit chain is broken at row {number}: it, or what stood before it, was changed or taken out"
            );
        }
        (None, _) => bail!("the CA's answer has no verdict"),
    }
    Ok(())
}

fn as_json(entry: &AuditEntry) -> Value {
    json!({
        "number": entry.number,
        "at": cert::time(entry.at),
        "unix": entry.at,
        "decision": entry.decision,
        "subject": entry.subject,
        "detail": entry.detail,
        "hash": hex(&entry.hash),
    })
}

fn for_people(entry: &AuditEntry) -> String {
    let (at, subject, detail) = (cert::time(entry.at), escaped(&entry.subject), escaped(&entry.detail));
    format!("{at:<20}  {:<13}  {subject:<40}  {detail}", entry.decision)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
