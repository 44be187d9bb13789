//! `postern-sidecar status`: what a running sidecar says of itself.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use super::Format;
use crate::config::ADMIN_DEFAULT;

/// How long the sidecar may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// An answer is read up to this size.
const ANSWER_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// So many refusals are shown to people; `--format json` has all.
const REFUSALS_SHOWN: usize = 5;

/// Ask a running sidecar how it is.
///
/// Exit code: 0 it is ready; 1 it is not, or does not answer.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Its admin address, as `[admin] listen` has it.
    #[arg(long, value_name = "ADDRESS", default_value_t = ADMIN_DEFAULT)]
    admin: SocketAddr,
}

pub(super) fn run(args: &Args, format: Format) -> ExitCode {
    let status = match ask(args.admin) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("no sidecar answers on {}: {error}", args.admin);
            return ExitCode::FAILURE;
        }
    };
    print(&match format {
        Format::Json => status.to_string(),
        Format::Text => for_people(&status),
    });
    if is_ready(&status) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn ask(admin: SocketAddr) -> std::io::Result<Value> {
    let mut stream = TcpStream::connect_timeout(&admin, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = format!("GET /status HTTP/1.0\r\nhost: {admin}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    serde_json::from_str(body).map_err(|_| std::io::Error::other("the answer is not a sidecar's"))
}

fn is_ready(status: &Value) -> bool {
    status.get("ready").and_then(Value::as_bool) == Some(true)
}

fn for_people(status: &Value) -> String {
    let at = |path: &str| match status.pointer(path) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "none".to_owned(),
        Some(other) => other.to_string(),
    };
    let list = |path: &str| status.pointer(path).and_then(Value::as_array).into_iter().flatten();
    let mut lines = vec![("ready", if is_ready(status) { "yes" } else { "no" }.to_owned())];
    lines.extend(list("/missing").map(|missing| ("", missing.as_str().unwrap_or_default().to_owned())));
    lines.push(("identity", at("/identity/id")));
    lines.push(("  until", at("/identity/not_after")));
    lines.push(("  rotations", at("/identity/rotations")));
    if status.pointer("/identity/last_error").is_some_and(Value::is_object) {
        lines.push(("  trouble", at("/identity/last_error/reason")));
    }
    lines.push(("policy", at("/policy/digest")));
    if status.pointer("/policy/last_error").is_some_and(Value::is_string) {
        lines.push(("  trouble", at("/policy/last_error")));
    }
    lines.push((
        "connections",
        format!("{} live, {} begun", at("/connections/live"), at("/connections/begun")),
    ));
    for (number, _) in list("/refusals").take(REFUSALS_SHOWN).enumerate() {
        let of = |key: &str| at(&format!("/refusals/{number}/{key}"));
        lines.push((
            "refused",
            format!("{} -> {} ({}, {}x)", of("from"), of("to"), of("reason"), of("count")),
        ));
        lines.push(("", of("detail")));
    }
    let shown: Vec<_> = lines.into_iter().map(|(name, value)| format!("{name:<13}{value}")).collect();
    shown.join("\n")
}

#[expect(clippy::print_stdout, reason = "the answer of a command goes to stdout")]
fn print(text: &str) {
    println!("{text}");
}
