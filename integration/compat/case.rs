//! One row in one protocol: its servers, its pair of sidecars, its client.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_integration::{Ca, Mesh, Sidecar, SidecarSpec, free_port, tools};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::task::JoinError;

use crate::process::Group;
use crate::runtimes::{Runtimes, Unavailable};
use crate::table::{Protocol, Ready, Row, Script, Server};

/// A server that does not serve by then never will.
const SERVER_READY_WITHIN: Duration = Duration::from_secs(300);
/// Whatever a client does.
const CLIENT_ENDS_WITHIN: Duration = Duration::from_secs(900);
const POLL: Duration = Duration::from_millis(50);
const LINES_SHOWN: usize = 40;

/// One row in one protocol.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) row: &'static Row,
    pub(crate) protocol: Protocol,
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Outcome {
    Passed,
    Failed(String),
    /// On a developer's machine only: this is missing.
    NotTested(&'static str),
}

impl From<Unavailable> for Outcome {
    fn from(unavailable: Unavailable) -> Self {
        match unavailable {
            Unavailable::NotInstalled(tool) if tools::nothing_is_skipped() => {
                Self::Failed(format!("{tool} is missing, and in CI nothing is skipped"))
            }
            Unavailable::NotInstalled(tool) => Self::NotTested(tool),
            Unavailable::NotPrepared(why) => Self::Failed(why),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) case: Case,
    pub(crate) outcome: Outcome,
    pub(crate) took: Duration,
    /// Names and numbers.
    pub(crate) versions: Vec<String>,
}

/// What all cases share.
#[derive(Debug)]
pub(crate) struct World {
    mesh: Mesh,
    ca: Ca,
    runtimes: Runtimes,
    /// Servers that run as other users may enter it.
    folders: TempDir,
}

/// Where a case is.
#[derive(Debug)]
pub(crate) struct Place {
    name: String,
    folder: PathBuf,
    app: SocketAddr,
    /// Where a proxy in front of the caller's sidecar listens, or another port that a server needs.
    front: SocketAddr,
    /// One more.
    spare: SocketAddr,
}

impl Case {
    pub(crate) fn of(row: &'static Row) -> impl Iterator<Item = Self> {
        row.protocols.iter().map(move |protocol| Self { row, protocol: *protocol })
    }

    pub(crate) fn name(&self) -> String {
        format!("{}::{}", self.row.name, self.protocol.as_str())
    }

    pub(crate) fn scripts(&self) -> Vec<Script> {
        self.row.servers.iter().map(|server| server.script).chain([self.row.client]).collect()
    }
}

impl World {
    pub(crate) fn new(mesh: Mesh, ca: Ca, runtimes: Runtimes) -> Self {
        let mut builder = tempfile::Builder::new();
        builder.prefix("postern-compat-").permissions(std::fs::Permissions::from_mode(0o755));
        Self { mesh, ca, runtimes, folders: builder.tempdir().unwrap() }
    }
}

impl Place {
    pub(crate) fn new(number: usize, world: &World) -> Self {
        let folder = world.folders.path().join(number.to_string());
        std::fs::create_dir(&folder).unwrap();
        let address = || SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        Self { name: number.to_string(), folder, app: address(), front: address(), spare: address() }
    }

    /// An argument with the app's port in it.
    pub(crate) fn fill(&self, arg: &str) -> String {
        arg.replace("APP_PORT", &self.app.port().to_string())
    }
}

/// Runs a case; whatever panics in it is its failure alone.
pub(crate) async fn run(case: Case, place: Place, world: Arc<World>) -> Ended {
    let begun = Instant::now();
    let running = tokio::spawn(async move { carry_out(case, &place, &world).await });
    let (outcome, versions) =
        running.await.unwrap_or_else(|panicked| (Outcome::Failed(said_by(panicked)), Vec::new()));
    Ended { case, outcome, took: begun.elapsed(), versions }
}

/// The words of a panic.
fn said_by(panicked: JoinError) -> String {
    let Ok(payload) = panicked.try_into_panic() else { return "the case was cancelled".to_owned() };
    let words = payload.downcast_ref::<String>().map(String::as_str);
    words.or(payload.downcast_ref::<&str>().copied()).unwrap_or("the case panicked").to_owned()
}

async fn carry_out(case: Case, place: &Place, world: &World) -> (Outcome, Vec<String>) {
    if let Some(missing) = case.row.needs.iter().find(|tool| !tools::is_here(tool)) {
        return (Unavailable::NotInstalled(missing).into(), Vec::new());
    }
    let (called, caller) = pair(case, place, world).await;
    let command = |script: &Script, at: SocketAddr| {
        let mut command = world.runtimes.command(script, place)?;
        surroundings(&mut command, case, place, at);
        Ok::<_, Unavailable>(command)
    };
    let outbound = caller.outbounds[0];
    let mut servers = Vec::new();
    for server in case.row.servers {
        match command(&server.script, outbound) {
            Ok(command) => {
                servers.push((*server, Group::start(&format!("{}'s server", case.name()), command)))
            }
            Err(unavailable) => return (unavailable.into(), Vec::new()),
        }
    }
    let mut problem = None;
    for (server, group) in &mut servers {
        if let Err(why) = serves(server, group, place).await {
            problem = Some(format!("{:?} {why}", server.script));
        }
    }
    let dialled = if case.row.servers.iter().any(|server| matches!(server.ready, Ready::Front)) {
        place.front
    } else {
        outbound
    };
    let mut client = match command(&case.row.client, dialled) {
        Ok(command) => Group::start(&format!("{}'s client", case.name()), command),
        Err(unavailable) => return (unavailable.into(), Vec::new()),
    };
    if problem.is_none() {
        problem = match tokio::time::timeout(CLIENT_ENDS_WITHIN, client.wait()).await {
            Ok(status) if status.success() => missing_exchange(&client),
            Ok(status) => {
                Some(format!("the client ended with {status}: {}", last_line(&client.program.output())))
            }
            Err(_) => Some(format!("the client does not end within {CLIENT_ENDS_WITHIN:?}")),
        };
    }
    let versions = lines_after(&client, "version: ");
    let outcome = problem.map_or(Outcome::Passed, |problem| {
        let mut programs: Vec<_> = servers.iter().map(|(_, group)| ("server", &group.program)).collect();
        programs.insert(0, ("client", &client.program));
        programs.extend([("caller's sidecar", &caller.program), ("called sidecar", &called.program)]);
        let mut text = problem;
        for (what, program) in programs {
            let output = program.output();
            let lines: Vec<_> = output.lines().collect();
            let shown = lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n    ");
            write!(text, "\n  the {what} printed at last:\n    {shown}").unwrap();
        }
        Outcome::Failed(text)
    });
    for (_, group) in servers {
        group.end().await;
    }
    (outcome, versions)
}

/// The called side's sidecar and the caller's, both ready.
async fn pair(case: Case, place: &Place, world: &World) -> (Sidecar, Sidecar) {
    let (app, caller, protocol) =
        (format!("app-{}", place.name), format!("caller-{}", place.name), case.protocol.as_str());
    let policy = format!(
        "trust_domain = \"{domain}\"\n[service.{app}]\nports = {{ api = \"{protocol}\" }}\n[[service.{app}.allow]]\n\
         from = [\"{caller}\"]\nport = \"api\"\n[service.{caller}]\n",
        domain = postern_integration::TRUST_DOMAIN,
    );
    let policy = world.mesh.write(&format!("{}.policy.toml", place.name), &policy);
    let spec = |name: &str| {
        let spec = SidecarSpec::new(name).policy(&policy).extra(case.row.settings);
        if case.protocol == Protocol::Http { spec.http() } else { spec }
    };
    let called = world.mesh.sidecar(&world.ca, &spec(&app).inbound("api", place.app));
    let calling = world.mesh.sidecar(&world.ca, &spec(&caller).outbound(&app, called.inbounds[0]));
    called.ready().await;
    calling.ready().await;
    (called, calling)
}

fn surroundings(command: &mut Command, case: Case, place: &Place, at: SocketAddr) {
    command.current_dir(&place.folder).env("DIR", &place.folder).env("PROTOCOL", case.protocol.as_str());
    command.env("AT", at.to_string()).env("APP_PORT", place.app.port().to_string());
    command.env("FRONT_PORT", place.front.port().to_string());
    command.env("SPARE_PORT", place.spare.port().to_string());
    command.env("QUIET", setting("POSTERN_COMPAT_QUIET", case.row.quiet_seconds));
    command.env("GIB", setting("POSTERN_COMPAT_GIB", "1"));
}

fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

/// Waits until it does. Else why not.
async fn serves(server: &Server, group: &mut Group, place: &Place) -> Result<(), String> {
    let ready = async {
        loop {
            let serves = match server.ready {
                Ready::Port => TcpStream::connect(place.app).await.is_ok(),
                Ready::Front => TcpStream::connect(place.front).await.is_ok(),
                Ready::Line(line) => group.program.lines_with(&[line]) > 0,
            };
            if serves {
                return Ok(());
            }
            if let Some(status) = group.program.status() {
                return Err(format!("ended with {status} before it served"));
            }
            tokio::time::sleep(POLL).await;
        }
    };
    let late = || Err(format!("does not serve after {SERVER_READY_WITHIN:?}"));
    tokio::time::timeout(SERVER_READY_WITHIN, ready).await.unwrap_or_else(|_| late())
}

fn last_line(output: &str) -> &str {
    output.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default()
}

/// A client that forgets one of its exchanges has not passed.
fn missing_exchange(client: &Group) -> Option<String> {
    let passed = lines_after(client, "passed: ");
    (passed != ["short", "quiet", "long"]).then(|| format!("the client has only passed {passed:?}"))
}

fn lines_after(client: &Group, word: &str) -> Vec<String> {
    client.program.output().lines().filter_map(|line| line.strip_prefix(word)).map(str::to_owned).collect()
}
