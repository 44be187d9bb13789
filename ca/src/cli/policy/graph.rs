//! `postern-ca policy graph`: who may call whom, as a picture or as text for other tools.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::ValueEnum;
use postern_policy_analysis::graph::{Graph, format_dot, format_json, format_svg};
use time::OffsetDateTime;

use super::super::print;
use super::{must_load, time_of};

/// Draw who may call whom.
///
/// Exit code: 0 drawn; 1 too large for a picture; 2 the file cannot be read, or the output not be written.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  postern-ca policy graph policy.toml --output policy.svg")]
pub(in crate::cli) struct Args {
    file: PathBuf,
    /// Format [default: by the ending of --output, otherwise dot]
    #[arg(long, value_enum)]
    format: Option<Drawing>,
    /// Output file [default: standard output]
    #[arg(long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// Evaluate at this time, RFC 3339 [default: now]
    #[arg(long, value_name = "RFC3339", value_parser = time_of)]
    at: Option<OffsetDateTime>,
}

/// What a graph is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Drawing {
    /// Graphviz.
    Dot,
    /// Picture with the rules as tooltips.
    Svg,
    /// JSON.
    Json,
}

impl Drawing {
    fn of_path(path: &Path) -> Option<Self> {
        Self::from_str(path.extension()?.to_str()?, true).ok()
    }
}

pub(super) fn run(Args { file, format, output, at }: &Args) -> anyhow::Result<ExitCode> {
    let policy = must_load(file)?;
    let graph = Graph::of(&policy, at.unwrap_or_else(OffsetDateTime::now_utc));
    let drawing = format.or_else(|| Drawing::of_path(output.as_deref()?)).unwrap_or(Drawing::Dot);
    let drawn = match drawing {
        Drawing::Dot => format_dot(&graph),
        Drawing::Json => format_json(&graph, &policy).to_string(),
        Drawing::Svg => match format_svg(&graph, &policy) {
            Ok(drawn) => drawn,
            Err(too_large) => {
                eprintln!("postern-ca: {too_large}; --format dot and json have no bound");
                return Ok(ExitCode::FAILURE);
            }
        },
    };
    match output {
        Some(path) => std::fs::write(path, drawn + "\n").with_context(|| path.display().to_string())?,
        None => print(&drawn)?,
    }
    Ok(ExitCode::SUCCESS)
}
