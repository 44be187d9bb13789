//! A CA and three services with a sidecar each, every one a process of its own, in one directory that goes with them.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::authority::Authority;
use crate::ports;
use crate::process::Process;
use crate::programs::Programs;
use crate::sidecar::Sidecar;

/// Who may call whom: the file that the sidecars get.
pub(crate) const POLICY: &str = include_str!("../../../quickstart/policy.toml");
/// From start to an identity, a policy and open listeners, or to a listening app.
const READY_PATIENCE: Duration = Duration::from_secs(15);

/// An app and its sidecar.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) sidecar: Sidecar,
    /// Where operators and customers reach the app.
    pub(crate) app: SocketAddr,
    /// Where peers reach its sidecar.
    pub(crate) inbound: SocketAddr,
    app_process: Process,
}

impl Service {
    async fn ready(&mut self) -> anyhow::Result<()> {
        self.sidecar.ready(READY_PATIENCE).await?;
        let listens = async |app: &Process| (app.count_printed("listens on") > 0).then_some(());
        self.app_process.until("listening", READY_PATIENCE, listens).await
    }
}

/// Everything that runs.
#[derive(Debug)]
pub(crate) struct Mesh {
    pub(crate) ca: Authority,
    pub(crate) orders: Service,
    pub(crate) payments: Service,
    pub(crate) reports: Service,
    /// Where the app `orders` reaches `payments`.
    pub(crate) orders_to_payments: SocketAddr,
    policy: PathBuf,
}

/// One `[[outbound]]`: the name under which the app asks, where it asks, and where that leads.
struct Outbound {
    asked_as: &'static str,
    listen: SocketAddr,
    to: SocketAddr,
}

impl Mesh {
    /// Starts everything, and waits until all of it is ready.
    pub(crate) async fn start(programs: &Programs, dir: &Path) -> anyhow::Result<Self> {
        let policy = dir.join("policy.toml");
        std::fs::write(&policy, POLICY)?;
        let ca = Authority::start(dir, &programs.ca, ports::free()?).await?;
        let (payments, reports) = (ports::free()?, ports::free()?);
        let outbound = |asked_as, to| anyhow::Ok(Outbound { asked_as, listen: ports::free()?, to });
        let right = outbound("payments", payments)?;
        // The address book is wrong here: who answers there is reports.
        let wrong = outbound("payments-misdirected", reports)?;
        let orders_to_payments = right.listen;

        let start = Start { dir, programs, ca: &ca };
        let mut mesh = Self {
            orders: start.service("orders", ports::free()?, &[right, wrong]).await?,
            payments: start.service("payments", payments, &[]).await?,
            reports: start.service("reports", reports, &[outbound("payments", payments)?]).await?,
            orders_to_payments,
            policy,
            ca,
        };
        for service in [&mut mesh.orders, &mut mesh.payments, &mut mesh.reports] {
            service.ready().await?;
        }
        Ok(mesh)
    }

    /// Replaces the policy as an editor does, whole at once; the sidecars see it by themselves.
    pub(crate) fn replace_policy(&self, text: &str) -> std::io::Result<()> {
        let new = self.policy.with_extension("new");
        std::fs::write(&new, text)?;
        std::fs::rename(&new, &self.policy)
    }

    pub(crate) fn sidecars(&self) -> [&Sidecar; 3] {
        [&self.orders.sidecar, &self.payments.sidecar, &self.reports.sidecar]
    }

    /// Ends everything in order: apps, then sidecars, then the CA.
    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        let services = [&mut self.orders, &mut self.payments, &mut self.reports];
        services.iter().for_each(|service| service.sidecar.process.terminate());
        for service in services {
            service.app_process.end().await?;
            service.sidecar.process.end().await?;
        }
        self.ca.stop().await
    }
}

/// What every service needs to start.
struct Start<'a> {
    dir: &'a Path,
    programs: &'a Programs,
    ca: &'a Authority,
}

impl Start<'_> {
    async fn service(
        &self,
        name: &'static str,
        inbound: SocketAddr,
        outbounds: &[Outbound],
    ) -> anyhow::Result<Service> {
        let (app, admin) = (ports::free()?, ports::free()?);
        let token = self.ca.run(&["token", "create", "--id", name]).await?;
        std::fs::write(self.dir.join(format!("{name}.token")), token)?;
        let config = self.dir.join(format!("{name}.toml"));
        std::fs::write(&config, sidecar_toml(name, self.ca.address, [inbound, app, admin], outbounds))?;

        let args = ["run".into(), "--config".into(), config.into()];
        let process = Process::start(&format!("{name}-sidecar"), self.dir, &self.programs.sidecar, args)?;
        let peers =
            outbounds.iter().map(|outbound| format!("--peer={}={}", outbound.asked_as, outbound.listen));
        let args = ["app".into(), name.into(), format!("--listen={app}").into()];
        let args: Vec<OsString> = args.into_iter().chain(peers.map(OsString::from)).collect();
        let app_process = Process::start(&format!("{name}-app"), self.dir, &std::env::current_exe()?, args)?;
        Ok(Service { sidecar: Sidecar { name, admin, process }, app, inbound, app_process })
    }
}

fn sidecar_toml(
    name: &str,
    ca: SocketAddr,
    [inbound, app, admin]: [SocketAddr; 3],
    outbounds: &[Outbound],
) -> String {
    let head = format!(
        "[identity]\nca = \"https://{ca}\"\njoin_token_file = \"{name}.token\"\n\n\
         [policy]\nfile = \"policy.toml\"\n\n\
         [admin]\nlisten = \"{admin}\"\n\n\
         [shutdown]\ndrain_delay = \"0s\"\n\n\
         [[inbound]]\nname = \"api\"\nlisten = \"{inbound}\"\napp = \"{app}\"\nprotocol = \"http\"\n"
    );
    let outbounds = outbounds.iter().map(|Outbound { listen, to, .. }| {
        format!("\n[[outbound]]\nlisten = \"{listen}\"\nservice = \"payments\"\nto = [\"{to}\"]\nprotocol = \"http\"\n")
    });
    head + &outbounds.collect::<String>()
}
