//! `postern-ca bundle`: the roots, for those who check certificates without a sidecar.

use std::process::ExitCode;

use anyhow::anyhow;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use clap::ValueEnum;
use postern_proto::wire::v1::{ShowBundleRequest, TrustBundle};
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::admin::Admin;
use super::print;

/// How often consumers should look for a new bundle, seconds (SPIFFE Trust Domain and Bundle §4.1.2).
const REFRESH_HINT: u32 = 300;
/// PEM lines have this many characters (RFC 7468 §2).
const PEM_LINE: usize = 64;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    Show(Show),
}

/// Print the roots of the trust domain.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  postern-ca bundle show --data-dir ca > bundle.pem")]
pub(super) struct Show {
    /// PEM certificates, or the SPIFFE bundle as a JSON Web Key Set.
    #[arg(long, value_enum, default_value_t = BundleFormat::Pem)]
    format: BundleFormat,
    #[command(flatten)]
    admin: Admin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BundleFormat {
    Pem,
    Jwks,
}

pub(super) fn run(command: Command) -> ExitCode {
    let Command::Show(Show { format, admin }) = command;
    admin.ask(
        async |client| client.show_bundle(ShowBundleRequest {}).await.map(tonic::Response::into_inner),
        |bundle| {
            match format {
                BundleFormat::Pem => print(&pem(&bundle))?,
                BundleFormat::Jwks => print(&format!("{:#}", jwks(&bundle)?))?,
            }
            Ok(())
        },
    )
}

fn pem(bundle: &TrustBundle) -> String {
    let block = |root: &Vec<u8>| {
        let base64 = STANDARD.encode(root);
        let lines =
            base64.as_bytes().chunks(PEM_LINE).map(String::from_utf8_lossy).collect::<Vec<_>>().join("\n");
        format!("-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----")
    };
    bundle.roots.iter().map(block).collect::<Vec<_>>().join("\n")
}

/// SPIFFE Trust Domain and Bundle §4.
fn jwks(bundle: &TrustBundle) -> anyhow::Result<Value> {
    let keys: anyhow::Result<Vec<_>> = bundle.roots.iter().map(|root| jwk(root)).collect();
    Ok(json!({ "spiffe_sequence": bundle.sequence, "spiffe_refresh_hint": REFRESH_HINT, "keys": keys? }))
}

fn jwk(root: &[u8]) -> anyhow::Result<Value> {
    let (_, parsed) = X509Certificate::from_der(root)?;
    // The point's tag octet, then two coordinates of 32 octets (RFC 7518 §6.2).
    let point = &parsed.public_key().subject_public_key.data;
    let coordinates = point.get(1..).filter(|coordinates| coordinates.len() == 64);
    let (x, y) = coordinates.ok_or_else(|| anyhow!("a root has no P-256 key"))?.split_at(32);
    Ok(json!({
        "use": "x509-svid",
        "kty": "EC",
        "crv": "P-256",
        "x": URL_SAFE_NO_PAD.encode(x),
        "y": URL_SAFE_NO_PAD.encode(y),
        "x5c": [STANDARD.encode(root)],
    }))
}
