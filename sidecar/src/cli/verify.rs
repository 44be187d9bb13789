//! `postern-sidecar verify`: verifies a certificate chain as the TLS handshake does.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use postern_proto::identity::{
    BUNDLE_BYTES_MAX, TrustBundles, TrustDomain, VerifiedSvid, VerifyError, certificates_from_pem,
    claimed_id, verify,
};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Format;

/// Verify a certificate chain and print its SPIFFE ID, or the reason why it is invalid.
///
/// Uses the code of every handshake. Valid: prints the SPIFFE ID, exit code 0. Invalid, or a file that
/// cannot be read: prints the reason to stderr, exit code 1.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  postern-sidecar verify --bundle bundle.pem --chain svid.pem --at 2026-06-01T12:00:00Z"
)]
pub(super) struct Args {
    /// Trust bundle, PEM; read whole or not at all.
    #[arg(long, value_name = "PEM")]
    bundle: PathBuf,
    /// Certificate chain, PEM: leaf first, then its issuers.
    #[arg(long, value_name = "PEM")]
    chain: PathBuf,
    /// Trust domain of roots that name none [default: the leaf's trust domain]
    #[arg(long, value_name = "TD", value_parser = TrustDomain::new)]
    trust_domain: Option<TrustDomain>,
    /// Verify at this time, RFC 3339 [default: now]
    #[arg(long, value_name = "RFC3339", value_parser = time_of)]
    at: Option<OffsetDateTime>,
}

fn time_of(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|error| format!("not an RFC 3339 time: {error}"))
}

/// Why the chain was rejected.
struct Rejection {
    code: &'static str,
    detail: String,
}

impl From<VerifyError> for Rejection {
    fn from(error: VerifyError) -> Self {
        Self { code: error.code(), detail: error.to_string() }
    }
}

pub(super) fn run(args: &Args, format: Format) -> ExitCode {
    let verdict = verify_chain(args);
    match (&verdict, format) {
        (_, Format::Json) => print(&as_json(&verdict).to_string()),
        (Ok(svid), Format::Text) => print(svid.id().as_str()),
        (Err(refusal), Format::Text) => eprintln!("refused: {}: {}", refusal.code, escaped(&refusal.detail)),
    }
    if verdict.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn verify_chain(args: &Args) -> Result<VerifiedSvid, Rejection> {
    let chain = certificates_from_pem(&read(&args.chain)?)
        .map_err(|error| unreadable(&args.chain, &error.to_string()))?;
    let own = match &args.trust_domain {
        Some(given) => given.clone(),
        None => claimed_id(&chain)?.trust_domain().clone(),
    };
    let bundles = TrustBundles::from_pem(&own, &read(&args.bundle)?)
        .map_err(|error| unreadable(&args.bundle, &error.to_string()))?;
    Ok(verify(&chain, &bundles, args.at.unwrap_or_else(OffsetDateTime::now_utc))?)
}

/// Reads a file, limited to the maximum size of a bundle.
fn read(path: &Path) -> Result<Vec<u8>, Rejection> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let limit = u64::try_from(BUNDLE_BYTES_MAX).unwrap_or(u64::MAX) + 1;
    std::fs::File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .map_err(|error| unreadable(path, &error.to_string()))?;
    if bytes.len() > BUNDLE_BYTES_MAX {
        return Err(unreadable(path, &format!("it has more than {BUNDLE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

fn unreadable(path: &Path, detail: &str) -> Rejection {
    Rejection { code: "unreadable", detail: format!("{}: {detail}", path.display()) }
}

fn as_json(verdict: &Result<VerifiedSvid, Rejection>) -> Value {
    let time = |time: OffsetDateTime| time.format(&Rfc3339).ok();
    match verdict {
        Ok(svid) => json!({
            "verdict": "accepted",
            "id": svid.id().as_str(),
            "not_before": time(svid.not_before()),
            "not_after": time(svid.not_after()),
            "issuer_path": svid.issuer_path(),
            "reason": null,
        }),
        Err(refusal) => json!({
            "verdict": "refused",
            "id": null,
            "not_before": null,
            "not_after": null,
            "issuer_path": [],
            "reason": { "code": refusal.code, "detail": escaped(&refusal.detail) },
        }),
    }
}

/// Escapes control characters: text from a certificate must not control the terminal.
fn escaped(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

#[expect(clippy::print_stdout, reason = "the answer of a command goes to stdout")]
fn print(text: &str) {
    println!("{text}");
}
