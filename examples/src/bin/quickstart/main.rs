//! Postern on one machine in one command: a CA, three services, and what they may and may not do.

mod app;
mod authority;
mod calls;
mod client;
mod events;
mod leash;
mod load;
mod mesh;
mod place;
mod ports;
mod process;
mod programs;
mod rotation;
mod scenario;
mod show;
mod sidecar;
mod stranger;
mod table;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Start a CA and three services with a sidecar each, try what should and should not work, and print what happens.
#[derive(Debug, Parser)]
#[command(name = "quickstart", args_conflicts_with_subcommands = true)]
#[command(
    after_help = "Exit codes: 0 every line is as expected, 1 some line is not, 2 wrong usage, 130 interrupted."
)]
struct Cli {
    #[command(flatten)]
    options: show::Options,
    #[command(subcommand)]
    part: Option<Part>,
}

/// What the quickstart does in processes of its own.
#[derive(Debug, Subcommand)]
enum Part {
    /// Be a service as small as can be, to try sidecars with.
    App(app::App),
    #[command(hide = true)]
    Leash {
        parent: u32,
        program: PathBuf,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    #[command(hide = true)]
    Janitor { dir: PathBuf },
}

/// On one thread, the main one: what is started from another would die with that (see `leash`).
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Cli { options, part } = Cli::parse();
    let done = match part {
        None => return show::run(&options).await,
        Some(Part::App(app)) => app.run().await,
        Some(Part::Leash { parent, program, args }) => {
            leash::leashed(parent, &program, &args).map(|never| match never {})
        }
        Some(Part::Janitor { dir }) => leash::janitor(&dir),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quickstart: {error}");
            ExitCode::FAILURE
        }
    }
}
