//! One program as a child process: on a leash, its output in a file, ended as an operator ends it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::leash;

/// From SIGTERM until it is killed.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// So much of a program's output is shown when it fails.
const LAST_LINES: usize = 6;
const POLL: Duration = Duration::from_millis(20);

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts `program` with its output in `dir/NAME.log`.
    pub(crate) fn start(
        name: &str,
        dir: &Path,
        program: &Path,
        args: impl Into<Vec<OsString>>,
    ) -> anyhow::Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let output = std::fs::File::options().create(true).append(true).open(&log)?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(leash::arguments(program.to_owned(), args.into()))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // Ctrl-C is for the quickstart alone, which then ends everything in order.
            .process_group(0)
            .kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.to_owned(), log, child })
    }

    /// Asks again and again until `ask` has an answer; gives up when the program ends or after `patience`.
    pub(crate) async fn until<T>(
        &mut self,
        what: &str,
        patience: Duration,
        ask: impl AsyncFn(&Self) -> Option<T>,
    ) -> anyhow::Result<T> {
        let asked = tokio::time::timeout(patience, async {
            loop {
                if let Some(answer) = ask(self).await {
                    return Ok(answer);
                }
                if let Some(status) = self.child.try_wait()? {
                    bail!("{} ended ({status}); its last words:\n{}", self.name, self.last_words());
                }
                tokio::time::sleep(POLL).await;
            }
        });
        match asked.await {
            Ok(answer) => answer,
            Err(_) => bail!(
                "{} is not {what} after {patience:?}; its last words:\n{}",
                self.name,
                self.last_words()
            ),
        }
    }

    /// How often it, and its forerunners of the same name, have printed `text`.
    pub(crate) fn count_printed(&self, text: &str) -> usize {
        self.output().matches(text).count()
    }

    fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_else(|error| format!("{}: {error}", self.log.display()))
    }

    fn last_words(&self) -> String {
        let output = self.output();
        let lines: Vec<_> = output.lines().collect();
        lines.iter().skip(lines.len().saturating_sub(LAST_LINES)).copied().collect::<Vec<_>>().join("\n")
    }

    /// SIGTERM now; [`Self::end`] waits.
    pub(crate) fn terminate(&self) {
        let pid = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(pid) = pid
            && let Err(error) = kill_process(pid, Signal::TERM)
        {
            eprintln!("cannot end {}: {error}", self.name);
        }
    }

    /// Ends it in order, or kills it where that takes too long.
    pub(crate) async fn end(&mut self) -> std::io::Result<ExitStatus> {
        self.terminate();
        match tokio::time::timeout(END_PATIENCE, self.child.wait()).await {
            Ok(status) => status,
            Err(_) => {
                self.child.kill().await?;
                self.child.wait().await
            }
        }
    }
}
