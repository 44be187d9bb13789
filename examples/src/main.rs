//! The quickstart: a CA and three services with a sidecar each, as real processes on loopback, shown at work.

mod app;
mod checks;
mod http;
mod load;
mod peers;
mod process;
mod programs;
mod shop;
mod table;

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use shop::Shop;
use table::{Format, Table};

/// By convention, the exit code after Ctrl-C.
const INTERRUPTED: u8 = 130;

/// See Postern at work: a CA and three services with a sidecar each, on this machine, for less than a minute.
///
/// Exit code 0: every line is as expected. Exit code 1: a line is not, and it is named.
#[derive(Debug, Parser)]
#[command(name = "quickstart", version)]
struct Cli {
    /// Leave everything running at the end, until Ctrl-C, and print commands to try.
    #[arg(long)]
    keep: bool,
    /// How to print what happens.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Be one of the services. The quickstart starts itself in this role.
    #[command(hide = true)]
    App { name: String, listen: SocketAddr },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // One thread: the programs' lives are tied to the thread that starts them, see `process`.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(run(cli)));
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("quickstart: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    if let Some(Role::App { name, listen }) = cli.role {
        app::serve(&name, listen).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    // Whichever ends first: what was started is stopped and what was written is removed when `show` is dropped.
    tokio::select! {
        shown = show(cli.keep, cli.format) => shown,
        _ = terminate.recv() => Ok(ExitCode::from(INTERRUPTED)),
        _ = interrupt.recv() => Ok(ExitCode::from(INTERRUPTED)),
    }
}

async fn show(keep: bool, format: Format) -> anyhow::Result<ExitCode> {
    let programs = programs::find()?;
    let mut table = Table::new(format);
    let mut shop = Shop::start(programs, &mut table).await?;
    checks::run(&mut shop, &mut table).await?;
    let failed = table.finish();
    if keep {
        shop.invite();
        std::future::pending::<()>().await;
    }
    shop.stop().await;
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
