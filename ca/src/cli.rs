//! The command line.

mod admin;
mod audit;
mod author;
mod bundle;
mod cert;
mod identity;
mod policy;
mod serve;
mod status;
mod token;

use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use postern_policy_analysis::text::escaped;

/// A small certificate authority for short-lived SPIFFE certificates.
#[derive(Debug, Parser)]
#[command(name = "postern-ca", version, arg_required_else_help = true)]
#[command(after_help = "A first run:\n  \
    postern-ca serve --trust-domain shop.example --data-dir ca &\n  \
    postern-ca token create --id orders --data-dir ca > orders.token\n  \
    postern-sidecar run --config sidecar.toml        # with join_token_file = \"orders.token\"\n\n\
    Exit codes: 0 yes, 1 no (refused, not found, cannot be done), 2 wrong usage or configuration.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
    /// Join tokens for the first enrolment of workloads.
    #[command(subcommand)]
    Token(token::Command),
    /// The trust bundle: the roots of the trust domain.
    #[command(subcommand)]
    Bundle(bundle::Command),
    /// Issued certificates.
    #[command(subcommand)]
    Cert(cert::Command),
    /// The audit log of every decision, granted or refused.
    #[command(subcommand)]
    Audit(audit::Command),
    /// Revoke and restore identities.
    #[command(subcommand)]
    Identity(identity::Command),
    /// The policy: check, test, compare, apply and explain it.
    #[command(subcommand)]
    Policy(policy::Command),
    Status(status::Args),
}

/// Output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Text.
    Text,
    /// JSON.
    Json,
}

/// Reads the command line, does what it says, and returns the exit code.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(args) => serve::run(args),
        Command::Token(command) => token::run(command),
        Command::Bundle(command) => bundle::run(command),
        Command::Cert(command) => cert::run(command),
        Command::Audit(command) => audit::run(command),
        Command::Identity(command) => identity::run(command),
        Command::Policy(command) => policy::run(command),
        Command::Status(args) => status::run(args),
    }
}

/// The answer of a command, on standard output. A reader that is gone, as with `| head`, has seen enough; that an
/// answer is lost on a full disk must be known.
fn print(text: &str) -> std::io::Result<()> {
    print_exactly(&format!("{text}\n"))
}

/// The same, without an end of line that the text does not have.
fn print_exactly(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}
