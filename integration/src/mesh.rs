//! The CA and the sidecars of one test, configured as an operator would: with files and command lines.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use postern_proto::identity::{TrustBundles, TrustDomain};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::ports::free_port;
use crate::program::{Program, ca_binary, eventually, sidecar_binary};

/// The trust domain of every mesh.
pub const TRUST_DOMAIN: &str = "shop.example";

/// One directory with everything in it, removed when dropped.
#[derive(Debug)]
pub struct Mesh {
    dir: TempDir,
}

/// How the CA of a test differs from the default.
#[derive(Debug, Clone)]
pub struct CaOptions {
    pub svid_ttl: &'static str,
    /// More lines for `ca.toml`.
    pub extra: &'static str,
}

impl Default for CaOptions {
    fn default() -> Self {
        Self { svid_ttl: "1h", extra: "" }
    }
}

/// A running `postern-ca`, which can be stopped and started again on the same data and port.
#[derive(Debug)]
pub struct Ca {
    pub address: SocketAddr,
    pub data_dir: PathBuf,
    config: PathBuf,
    pub program: Program,
}

/// What one sidecar shall be.
#[derive(Debug, Clone)]
pub struct SidecarSpec {
    name: String,
    /// What its files are called.
    files: String,
    inbounds: Vec<Listener>,
    outbounds: Vec<Listener>,
    identity: Option<String>,
    policy: Option<PathBuf>,
    extra: String,
    /// Of all listeners.
    protocol: &'static str,
    /// The program that is started; the one built from this tree unless given.
    binary: Option<PathBuf>,
}

#[derive(Debug, Clone)]
struct Listener {
    /// The inbound's own, or that of the outbound's service.
    name: String,
    /// One app, or all instances of a service.
    to: Vec<SocketAddr>,
    protocol: &'static str,
}

/// A running `postern-sidecar`.
#[derive(Debug)]
pub struct Sidecar {
    pub name: String,
    pub admin: SocketAddr,
    /// Where peers reach it, one for each inbound, in order.
    pub inbounds: Vec<SocketAddr>,
    /// Where its own app reaches others, one for each outbound, in order.
    pub outbounds: Vec<SocketAddr>,
    pub config: PathBuf,
    pub program: Program,
    binary: PathBuf,
}

impl Default for Mesh {
    fn default() -> Self {
        Self { dir: tempfile::Builder::new().prefix("postern-mesh-").tempdir().unwrap() }
    }
}

impl Mesh {
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file into the mesh's directory, whole at once as an editor or a deployment does.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        let new = path.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &path).unwrap();
        path
    }

    /// Starts a CA and waits until it serves.
    pub async fn ca(&self, options: CaOptions) -> Ca {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let data_dir = self.path().join("ca");
        let config = self.write(
            "ca.toml",
            &format!(
                "trust_domain = \"{TRUST_DOMAIN}\"\ndata_dir = \"{}\"\nlisten = \"{address}\"\nsvid_ttl = \"{}\"\n{}",
                data_dir.display(),
                options.svid_ttl,
                options.extra
            ),
        );
        let program = start_ca(&config).await;
        Ca { address, data_dir, config, program }
    }

    /// Starts a sidecar that enrols at `ca` with a token of its own; it may not be ready yet.
    pub fn sidecar(&self, ca: &Ca, spec: &SidecarSpec) -> Sidecar {
        let token = self.write(&format!("{}.token", spec.files), &ca.token(&spec.name));
        let identity = format!(
            "ca = \"https://{}\"\njoin_token_file = \"{}\"\nstate_dir = \"{}\"\n",
            ca.address,
            token.display(),
            self.path().join(format!("{}.state", spec.files)).display(),
        );
        self.sidecar_with(&identity, spec)
    }

    /// Starts a sidecar with the given lines under `[identity]`.
    pub fn sidecar_with(&self, identity: &str, spec: &SidecarSpec) -> Sidecar {
        let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let listen = || SocketAddr::from(([127, 0, 0, 1], free_port()));
        let identity = spec.identity.as_deref().unwrap_or(identity);
        let mut text = format!("[identity]\n{identity}\n[admin]\nlisten = \"{admin}\"\n");
        if let Some(policy) = &spec.policy {
            write!(text, "[policy]\nfile = \"{}\"\n", policy.display()).unwrap();
        }
        let (mut inbounds, mut outbounds) = (Vec::new(), Vec::new());
        for Listener { name, to, protocol } in &spec.inbounds {
            inbounds.push(listen());
            let (listen, app) = (inbounds.last().unwrap(), to[0]);
            write!(
                text,
                "[[inbound]]\nname = \"{name}\"\nlisten = \"{listen}\"\napp = \"{app}\"\nprotocol = \"{protocol}\"\n"
            )
            .unwrap();
        }
        for Listener { name, to, protocol } in &spec.outbounds {
            outbounds.push(listen());
            let listen = outbounds.last().unwrap();
            let to = to.iter().map(|to| format!("\"{to}\"")).collect::<Vec<_>>().join(", ");
            write!(
                text,
                "[[outbound]]\nlisten = \"{listen}\"\nservice = \"{name}\"\nto = [{to}]\nprotocol = \"{protocol}\"\n"
            )
            .unwrap();
        }
        text.push_str(&spec.extra);
        let config = self.write(&format!("{}.toml", spec.files), &text);
        let binary = spec.binary.clone().unwrap_or_else(sidecar_binary);
        let program = start_sidecar(&spec.name, &binary, &config);
        Sidecar { name: spec.name.clone(), admin, inbounds, outbounds, config, program, binary }
    }
}

async fn start_ca(config: &Path) -> Program {
    let program = Program::start("postern-ca", &ca_binary(), ["serve".as_ref(), "--config".as_ref(), config]);
    program.line_with(&["listening on"]).await;
    program
}

fn start_sidecar(name: &str, binary: &Path, config: &Path) -> Program {
    Program::start(&format!("{name}'s sidecar"), binary, ["run".as_ref(), "--config".as_ref(), config])
}

impl Ca {
    /// A fresh join token for `id`.
    pub fn token(&self, id: &str) -> String {
        self.run(&["token", "create", "--id", id, "--ttl", "10m"])
    }

    /// Runs an admin command to success, and returns what it printed.
    pub fn run(&self, args: &[&str]) -> String {
        let output = self.ask(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs an admin command, whatever comes of it.
    pub fn ask(&self, args: &[&str]) -> std::process::Output {
        let mut command = std::process::Command::new(ca_binary());
        command.args(args).arg("--data-dir").arg(&self.data_dir).output().unwrap()
    }

    /// The trust bundle, as every client needs it.
    pub fn bundles(&self) -> Arc<TrustBundles> {
        let pem = self.run(&["bundle", "show"]);
        Arc::new(TrustBundles::from_pem(&TrustDomain::new(TRUST_DOMAIN).unwrap(), pem.as_bytes()).unwrap())
    }

    /// Stops it as an operator does.
    pub async fn stop(&mut self) {
        self.program.signal("TERM");
        assert!(self.program.exit().await.success(), "{}", self.program.output());
    }

    /// Starts it again.
    pub async fn restart(&mut self) {
        self.program = start_ca(&self.config).await;
    }
}

impl SidecarSpec {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            files: name.to_owned(),
            inbounds: Vec::new(),
            outbounds: Vec::new(),
            identity: None,
            policy: None,
            extra: String::new(),
            protocol: "tcp",
            binary: None,
        }
    }

    /// Another build of the sidecar, to compare it with this tree's.
    pub fn binary(mut self, path: &Path) -> Self {
        self.binary = Some(path.to_owned());
        self
    }

    /// Another instance beside one of the same name.
    pub fn second(mut self) -> Self {
        self.files.push_str("-2");
        self
    }

    pub fn inbound(mut self, name: &str, app: SocketAddr) -> Self {
        self.inbounds.push(self.listener(name, &[app]));
        self
    }

    pub fn outbound(self, service: &str, to: SocketAddr) -> Self {
        self.outbound_to_all(service, &[to])
    }

    /// An outbound to several instances of a service.
    pub fn outbound_to_all(mut self, service: &str, to: &[SocketAddr]) -> Self {
        self.outbounds.push(self.listener(service, to));
        self
    }

    fn listener(&self, name: &str, to: &[SocketAddr]) -> Listener {
        Listener { name: name.to_owned(), to: to.to_vec(), protocol: self.protocol }
    }

    pub fn policy(mut self, file: &Path) -> Self {
        self.policy = Some(file.to_owned());
        self
    }

    /// Inbounds and outbounds that follow speak HTTP.
    pub fn http(mut self) -> Self {
        self.protocol = "http";
        self
    }

    /// Others of the same configuration may take over from it.
    pub fn restartable(self) -> Self {
        let socket = format!("[restart]\nsocket = \"{}.state/restart.sock\"\n", self.files);
        self.extra(&socket)
    }

    /// More lines for `sidecar.toml`.
    pub fn extra(mut self, toml: &str) -> Self {
        self.extra.push_str(toml);
        self
    }
}

impl Sidecar {
    /// Waits until `/ready` says yes.
    pub async fn ready(&self) {
        let what = format!("{} ready; it printed:\n{}", self.name, self.program.output());
        eventually(&what, async || {
            let (status, _) = self.get("/ready").await.ok()?;
            (status == 200).then_some(())
        })
        .await;
    }

    /// Asks the admin endpoint: status code and body.
    pub async fn get(&self, path: &str) -> std::io::Result<(u16, String)> {
        let mut stream = TcpStream::connect(self.admin).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.admin);
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Ok((status.ok_or_else(|| std::io::Error::other(answer.clone()))?, body.to_owned()))
    }

    /// `/status` as JSON.
    pub async fn status(&self) -> Value {
        let (_, body) = self.get("/status").await.unwrap();
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error} in {body}"))
    }

    /// The sum of a metric's samples whose line contains all of `labels`.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let (_, body) = self.get("/metrics").await.unwrap();
        let of_metric = |line: &&str| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(label))
        };
        let value = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
        body.lines().filter(of_metric).filter_map(value).sum()
    }

    /// The sum of one field of `/connections` over all that are live.
    pub async fn sum_of_connections(&self, field: &str) -> u64 {
        let (_, body) = self.get("/connections").await.unwrap();
        let live: Value = serde_json::from_str(&body).unwrap();
        let of_each = live["connections"].as_array().unwrap().iter();
        of_each.map(|connection| connection[field].as_u64().unwrap()).sum()
    }

    /// Another process with the same configuration, beside the one that runs.
    pub fn another(&self) -> Program {
        start_sidecar(&self.name, &self.binary, &self.config)
    }

    /// Another process takes over from the one that runs, which is returned.
    pub async fn succeed(&mut self) -> Program {
        let new = self.another();
        new.line_with(&["took over"]).await;
        std::mem::replace(&mut self.program, new)
    }

    /// Where another process asks for the listeners of a restartable one.
    pub fn restart_socket(&self) -> PathBuf {
        self.config.with_extension("state").join("restart.sock")
    }

    /// Starts it again with the same configuration, after it has ended.
    pub fn restart(&mut self) {
        self.program = start_sidecar(&self.name, &self.binary, &self.config);
    }
}
