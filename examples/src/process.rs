//! A child process that never outlives the quickstart.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::process::{Child, Command};

/// How long a program may take to end when it is asked to.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running program whose output goes to a file.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program. It is killed when this is dropped, and by the kernel should the quickstart itself be killed:
    /// that is what `setpriv` arranges.
    pub(crate) fn start<S: AsRef<OsStr>>(
        name: &str,
        program: &Path,
        args: impl IntoIterator<Item = S>,
        log: PathBuf,
    ) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(&log)?;
        let mut command = if Path::new("/usr/bin/setpriv").exists() {
            let mut command = Command::new("/usr/bin/setpriv");
            command.args(["--pdeathsig", "KILL", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.args(args).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).kill_on_drop(true);
        // Ctrl-C goes to the quickstart alone, which then ends the others in order.
        command.process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Fails if the program has ended by itself, and shows what it said.
    pub(crate) fn check_alive(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let said = std::fs::read_to_string(&self.log).unwrap_or_default();
            bail!("{} ended with {status}; it said:\n{said}", self.name);
        }
        Ok(())
    }

    /// Asks it to end (SIGTERM), waits, and kills it if it does not.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        if let Some(pid) = self.child.id() {
            Command::new("kill").arg(pid.to_string()).status().await?;
        }
        if tokio::time::timeout(PATIENCE, self.child.wait()).await.is_err() {
            self.child.kill().await?;
        }
        Ok(())
    }

    /// Ends it at once and waits until it is gone.
    pub(crate) async fn kill(&mut self) {
        // It may have ended by itself, which is as good.
        let _gone = self.child.kill().await;
    }
}
