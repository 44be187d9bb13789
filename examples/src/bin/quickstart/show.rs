//! The whole show: build, start, try everything, and leave nothing behind.

use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::mesh::Mesh;
use crate::place::Place;
use crate::programs::Programs;
use crate::scenario;
use crate::table::{Format, Table};

/// How it is shown.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Leave everything running afterwards, until Ctrl-C, and print commands to try.
    #[arg(long)]
    keep: bool,
    /// For whom the table is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

const INTRODUCTION: &str = "\
Postern on loopback: a CA and three services (orders, payments, reports), each with its own sidecar.
By the policy orders may charge payments, and reports may look at charges. Certificates live for 12 s.";
/// As a shell reports a program that was interrupted: 128 + SIGINT.
const INTERRUPTED: u8 = 130;

/// Runs it, and says by the exit code how it went.
pub(crate) async fn run(options: &Options) -> ExitCode {
    let mut signals = match Interrupts::new() {
        Ok(signals) => signals,
        Err(error) => return failed(&error.into()),
    };
    let place = match Place::new() {
        Ok(place) => place,
        Err(error) => return failed(&error),
    };
    let shown = tokio::select! {
        shown = show(options, &place) => shown,
        () = signals.any() => Ok(Shown::Interrupted),
    };
    let ended = end(shown, place, &mut signals, options).await;
    ended.unwrap_or_else(|error| failed(&error))
}

enum Shown {
    /// To its end; what ran still runs.
    Whole(Box<Mesh>, Table),
    /// What ran is gone already.
    Interrupted,
}

async fn show(options: &Options, place: &Place) -> anyhow::Result<Shown> {
    let programs = Programs::find().await?;
    let mut table = Table::new(options.format);
    table.begin(INTRODUCTION)?;
    let mut mesh = Mesh::start(&programs, place.path()).await?;
    scenario::play(&mut mesh, &mut table).await?;
    Ok(Shown::Whole(Box::new(mesh), table))
}

async fn end(
    shown: anyhow::Result<Shown>,
    place: Place,
    signals: &mut Interrupts,
    options: &Options,
) -> anyhow::Result<ExitCode> {
    let code = match shown {
        Ok(Shown::Whole(mesh, table)) => {
            let well = table.end()?;
            if options.keep {
                table.remark(&suggestions(&mesh, &place))?;
                signals.any().await;
            }
            mesh.end().await?;
            if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Ok(Shown::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) => failed(&error),
    };
    place.clear().await?;
    Ok(code)
}

fn suggestions(mesh: &Mesh, place: &Place) -> String {
    format!(
        "\nEverything is up; Ctrl-C ends it and removes {}. Try:\n  \
         curl -X POST http://{}/ask/payments/charge    # orders charges\n  \
         curl -X POST http://{}/ask/payments/charge    # reports charges\n  \
         curl http://{}/status             # payments' sidecar: identity, policy, refusals\n  \
         curl http://{}/connections        # who is connected to it\n  \
         curl http://{}/metrics\n\
         Who may call whom is in {}; a change acts at once.",
        place.path().display(),
        mesh.orders.app,
        mesh.reports.app,
        mesh.payments.sidecar.admin,
        mesh.payments.sidecar.admin,
        mesh.payments.sidecar.admin,
        place.path().join("policy.toml").display(),
    )
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("quickstart: {error:#}");
    ExitCode::FAILURE
}

/// What tells us to end.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Interrupts {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}
