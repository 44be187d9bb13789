//! `postern-ca cert`: what was issued.

use std::process::ExitCode;

use postern_proto::wire::v1::{CertificateRecord, ListCertificatesRequest, ShowCertificateRequest};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::admin::{Admin, Output};
use super::{Format, print};

/// Records are fetched in pages of this size.
const PAGE: u32 = 500;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    List(List),
    Show(Show),
}

/// List issued certificates, newest first.
#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// Only certificates of this identity.
    #[arg(long, value_name = "NAME", default_value = "")]
    id: String,
    /// Maximum number of certificates.
    #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
    limit: usize,
    #[command(flatten)]
    admin: Admin,
    #[command(flatten)]
    output: Output,
}

/// Show one certificate's record.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// Serial number in hexadecimal.
    serial: String,
    #[command(flatten)]
    admin: Admin,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(command: Command) -> ExitCode {
    match command {
        Command::List(list) => run_list(list),
        Command::Show(Show { serial, admin, output }) => admin.ask(
            async |client| {
                let found = client.show_certificate(ShowCertificateRequest { serial }).await;
                found.map(tonic::Response::into_inner)
            },
            |record| {
                match output.format {
                    Format::Json => print(&as_json(&record).to_string())?,
                    Format::Text => print(&for_people(&record))?,
                }
                Ok(())
            },
        ),
    }
}

fn run_list(List { id, limit, admin, output }: List) -> ExitCode {
    admin.ask(
        async |client| {
            let mut records = Vec::new();
            let mut page = String::new();
            loop {
                let request = ListCertificatesRequest { id: id.clone(), page_size: PAGE, page };
                let found = client.list_certificates(request).await?.into_inner();
                records.extend(found.certificates);
                page = found.next_page;
                if page.is_empty() || records.len() >= limit {
                    records.truncate(limit);
                    return anyhow::Ok(records);
                }
            }
        },
        |records| {
            match output.format {
                Format::Json => {
                    let records: Vec<_> = records.iter().map(as_json).collect();
                    print(&json!({ "certificates": records }).to_string())?;
                }
                Format::Text => {
                    print(&format!("{:<32}  {:<20}  {:<20}  SPIFFE ID", "SERIAL", "ISSUED", "NOT AFTER"))?;
                    for record in &records {
                        let (issued, until) = (time(record.issued_at), time(record.not_after));
                        print(&format!(
                            "{:<32}  {issued:<20}  {until:<20}  {}",
                            record.serial, record.spiffe_id
                        ))?;
                    }
                }
            }
            Ok(())
        },
    )
}

fn as_json(record: &CertificateRecord) -> Value {
    json!({
        "serial": record.serial,
        "spiffe_id": record.spiffe_id,
        "key_sha256": record.key_sha256,
        "attestation": record.attestation,
        "not_before": time(record.not_before),
        "not_after": time(record.not_after),
        "issued_at": time(record.issued_at),
        "issuer": record.issuer,
    })
}

fn for_people(record: &CertificateRecord) -> String {
    let rows = [
        ("serial", record.serial.clone()),
        ("SPIFFE ID", record.spiffe_id.clone()),
        ("key SHA-256", record.key_sha256.clone()),
        ("attested by", record.attestation.clone()),
        ("issued", time(record.issued_at)),
        ("not before", time(record.not_before)),
        ("not after", time(record.not_after)),
        ("issuer", record.issuer.clone()),
    ];
    rows.map(|(name, value)| format!("{name:<13}{value}")).join("\n")
}

/// Unix seconds as RFC 3339.
pub(super) fn time(unix: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(unix).ok();
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_else(|| unix.to_string())
}
