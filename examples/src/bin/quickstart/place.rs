//! The directory in which everything happens, and who removes it.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use tokio::process::{Child, Command};

/// A fresh directory. The janitor, a process of its own, removes it as soon as the quickstart ends, in whatever way.
#[derive(Debug)]
pub(crate) struct Place {
    path: PathBuf,
    janitor: Child,
}

impl Place {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("postern-quickstart-").tempdir()?;
        let mut janitor = Command::new(std::env::current_exe()?);
        janitor.arg("janitor").arg(dir.path()).stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
        let janitor = janitor.spawn().context("cannot start the janitor")?;
        Ok(Self { path: dir.keep(), janitor })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until it is removed.
    pub(crate) async fn clear(mut self) -> anyhow::Result<()> {
        drop(self.janitor.stdin.take());
        let status = self.janitor.wait().await?;
        ensure!(status.success(), "{} is not removed: the janitor ended with {status}", self.path.display());
        Ok(())
    }
}
