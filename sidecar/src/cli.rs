//! The command line.

mod check;
mod run;
mod status;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

/// The sidecar proxy: renews its identity, wraps traffic in mutual TLS and admits only allowed peers.
#[derive(Debug, Parser)]
#[command(name = "postern-sidecar", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Output format.
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Check(check::Args),
    Status(status::Args),
    Verify(verify::Args),
}

/// Output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Text.
    Text,
    /// JSON.
    Json,
}

/// Reads the command line, does what it says, and returns the exit code: 0 yes, 1 no, 2 usage.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::run(&args, cli.format),
        Command::Status(args) => status::run(&args, cli.format),
        Command::Verify(args) => verify::run(&args, cli.format),
    }
}
