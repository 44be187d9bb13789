//! The foreign programs, each configured as `docs/OPERATING.md` says, between plain bytes and mutual TLS.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use postern_integration::{Program, eventually, free_port, tools};
use tokio::process::Command;

use crate::documented;
use crate::papers::Papers;

/// A program that can stand where a sidecar could.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Nginx,
    Haproxy,
    Envoy,
    /// Go's crypto/tls, which is what ghostunnel and go-spiffe stand on: `integration/foreign`.
    Go,
}

/// Which end of the TLS connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Plain callers come to it, and it calls with TLS.
    Client,
    /// It is called with TLS, and calls a plain app.
    Server,
}

/// Where a program finds whom it calls, or one listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places {
    pub(crate) tcp: SocketAddr,
    pub(crate) http: SocketAddr,
}

/// A running one. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Foreign {
    /// Where it is called.
    pub(crate) at: Places,
    pub(crate) program: Program,
    /// The second of two processes, where one carries no more than one kind.
    _http: Option<Program>,
}

impl Kind {
    /// Those on this machine; in CI all of them.
    pub(crate) fn here() -> impl Iterator<Item = Self> {
        [Self::Nginx, Self::Haproxy, Self::Envoy, Self::Go].into_iter().filter(|kind| kind.is_here())
    }

    fn is_here(self) -> bool {
        match self {
            Self::Nginx => tools::has("nginx") && tools::has_file(&stream_module()),
            Self::Haproxy => tools::has("haproxy"),
            Self::Envoy => tools::has("envoy"),
            Self::Go => tools::has("go"),
        }
    }

    /// Whether one direction may end while it carries the other.
    pub(crate) fn half_closes(self) -> bool {
        self != Self::Nginx
    }

    /// Whether it knows SPIFFE IDs, and not only whether a chain leads to a root.
    pub(crate) fn compares_identities(self) -> bool {
        matches!(self, Self::Envoy | Self::Go)
    }

    fn title(self, role: Role) -> String {
        let does = match role {
            Role::Client => "calls payments as orders",
            Role::Server => "is called as payments",
        };
        let name = match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "Envoy",
            Self::Go => "Go",
        };
        format!("{name} {does}")
    }
}

impl Foreign {
    /// Starts it as documented.
    pub(crate) async fn start(kind: Kind, role: Role, papers: &Papers, to: Places) -> Self {
        Self::start_with(kind, role, papers, to, |text| text).await
    }

    /// Starts it with a changed configuration, and waits until it listens. Go has a command line instead, a line of
    /// the configuration per argument.
    pub(crate) async fn start_with(
        kind: Kind,
        role: Role,
        papers: &Papers,
        to: Places,
        change: impl Fn(String) -> String,
    ) -> Self {
        let at = Places { tcp: free(), http: free() };
        let start = |text| start(kind, &papers.dir, &change(text));
        let (program, http) = if kind == Kind::Go {
            let one = |at, to| start(go_arguments(role, &papers.dir, at, to));
            (one(at.tcp, to.tcp), Some(one(at.http, to.http)))
        } else {
            let (here, there) = match role {
                Role::Client => ([9001, 9002], [8443, 8444]),
                Role::Server => ([8443, 8444], [8081, 8080]),
            };
            let ports = [
                (here[0], at.tcp.port()),
                (here[1], at.http.port()),
                (there[0], to.tcp.port()),
                (there[1], to.http.port()),
            ];
            (start(documented::configuration(&kind.title(role), &papers.dir, &ports)), None)
        };
        for address in [at.tcp, at.http] {
            listens(&program, address).await;
        }
        Self { at, program, _http: http }
    }
}

pub(crate) fn free() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

/// Waits until somebody listens there, without calling.
pub(crate) async fn listens(program: &Program, address: SocketAddr) {
    const LISTEN: &str = "0A";
    let port = format!(":{:04X}", address.port());
    eventually(&format!("somebody at {address}; printed was:\n{}", program.output()), async || {
        let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let listening = sockets.lines().map(str::split_whitespace).any(|mut fields| {
            fields.nth(1).is_some_and(|local| local.ends_with(&port)) && fields.nth(1) == Some(LISTEN)
        });
        listening.then_some(())
    })
    .await;
}

fn start(kind: Kind, dir: &Path, text: &str) -> Program {
    let file = dir.join(format!("{kind:?}.conf"));
    let mut command = match kind {
        Kind::Nginx => {
            std::fs::write(&file, nginx_whole(dir, text)).unwrap();
            let mut command = Command::new("nginx");
            command.arg("-p").arg(dir).args(["-e", "stderr", "-c"]).arg(&file);
            command
        }
        Kind::Haproxy => {
            std::fs::write(&file, text).unwrap();
            let mut command = Command::new("haproxy");
            command.args(["-db", "-f"]).arg(&file);
            command
        }
        Kind::Envoy => {
            let file = file.with_extension("yaml");
            std::fs::write(&file, text).unwrap();
            let mut command = Command::new("envoy");
            command
                .args(["--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warning", "-c"])
                .arg(&file);
            command
        }
        Kind::Go => {
            let mut command = Command::new(go_peer());
            command.args(text.lines());
            command
        }
    };
    command.current_dir(dir);
    Program::start_command(&format!("{kind:?}"), command)
}

/// One process that stays in the foreground, and writes only below `dir`.
fn nginx_whole(dir: &Path, text: &str) -> String {
    let module = stream_module();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {}/{what};\n", dir.display()))
        .concat();
    let text = text.replace("http {\n", &format!("http {{\naccess_log off;\n{temporary}"));
    format!(
        "load_module {};\ndaemon off;\nmaster_process off;\npid nginx.pid;\n\
         error_log stderr info;\nevents {{}}\n{text}",
        module.display()
    )
}

/// Where nginx looks for its module for streams.
fn stream_module() -> PathBuf {
    let told = std::process::Command::new("nginx").arg("-V").output().unwrap();
    let told = String::from_utf8(told.stderr).unwrap();
    let modules = told.split_whitespace().find_map(|word| word.strip_prefix("--modules-path="));
    Path::new(modules.unwrap()).join("ngx_stream_module.so")
}

fn go_arguments(role: Role, dir: &Path, at: SocketAddr, to: SocketAddr) -> String {
    let (name, peer, role) = match role {
        Role::Client => ("orders", "payments", "client"),
        Role::Server => ("payments", "orders", "server"),
    };
    let dir = dir.display();
    format!(
        "-role={role}\n-listen={at}\n-to={to}\n-bundle={dir}/bundle.pem\n-peer=spiffe://shop.example/{peer}\n\
         -cert={dir}/{name}.pem\n"
    )
}

/// Built once.
fn go_peer() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let binary = Path::new(env!("CARGO_TARGET_TMPDIR")).join("foreign-go");
        let mut build = std::process::Command::new("go");
        build.args(["build", "-buildvcs=false", "-o"]).arg(&binary).arg(".");
        let built = build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/foreign")).status();
        assert!(built.unwrap().success(), "the Go peer does not build");
        binary
    })
}
