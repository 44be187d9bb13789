//! `postern-sidecar status`: what a running sidecar says of itself.

use std::fmt::Write as _;
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
    if status["ready"] == true { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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

fn for_people(status: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("none").to_owned();
    let mut shown = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _infallible = writeln!(shown, "{name:<12}{value}");
    };
    line("ready", if status["ready"] == true { "yes".to_owned() } else { "no".to_owned() });
    for missing in status["missing"].as_array().into_iter().flatten() {
        line("", text(missing));
    }
    let identity = &status["identity"];
    line("identity", text(&identity["id"]));
    line("  until", text(&identity["not_after"]));
    line("  rotations", identity["rotations"].to_string());
    if let Some(reason) = identity["last_error"]["reason"].as_str() {
        line("  trouble", reason.to_owned());
    }
    let policy = &status["policy"];
    line("policy", text(&policy["digest"]));
    if let Some(error) = policy["last_error"].as_str() {
        line("  trouble", error.to_owned());
    }
    let connections = &status["connections"];
    line("connections", format!("{} live, {} begun", connections["live"], connections["begun"]));
    for refusal in status["refusals"].as_array().into_iter().flatten().take(REFUSALS_SHOWN) {
        let of = |key: &str| text(&refusal[key]);
        line("refused", format!("{} -> {} ({}, {}x)", of("from"), of("to"), of("reason"), refusal["count"]));
        line("", of("detail"));
    }
    shown.trim_end().to_owned()
}

#[expect(clippy::print_stdout, reason = "the answer of a command goes to stdout")]
fn print(text: &str) {
    println!("{text}");
}
