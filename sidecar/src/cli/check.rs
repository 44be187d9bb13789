//! `postern-sidecar check`: checks what `run` would use, without opening a port or contacting the CA.

mod findings;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use postern_server::process::WorkerThreads;
use serde::Serialize;

use super::Format;
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::error_text::one_line;
use findings::Findings;

/// Check configuration, policy and identity as `run` would read them, and report every problem.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration file.
    #[arg(long)]
    config: PathBuf,
}

/// Exit code: 0 valid, perhaps with warnings; 1 a problem outside the configuration file; 2 an invalid configuration.
pub(super) fn run(args: &Args, format: Format) -> ExitCode {
    let report = WorkerThreads::from_environment()
        .map_err(|error| Report::bad_configuration(vec![error.to_string()]))
        .and_then(|_| Config::load(&args.config).map_err(|error| Report::bad_configuration(error.messages())))
        .and_then(|config| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| Report::broken(&error))?;
            let findings = runtime.block_on(Findings::of(&config, SystemClock.now()));
            Ok(Report::new(findings))
        });
    let report = report.unwrap_or_else(|failed| failed);
    report.print(format);
    ExitCode::from(report.verdict as u8)
}

/// The JSON form: `{"verdict", "facts": [text], "warnings": [text], "errors": [text]}`.
#[derive(Debug, Serialize)]
struct Report {
    verdict: Verdict,
    /// Findings without a problem.
    facts: Vec<String>,
    warnings: Vec<String>,
    errors: Vec<String>,
}

/// The verdict, with its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Good = 0,
    Errors = 1,
    BadConfiguration = 2,
}

impl Report {
    fn new(findings: Findings) -> Self {
        let Findings { facts, warnings, errors } = findings;
        let verdict = if errors.is_empty() { Verdict::Good } else { Verdict::Errors };
        Self { verdict, facts, warnings, errors }
    }

    fn bad_configuration(errors: Vec<String>) -> Self {
        Self { verdict: Verdict::BadConfiguration, facts: Vec::new(), warnings: Vec::new(), errors }
    }

    fn broken(error: &io::Error) -> Self {
        Self {
            verdict: Verdict::Errors,
            facts: Vec::new(),
            warnings: Vec::new(),
            errors: vec![one_line(error)],
        }
    }

    fn print(&self, format: Format) {
        // Ignore a closed pipe.
        let _closed = match format {
            Format::Text => self.print_text(),
            Format::Json => self.print_json(),
        };
    }

    fn print_text(&self) -> io::Result<()> {
        for fact in &self.facts {
            writeln!(io::stdout(), "{fact}")?;
        }
        for warning in &self.warnings {
            writeln!(io::stderr(), "warning: {warning}")?;
        }
        for error in &self.errors {
            writeln!(io::stderr(), "error: {error}")?;
        }
        Ok(())
    }

    fn print_json(&self) -> io::Result<()> {
        let json = serde_json::to_string_pretty(self)?;
        writeln!(io::stdout(), "{json}")
    }
}
