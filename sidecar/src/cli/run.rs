//! `postern-sidecar run`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use crate::admin::LogLinesDropped;
use crate::config::Config;
use crate::holder::in_one_line;
use crate::log::Logging;

/// Stand beside a service until told to end (SIGTERM or Ctrl-C).
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  postern-sidecar run --config sidecar.toml\n\n\
    SIGTERM: not ready, then no new connections, then, after the deadline, none at all; exit code 0.\n\
    A second SIGTERM cuts what is open at once. SIGHUP looks at the policy file now.\n\
    With [restart] in the configuration, another process of the same takes over from one that runs, which then drains.\n\
    Exit code 1: it could not start. Exit code 2: the configuration is bad.")]
pub(super) struct Args {
    /// The configuration file; sidecar.example.toml explains every key.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub(super) fn run(args: &Args) -> ExitCode {
    let config = match Config::load(&args.config) {
        Ok(config) => config,
        Err(error) => {
            error.messages().iter().for_each(|message| eprintln!("{message}"));
            return ExitCode::from(2);
        }
    };
    let logging = match Logging::start(config.log) {
        Ok(logging) => logging,
        Err(error) => {
            eprintln!("postern-sidecar: cannot start the log: {error}");
            return ExitCode::FAILURE;
        }
    };
    let dropped = LogLinesDropped(Arc::new(logging.dropped()));
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the runtime: {error}"))
        .and_then(|runtime| {
            runtime.block_on(crate::run::run(config, dropped)).map_err(|error| in_one_line(&error))
        });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("postern-sidecar: {error}");
            ExitCode::FAILURE
        }
    }
}
