//! haproxy pairs: plain TCP, and TCP in mTLS.

use std::net::SocketAddr;
use std::path::Path;

use postern_integration::{Mesh, Program};

use crate::identities::Identities;
use crate::peers::{Carries, Pair, here, version};
use crate::roles::WORKERS;

const PROGRAM: &str = "haproxy";
/// Of one process; each has two sockets, and the sum is below what systems allow.
const CONNECTIONS_MAX: usize = 9_000;

/// Both ends without TLS: what carrying bytes costs haproxy.
pub(crate) fn plain(backend: SocketAddr) -> anyhow::Result<Pair> {
    start(backend, Mesh::default(), "", "", None)
}

pub(crate) fn mtls(backend: SocketAddr) -> anyhow::Result<Pair> {
    let mesh = Mesh::default();
    let identities = Identities::new(&mesh);
    let root = identities.root.display();
    let (orders, payments) = (&identities.orders, &identities.payments);
    let server = format!(
        "ssl crt {} ca-file {root} verify required ssl-min-ver TLSv1.3 no-tls-tickets",
        payments.both.display()
    );
    let client = format!(
        "ssl crt {} ca-file {root} verify required verifyhost {} ssl-min-ver TLSv1.3 no-ssl-reuse",
        orders.both.display(),
        payments.dns_name
    );
    start(backend, mesh, &server, &client, Some(&identities))
}

fn start(
    backend: SocketAddr,
    mesh: Mesh,
    server: &str,
    client: &str,
    identities: Option<&Identities>,
) -> anyhow::Result<Pair> {
    let version = version(PROGRAM, "-v")?;
    let (entry, middle) = (here(), here());
    let inner = start_one(&mesh, "inner", &config((middle, server), (backend, "")));
    let outer = start_one(&mesh, "outer", &config((entry, ""), (middle, client)));
    let middle = identities.map(|identities| identities.middle(middle));
    Ok(Pair {
        entries: vec![entry],
        carries: Carries::Bytes,
        middle,
        version,
        programs: vec![outer, inner],
        _kept: Box::new(mesh),
    })
}

fn start_one(mesh: &Mesh, name: &str, config: &str) -> Program {
    let file = mesh.write(&format!("haproxy-{name}.cfg"), config);
    // -db: in the foreground, one process.
    Program::start(name, Path::new(PROGRAM), ["-db".as_ref(), "-f".as_ref(), file.as_os_str()])
}

fn config((listen, bind): (SocketAddr, &str), (to, server): (SocketAddr, &str)) -> String {
    format!(
        "global
    nbthread {WORKERS}
    maxconn {CONNECTIONS_MAX}
    tune.ssl.cachesize 0
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
listen all
    bind {listen} {bind}
    server to {to} {server}
"
    )
}
