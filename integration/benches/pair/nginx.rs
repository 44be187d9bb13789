//! An nginx pair: its stream module, TCP in mTLS.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus};

use anyhow::Context as _;
use postern_integration::{Mesh, Program};

use crate::identities::{Files, Identities};
use crate::peers::{Carries, Pair, here, output, version};
use crate::roles::WORKERS;

const PROGRAM: &str = "nginx";
/// Of one worker, which may be given them all; a proxied connection takes two.
const CONNECTIONS_MAX: usize = 10_500;

pub(crate) fn start(backend: SocketAddr) -> anyhow::Result<Pair> {
    let version = version(PROGRAM, "-v")?;
    let module = stream_module()?;
    let mesh = Mesh::default();
    let identities = Identities::new(&mesh);
    let (root, orders, payments) = (identities.root.display(), &identities.orders, &identities.payments);
    let (entry, middle) = (here(), here());
    let server = format!(
        "{} ssl_protocols TLSv1.3; ssl_verify_client on; ssl_verify_depth 2; ssl_client_certificate {root};
         ssl_session_cache off; ssl_session_tickets off;",
        pair_of_files("ssl", payments)
    );
    let client = format!(
        "proxy_ssl on; {} proxy_ssl_protocols TLSv1.3; proxy_ssl_verify on; proxy_ssl_verify_depth 2;
         proxy_ssl_trusted_certificate {root}; proxy_ssl_name {}; proxy_ssl_session_reuse off;",
        pair_of_files("proxy_ssl", orders),
        payments.dns_name
    );
    let inner = start_one(
        &mesh,
        "inner",
        &module,
        &format!("listen {middle} ssl reuseport; proxy_pass {backend}; {server}"),
    );
    let outer = start_one(
        &mesh,
        "outer",
        &module,
        &format!("listen {entry} reuseport; proxy_pass {middle}; {client}"),
    );
    let workers = Workers { groups: [outer.pid(), inner.pid()] };
    Ok(Pair {
        entries: vec![entry],
        carries: Carries::Bytes,
        middle: Some(identities.middle(middle)),
        version,
        programs: vec![outer, inner],
        _kept: Box::new((mesh, workers)),
    })
}

/// The workers of masters that lead a process group each; they would outlive a master that is killed.
struct Workers {
    groups: [u32; 2],
}

impl Drop for Workers {
    fn drop(&mut self) {
        let groups = self.groups.map(|group| format!("-{group}"));
        let ended = Command::new("kill").args(["-KILL", "--"]).args(groups).status();
        if !ended.as_ref().is_ok_and(ExitStatus::success) {
            eprintln!("nginx's workers may live on: {ended:?}");
        }
    }
}

fn pair_of_files(prefix: &str, files: &Files) -> String {
    format!(
        "{prefix}_certificate {}; {prefix}_certificate_key {};",
        files.chain.display(),
        files.key.display()
    )
}

/// The line that loads the stream module, nothing where it is built in, an error where it is not there.
fn stream_module() -> anyhow::Result<String> {
    let build = output(PROGRAM, &["-V"])?;
    if !build.contains("--with-stream=dynamic") {
        anyhow::ensure!(build.contains("--with-stream"), "this nginx has no stream module");
        return Ok(String::new());
    }
    let dir = build.split_whitespace().find_map(|option| option.strip_prefix("--modules-path="));
    let module =
        Path::new(dir.context("this nginx does not say where its modules are")?).join("ngx_stream_module.so");
    anyhow::ensure!(module.exists(), "nginx has no stream module (Debian: libnginx-mod-stream)");
    Ok(format!("load_module {};", module.display()))
}

fn start_one(mesh: &Mesh, name: &str, module: &str, server: &str) -> Program {
    let dir = mesh.path().display();
    let config = format!(
        "{module}
daemon off; user root; worker_processes {WORKERS}; pid {dir}/nginx-{name}.pid; error_log stderr warn;
worker_rlimit_nofile 20000;
events {{ worker_connections {CONNECTIONS_MAX}; }}
stream {{ access_log off; proxy_timeout 1h; proxy_connect_timeout 5s; server {{ {server} }} }}
"
    );
    let file = mesh.write(&format!("nginx-{name}.conf"), &config);
    let mut command = Command::new(PROGRAM);
    command.args(["-e", "stderr", "-c"]).arg(file).process_group(0);
    Program::start_command(name, command.into())
}
