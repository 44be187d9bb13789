//! `postern-ca serve`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use postern_proto::identity::TrustDomain;
use postern_server::process::{EXIT_FAILED, EXIT_USAGE, WorkerThreads};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};

use super::Format;
use crate::config::{Config, LISTEN_DEFAULT, Log, admin_socket_in};

/// Log lines that wait for a reader; further ones are dropped, so that a blocked pipe never stalls the CA.
const LOG_LINES_WAITING_MAX: usize = 16_384;

/// Run the certificate authority until SIGTERM or Ctrl-C. The first start creates the root and the issuer.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    postern-ca serve --trust-domain shop.example --data-dir ca\n  \
    postern-ca serve --config ca.toml\n\n\
    ca.example.toml explains every key of the configuration file.\n\n\
    SIGTERM: no new calls, then, after drain_deadline, none at all; exit code 0. A second SIGTERM ends it at once; exit\n\
    code 4. Exit code 1: it could not start. 2: the configuration or the environment is bad. 3: something hung at the\n\
    deadline.")]
pub(super) struct Args {
    /// The configuration file.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["trust_domain", "data_dir", "listen", "admin_socket"])]
    config: Option<PathBuf>,
    /// Trust domain of all identities.
    #[arg(long, value_name = "TD", value_parser = TrustDomain::new, requires = "data_dir", required_unless_present = "config")]
    trust_domain: Option<TrustDomain>,
    /// Directory of keys and records.
    #[arg(long, value_name = "DIR", requires = "trust_domain", required_unless_present = "config")]
    data_dir: Option<PathBuf>,
    /// Address for workloads.
    #[arg(long, value_name = "ADDRESS", default_value_t = LISTEN_DEFAULT)]
    listen: SocketAddr,
    /// Path of the admin socket [default: DIR/admin.sock]
    #[arg(long, value_name = "PATH")]
    admin_socket: Option<PathBuf>,
    /// Log format on standard error [default: text, or the configuration file's]
    #[arg(long, value_enum, value_name = "FORMAT")]
    log_format: Option<Format>,
}

pub(super) fn run(args: Args) -> ExitCode {
    let threads = match WorkerThreads::from_environment() {
        Ok(threads) => threads,
        Err(error) => {
            eprintln!("{error}");
            return EXIT_USAGE.into();
        }
    };
    let log_format = args.log_format;
    let mut config = match configuration(args) {
        Ok(config) => config,
        Err(problem) => {
            eprintln!("{problem}");
            return EXIT_USAGE.into();
        }
    };
    config.log.json = log_format.map_or(config.log.json, |format| format == Format::Json);
    let _flushed_at_end = log_to_stderr(config.log);
    let report = |error: anyhow::Error| eprintln!("postern-ca: {error:#}");
    match postern_server::process::run(threads, |shutdown| crate::serve::serve(config, shutdown)) {
        Ok(outcome) => outcome.exit_code(report),
        Err(error) => {
            report(error.into());
            EXIT_FAILED.into()
        }
    }
}

fn configuration(args: Args) -> Result<Config, String> {
    if let Some(file) = &args.config {
        return Config::load(file).map_err(|error| error.messages().join("\n"));
    }
    let (Some(trust_domain), Some(data_dir)) = (args.trust_domain, args.data_dir) else {
        return Err("give --config FILE, or --trust-domain TD and --data-dir DIR".to_owned());
    };
    let mut config = Config::new(trust_domain, data_dir);
    config.listen = args.listen;
    config.admin_socket = args.admin_socket.unwrap_or_else(|| admin_socket_in(&config.data_dir));
    Ok(config)
}

fn log_to_stderr(log: Log) -> WorkerGuard {
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LOG_LINES_WAITING_MAX)
        .finish(std::io::stderr());
    let builder = tracing_subscriber::fmt()
        .with_writer(writer)
        .with_max_level(log.level)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false);
    if log.json {
        builder.json().flatten_event(true).init()
    } else {
        builder.init()
    }
    guard
}
