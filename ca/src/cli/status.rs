//! `postern-ca status`.

use std::process::ExitCode;

use postern_proto::wire::v1::ShowStatusRequest;
use serde_json::json;

use super::admin::{Admin, Output};
use super::{Format, cert, print};

/// Print the state of a running CA.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    admin: Admin,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(Args { admin, output }: Args) -> ExitCode {
    admin.ask(
        async |client| client.show_status(ShowStatusRequest {}).await.map(tonic::Response::into_inner),
        |status| {
            let (issuer, root) = (cert::time(status.issuer_not_after), cert::time(status.root_not_after));
            match output.format {
                Format::Json => print(
                    &json!({
                        "version": status.version,
                        "trust_domain": status.trust_domain,
                        "bundle_pin": status.bundle_pin,
                        "certificates_issued": status.certificates_issued,
                        "certificates_valid": status.certificates_valid,
                        "issuer_not_after": issuer,
                        "root_not_after": root,
                    })
                    .to_string(),
                )?,
                Format::Text => {
                    let rows = [
                        ("version", status.version),
                        ("trust domain", status.trust_domain),
                        ("bundle pin", status.bundle_pin),
                        ("issued", format!("{} certificates", status.certificates_issued)),
                        ("valid now", format!("{} certificates", status.certificates_valid)),
                        ("issuer until", issuer),
                        ("root until", root),
                    ];
                    print(&rows.map(|(name, value)| format!("{name:<14}{value}")).join("\n"))?;
                }
            }
            Ok(())
        },
    )
}
