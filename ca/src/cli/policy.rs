//! `postern-ca policy`: the allow-list, read and questioned by the code that enforces it, and put in force.

mod apply;
mod check;
mod diff;
mod explain;
mod graph;
mod history;
mod replay;
mod rollback;
mod show;
mod source;
mod status;
mod suggest;
mod test;
mod wait;

use std::io::{BufReader, stdin};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use postern_policy_analysis::access_log::{LINE_BYTES_MAX, RecordedCalls};
use postern_proto::policy::{FILE_BYTES_MAX, Policy};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    Check(check::Check),
    Test(test::Test),
    Explain(explain::Explain),
    Diff(diff::Args),
    Graph(graph::Args),
    Replay(replay::Args),
    Suggest(suggest::Args),
    Apply(apply::Apply),
    Show(show::Show),
    History(history::History),
    Rollback(rollback::Rollback),
    Status(status::Status),
}

pub(super) fn run(command: Command) -> ExitCode {
    let done = match command {
        Command::Check(check) => check::run(&check),
        Command::Test(test) => test::run(&test),
        Command::Explain(explain) => explain::run(&explain),
        Command::Diff(args) => diff::run(&args),
        Command::Graph(args) => graph::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Suggest(args) => suggest::run(&args),
        Command::Apply(apply) => apply::run(apply),
        Command::Show(show) => Ok(show::run(show)),
        Command::History(history) => Ok(history::run(history)),
        Command::Rollback(rollback) => Ok(rollback::run(rollback)),
        Command::Status(status) => Ok(status::run(status)),
    };
    done.unwrap_or_else(|error| {
        eprintln!("postern-ca: {error:#}");
        ExitCode::from(2)
    })
}

/// The policy, or nothing after its problems have been told.
fn load(file: &Path) -> anyhow::Result<Option<Policy>> {
    match Policy::parse(&file.display().to_string(), &read(file)?) {
        Ok(policy) => Ok(Some(policy)),
        Err(problems) => {
            problems.iter().for_each(|problem| eprintln!("{problem}\n"));
            Ok(None)
        }
    }
}

/// The policy; one with errors ends the command, after they have been told.
fn must_load(file: &Path) -> anyhow::Result<Policy> {
    load(file)?.ok_or_else(|| anyhow!("{} is no policy", file.display()))
}

/// The file's text. One that is too large is read just so far that the reader says so.
fn read(file: &Path) -> anyhow::Result<String> {
    use std::io::Read as _;
    let limit = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).with_context(|| file.display().to_string())?;
    opened.take(limit).read_to_end(&mut bytes).with_context(|| file.display().to_string())?;
    String::from_utf8(bytes).with_context(|| format!("{} is not UTF-8 text", file.display()))
}

/// An access log's calls; `-` is standard input.
fn read_access_log(log: &Path) -> anyhow::Result<RecordedCalls> {
    let name = || log.display().to_string();
    if log == Path::new("-") {
        return RecordedCalls::read(BufReader::new(stdin().lock())).with_context(name);
    }
    let file = std::fs::File::open(log).with_context(name)?;
    RecordedCalls::read(BufReader::with_capacity(LINE_BYTES_MAX, file)).with_context(name)
}

fn time_of(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|error| format!("not an RFC 3339 time: {error}"))
}
