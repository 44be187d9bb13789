//! `postern-sidecar run`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use postern_server::process::{EXIT_FAILED, EXIT_USAGE, WorkerThreads};

use crate::admin::LogLinesDropped;
use crate::config::Config;
use crate::error_text::one_line;
use crate::observability::log::Logging;

/// Run the proxy until SIGTERM or Ctrl-C.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  postern-sidecar run --config sidecar.toml\n\n\
    SIGTERM: not ready, then no new connections, then, after the deadline, none at all; exit code 0.\n\
    A second SIGTERM ends it at once; exit code 4. SIGHUP looks at the policy file now.\n\
    With [restart] in the configuration, another process of the same takes over from one that runs, which then drains.\n\
    Exit code 1: it could not start. 2: the configuration or the environment is bad. 3: something hung at the deadline.")]
pub(super) struct Args {
    /// The configuration file; sidecar.example.toml explains every key.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub(super) fn run(args: &Args) -> ExitCode {
    let threads = match WorkerThreads::from_environment() {
        Ok(threads) => threads,
        Err(error) => {
            eprintln!("{error}");
            return EXIT_USAGE.into();
        }
    };
    let config = match Config::load(&args.config) {
        Ok(config) => config,
        Err(error) => {
            error.messages().iter().for_each(|message| eprintln!("{message}"));
            return EXIT_USAGE.into();
        }
    };
    let logging = match Logging::start(config.log) {
        Ok(logging) => logging,
        Err(error) => {
            eprintln!("postern-sidecar: cannot start the log: {error}");
            return EXIT_FAILED.into();
        }
    };
    let dropped = LogLinesDropped(Arc::new(logging.dropped()));
    let report = |error: &dyn std::error::Error| eprintln!("postern-sidecar: {}", one_line(error));
    match postern_server::process::run(threads, |shutdown| crate::lifecycle::run(config, dropped, shutdown)) {
        Ok(outcome) => outcome.exit_code(|error| report(&error)),
        Err(error) => {
            report(&error);
            EXIT_FAILED.into()
        }
    }
}
