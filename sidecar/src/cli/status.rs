//! `postern-sidecar status`: shows the status of a running sidecar.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use super::Format;
use crate::config::ADMIN_DEFAULT;

/// Timeout of the request to the sidecar.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum size of a response, in bytes.
const RESPONSE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Maximum number of refusals in the text format; `--format json` has all.
const REFUSALS_SHOWN: usize = 5;

/// Print the state of a running sidecar.
///
/// Exit code: 0 it is ready; 1 it is not, or does not answer.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Admin address, as in `[admin] listen`.
    #[arg(long, value_name = "ADDRESS", default_value_t = ADMIN_DEFAULT)]
    admin: SocketAddr,
}

pub(super) fn run(args: &Args, format: Format) -> ExitCode {
    let status = match request_status(args.admin) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("no sidecar answers on {}: {error}", args.admin);
            return ExitCode::FAILURE;
        }
    };
    print(&match format {
        Format::Json => status.to_string(),
        Format::Text => render_text(&status),
    });
    if is_ready(&status) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn is_ready(status: &Value) -> bool {
    status.get("ready") == Some(&Value::Bool(true))
}

fn request_status(admin: SocketAddr) -> std::io::Result<Value> {
    let mut stream = TcpStream::connect_timeout(&admin, REQUEST_TIMEOUT)?;
    stream.set_read_timeout(Some(REQUEST_TIMEOUT))?;
    let request = format!("GET /status HTTP/1.0\r\nhost: {admin}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(RESPONSE_BYTES_MAX).read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    serde_json::from_str(body).map_err(|_| std::io::Error::other("the answer is not a sidecar's"))
}

fn render_text(status: &Value) -> String {
    let text = |pointer: &str| status.pointer(pointer).and_then(Value::as_str);
    let count = |pointer: &str| status.pointer(pointer).and_then(Value::as_u64).unwrap_or_default();
    let list = |pointer: &str| status.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    let mut shown = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _infallible = writeln!(shown, "{name:<13}{value}");
    };
    line("ready", if is_ready(status) { "yes" } else { "no" });
    for missing in list("/missing").filter_map(Value::as_str) {
        line("  missing", missing);
    }
    line("identity", text("/identity/id").unwrap_or("none"));
    line("  until", text("/identity/not_after").unwrap_or("never"));
    line("  rotations", &count("/identity/rotations").to_string());
    if let Some(reason) = text("/identity/last_error/reason") {
        line("  trouble", reason);
    }
    line("policy", text("/policy/digest").unwrap_or("none"));
    if let Some(source) = text("/policy/source") {
        let of = |text: &str| text.escape_debug().to_string();
        let version = status.pointer("/policy/version").and_then(Value::as_u64);
        let version = version.map_or(String::new(), |version| format!(" version {version}"));
        line("  source", &format!("{source}{version} {}", text("/policy/file").map(of).unwrap_or_default()));
        line("  since", text("/policy/loaded_at").unwrap_or("never"));
    }
    if let Some(error) = text("/policy/last_error") {
        line("  trouble", error);
    }
    for what in list("/unenforceable").filter_map(Value::as_str) {
        line("  refused", what);
    }
    line("CA stream", text("/subscription/state").unwrap_or("off"));
    if let Some(reason) = text("/subscription/last_error/reason") {
        line("  trouble", reason);
    }
    if count("/revoked") > 0 {
        line("revoked", &format!("{} identities", count("/revoked")));
    }
    let connections = format!("{} live, {} begun", count("/connections/live"), count("/connections/begun"));
    line("connections", &connections);
    let is_identified = |refusal: &&Value| {
        refusal.get("from").and_then(Value::as_str).is_some_and(|from| from.starts_with("spiffe://"))
    };
    let (identified, others): (Vec<_>, Vec<_>) = list("/refusals").partition(is_identified);
    let shown_first = identified.into_iter().take(REFUSALS_SHOWN);
    for refusal in shown_first.chain(others.into_iter().take(REFUSALS_SHOWN)) {
        let of = |key: &str| refusal.get(key).and_then(Value::as_str).unwrap_or("?");
        let times = refusal.get("count").and_then(Value::as_u64).unwrap_or_default();
        let to = if refusal.get("service").is_some_and(Value::is_string) { of("service") } else { of("to") };
        line("refused", &format!("{} -> {to} ({}, {times} times)", of("from"), of("reason")));
        line("", of("detail"));
    }
    shown.trim_end().to_owned()
}

#[expect(clippy::print_stdout, reason = "the answer of a command goes to stdout")]
fn print(text: &str) {
    println!("{text}");
}
