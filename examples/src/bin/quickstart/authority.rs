//! The real `postern-ca`, started, asked, stopped and started again.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use postern_proto::identity::{TrustBundles, TrustDomain};
use tokio::process::Command;

use crate::process::Process;

pub(crate) const TRUST_DOMAIN: &str = "shop.example";
/// Certificates live so long, so that many rotations fit into a minute. The usual hour is `svid_ttl`'s default.
const SVID_TTL: &str = "12s";
const START_PATIENCE: Duration = Duration::from_secs(10);

/// The certificate authority.
#[derive(Debug)]
pub(crate) struct Authority {
    pub(crate) address: SocketAddr,
    dir: PathBuf,
    program: PathBuf,
    process: Process,
}

impl Authority {
    /// Starts it in `dir`, and waits until it serves.
    pub(crate) async fn start(dir: &Path, program: &Path, address: SocketAddr) -> anyhow::Result<Self> {
        let config = format!(
            "trust_domain = \"{TRUST_DOMAIN}\"\ndata_dir = \"ca\"\nlisten = \"{address}\"\nsvid_ttl = \"{SVID_TTL}\"\n"
        );
        std::fs::write(dir.join("ca.toml"), config)?;
        let process = spawn(dir, program)?;
        let mut ca = Self { address, dir: dir.to_owned(), program: program.to_owned(), process };
        ca.serving(1).await?;
        Ok(ca)
    }

    /// Ends it as an operator does.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        let status = self.process.end().await?;
        ensure!(status.success(), "postern-ca ended with {status}");
        Ok(())
    }

    /// Starts it again on the same data and address.
    pub(crate) async fn start_again(&mut self) -> anyhow::Result<()> {
        let starts_before = self.process.count_printed(LISTENING);
        self.process = spawn(&self.dir, &self.program)?;
        self.serving(starts_before + 1).await
    }

    async fn serving(&mut self, starts: usize) -> anyhow::Result<()> {
        self.process
            .until("serving", START_PATIENCE, async |process| {
                (process.count_printed(LISTENING) >= starts).then_some(())
            })
            .await
    }

    /// Runs one of its commands, as an operator types them, and returns what it prints.
    pub(crate) async fn run(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.program);
        command.args(args).arg("--data-dir").arg(self.dir.join("ca")).kill_on_drop(true);
        let output = command.output().await?;
        if !output.status.success() {
            bail!("postern-ca {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim_end());
        }
        String::from_utf8(output.stdout).context("postern-ca printed something else than text")
    }

    /// Runs a command line as it stands, where the policy is and `postern-ca` is found.
    pub(crate) async fn shell(&self, command: &str) -> anyhow::Result<Output> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let ours = self.program.parent().map(Path::to_owned).into_iter();
        let path = std::env::join_paths(ours.chain(std::env::split_paths(&path)))?;
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).current_dir(&self.dir).env("PATH", path).kill_on_drop(true);
        Ok(shell.output().await?)
    }

    /// Whom everybody believes.
    pub(crate) async fn bundles(&self) -> anyhow::Result<Arc<TrustBundles>> {
        let pem = self.run(&["bundle", "show"]).await?;
        Ok(Arc::new(TrustBundles::from_pem(&TrustDomain::new(TRUST_DOMAIN)?, pem.as_bytes())?))
    }
}

const LISTENING: &str = "listening on";

fn spawn(dir: &Path, program: &Path) -> anyhow::Result<Process> {
    Process::start("ca", dir, program, ["serve".into(), "--config".into(), dir.join("ca.toml").into()])
}
