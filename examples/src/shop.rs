//! The shop: one CA, three services, three sidecars, in a directory that goes away.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use postern_proto::identity::{TrustBundles, TrustDomain};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::http;
use crate::process::Process;
use crate::programs::Programs;
use crate::table::{Table, print};

const TRUST_DOMAIN: &str = "shop.example";
const POLICY: &str = include_str!("../quickstart/policy.toml");
/// So short that a rotation can be watched; an hour is usual.
const SVID_TTL: &str = "10s";
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// Everything that runs. What is dropped last is the directory.
#[derive(Debug)]
pub(crate) struct Shop {
    programs: Programs,
    ca: Process,
    apps: Vec<Process>,
    pub(crate) payments: Sidecar,
    pub(crate) orders: Sidecar,
    pub(crate) reports: Sidecar,
    pub(crate) bundles: Arc<TrustBundles>,
    dir: TempDir,
}

/// One service's sidecar.
#[derive(Debug)]
pub(crate) struct Sidecar {
    pub(crate) name: &'static str,
    pub(crate) admin: SocketAddr,
    /// Where peers reach the service, if it can be called.
    pub(crate) inbound: Option<SocketAddr>,
    /// Where the service reaches others, in the order of its configuration.
    pub(crate) outbounds: Vec<SocketAddr>,
    process: Process,
}

impl Shop {
    /// Starts everything and waits until it is ready.
    pub(crate) async fn start(programs: Programs, table: &mut Table) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("postern-quickstart-").tempdir()?;
        std::fs::write(dir.path().join("policy.toml"), POLICY)?;
        table.progress("starting the CA");
        let listen = free_address()?;
        let config = format!(
            "trust_domain = \"{TRUST_DOMAIN}\"\ndata_dir = \"ca\"\nlisten = \"{listen}\"\nsvid_ttl = \"{SVID_TTL}\"\n"
        );
        std::fs::write(dir.path().join("ca.toml"), config)?;
        let mut ca = start_ca(&programs, &dir)?;
        let pem = bundle(&programs, &dir, &mut ca).await?;
        let bundles = Arc::new(TrustBundles::from_pem(&TrustDomain::new(TRUST_DOMAIN)?, pem.as_bytes())?);

        table.progress("starting three services and their sidecars");
        let mut apps = Vec::new();
        let app_address = free_address()?;
        for (name, address) in
            [("payments", app_address), ("orders", free_address()?), ("reports", free_address()?)]
        {
            let args = ["app".to_owned(), name.to_owned(), address.to_string()];
            apps.push(Process::start(
                name,
                &programs.quickstart,
                args,
                dir.path().join(format!("{name}.app.log")),
            )?);
        }
        let starter = Starter { programs: &programs, dir: &dir, ca: listen };
        let payments = starter.sidecar("payments", Some(app_address), &[]).await?;
        let to = payments.inbound.context("payments can be called")?;
        // The second is a trap: orders means reports, and payments answers.
        let orders = starter.sidecar("orders", None, &[("payments", to), ("reports", to)]).await?;
        let reports = starter.sidecar("reports", None, &[("payments", to)]).await?;
        let mut shop = Self { programs, ca, apps, payments, orders, reports, bundles, dir };
        for sidecar in [&mut shop.payments, &mut shop.orders, &mut shop.reports] {
            sidecar.wait_ready().await?;
        }
        Ok(shop)
    }

    /// Stops the CA as an operator does.
    pub(crate) async fn stop_ca(&mut self) -> anyhow::Result<()> {
        self.ca.stop().await
    }

    /// Starts it again on the same directory.
    pub(crate) fn restart_ca(&mut self) -> anyhow::Result<()> {
        self.ca = start_ca(&self.programs, &self.dir)?;
        Ok(())
    }

    /// Says what a person could type now.
    pub(crate) fn invite(&self) {
        let (orders, reports) = (self.orders.outbounds.first(), self.reports.outbounds.first());
        let mut lines = vec!["\nEverything is still running. In another terminal, try:".to_owned()];
        lines.extend(
            orders.map(|address| format!("  curl http://{address}/        # orders calls payments: allowed")),
        );
        lines.extend(
            reports
                .map(|address| format!("  curl http://{address}/        # reports calls payments: refused")),
        );
        lines.push(format!("  curl http://{}/status   # why, at the caller", self.reports.admin));
        lines.push(format!("  curl http://{}/status   # and at the one called", self.payments.admin));
        lines.push(format!("  curl http://{}/metrics", self.payments.admin));
        lines.push(format!(
            "  {} cert list --data-dir {}",
            self.programs.ca.display(),
            self.dir.path().join("ca").display()
        ));
        lines.push(format!(
            "  $EDITOR {}   # change who may call whom",
            self.dir.path().join("policy.toml").display()
        ));
        lines.push("Ctrl-C ends it and removes everything.\n".to_owned());
        print(&lines.join("\n"));
    }

    /// Ends all in order. What cannot be stopped is killed when it is dropped.
    pub(crate) async fn stop(mut self) {
        let sidecars = [&mut self.payments.process, &mut self.orders.process, &mut self.reports.process];
        for process in sidecars.into_iter().chain(&mut self.apps).chain([&mut self.ca]) {
            process.kill().await;
        }
    }
}

impl Sidecar {
    /// What it says of itself.
    pub(crate) async fn status(&self) -> anyhow::Result<Value> {
        let (_, body) = http::get(self.admin, "/status").await?;
        Ok(serde_json::from_str(&body)?)
    }

    /// How often its certificate was replaced.
    pub(crate) async fn rotations(&self) -> anyhow::Result<u64> {
        Ok(self.status().await?.pointer("/identity/rotations").and_then(Value::as_u64).unwrap_or_default())
    }

    async fn wait_ready(&mut self) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            self.process.check_alive()?;
            if matches!(http::get(self.admin, "/ready").await, Ok((200, _))) {
                return Ok(());
            }
            ensure!(tokio::time::Instant::now() < deadline, "{}'s sidecar does not get ready", self.name);
            tokio::time::sleep(POLL).await;
        }
    }
}

/// What every sidecar needs.
struct Starter<'a> {
    programs: &'a Programs,
    dir: &'a TempDir,
    ca: SocketAddr,
}

impl Starter<'_> {
    async fn sidecar(
        &self,
        name: &'static str,
        app: Option<SocketAddr>,
        calls: &[(&str, SocketAddr)],
    ) -> anyhow::Result<Sidecar> {
        let path = |suffix: &str| self.dir.path().join(format!("{name}.{suffix}"));
        let create = ["token", "create", "--id", name, "--data-dir"];
        let token =
            Command::new(&self.programs.ca).args(create).arg(self.dir.path().join("ca")).output().await?;
        ensure!(token.status.success(), "no token: {}", String::from_utf8_lossy(&token.stderr));
        std::fs::write(path("token"), token.stdout)?;
        let admin = free_address()?;
        let mut config = format!(
            "[identity]\nca = \"https://{}\"\njoin_token_file = \"{name}.token\"\nstate_dir = \"{name}.state\"\n\
             [policy]\nfile = \"policy.toml\"\n[admin]\nlisten = \"{admin}\"\n[shutdown]\ndrain_delay = \"0s\"\n",
            self.ca
        );
        let inbound = app.map(|_| free_address()).transpose()?;
        if let (Some(listen), Some(app)) = (inbound, app) {
            config.push_str(&format!(
                "[[inbound]]\nname = \"api\"\nlisten = \"{listen}\"\napp = \"{app}\"\nprotocol = \"tcp\"\n"
            ));
        }
        let mut outbounds = Vec::new();
        for (service, to) in calls {
            let listen = free_address()?;
            outbounds.push(listen);
            config.push_str(&format!(
                "[[outbound]]\nlisten = \"{listen}\"\nservice = \"{service}\"\nto = [\"{to}\"]\nprotocol = \"tcp\"\n"
            ));
        }
        std::fs::write(path("toml"), config)?;
        let args = ["run".into(), "--config".into(), path("toml")];
        let process = Process::start(name, &self.programs.sidecar, args, path("log"))?;
        Ok(Sidecar { name, admin, inbound, outbounds, process })
    }
}

fn start_ca(programs: &Programs, dir: &TempDir) -> anyhow::Result<Process> {
    let args: [PathBuf; 3] = ["serve".into(), "--config".into(), dir.path().join("ca.toml")];
    Process::start("the CA", &programs.ca, args, dir.path().join("ca.log"))
}

/// The trust bundle, as soon as the CA answers.
async fn bundle(programs: &Programs, dir: &TempDir, ca: &mut Process) -> anyhow::Result<String> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        ca.check_alive()?;
        let show = ["bundle", "show", "--data-dir"];
        let shown = Command::new(&programs.ca).args(show).arg(dir.path().join("ca")).output().await?;
        if shown.status.success() {
            return Ok(String::from_utf8(shown.stdout)?);
        }
        ensure!(tokio::time::Instant::now() < deadline, "the CA does not answer");
        tokio::time::sleep(POLL).await;
    }
}

/// An address on which nothing listens at the moment.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
