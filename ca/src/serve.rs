//! The CA's whole life: data directory, listeners, admin socket and shutdown.

mod admin_socket;
mod by_method;
mod data_dir;
mod publishing;
mod tls_acceptor;

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use postern_proto::mtls::TlsIdentity;
use postern_proto::wire::v1::admin_server::AdminServer;
use postern_server::process::Shutdown;
use socket2::SockRef;
use time::OffsetDateTime;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tracing::{error, info, warn};

use crate::api::{AdminApi, Shared, WorkloadApi};
use crate::authority::Authority;
use crate::config::{Config, SVID_TTL_SHORT};
use crate::store::Store;
use by_method::ByMethod;
use data_dir::DataDir;
use tls_acceptor::TlsAcceptor;

/// The CA's own certificate lives this long, and is made anew at half of it.
const OWN_LIFE: time::Duration = time::Duration::hours(24);
/// How often it is looked whether the CA's own certificates need renewing. Wall-clock time may jump meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// A peer that is silent for this long is asked whether it is still there.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// And is gone if it does not answer for this long.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Requests under way on one connection.
const STREAMS_MAX: u32 = 100;
/// Connections that the kernel may hold until they are accepted.
const BACKLOG: u32 = 1024;
/// Established connections that may wait for the gRPC server.
const CONNECTIONS_WAITING_MAX: usize = 64;

/// Serves until a signal ends it.
pub async fn serve(config: Config, mut shutdown: Shutdown) -> anyhow::Result<()> {
    if config.svid_ttl < SVID_TTL_SHORT {
        warn!(svid_ttl = ?config.svid_ttl, "certificates live short: a CA that is away for longer stops the traffic");
    }
    let data_dir = DataDir::open(&config.data_dir).context("cannot use the data directory")?;
    let authority = Arc::new(
        Authority::open(data_dir.path(), &config.trust_domain, OffsetDateTime::now_utc())
            .context("cannot open the authority")?,
    );
    let (store, writer) =
        Store::open(&data_dir.path().join("store.sqlite")).context("cannot open the store")?;
    let own =
        Arc::new(ArcSwap::from_pointee(authority.serving_identity(OffsetDateTime::now_utc(), OWN_LIFE)?));
    let shared = Arc::new(Shared::new(&config, authority.clone(), store.clone()));
    publishing::publish(&shared).await.context("cannot tell sidecars what is stored")?;

    let listener = listen(config.listen).with_context(|| format!("cannot listen on {}", config.listen))?;
    let admin = admin_socket::bind(&config.admin_socket)
        .await
        .with_context(|| format!("cannot open the admin socket {}", config.admin_socket.display()))?;
    print_startup_banner(&config, &authority, &listener)?;

    let (stop, shutdown_now) = (shared.stop.clone(), CancellationToken::new());
    let mut tasks = JoinSet::new();
    let (connections, established) = tokio::sync::mpsc::channel(CONNECTIONS_WAITING_MAX);
    let acceptor = TlsAcceptor::new(&config, authority.clone(), own.clone());
    tasks.spawn(acceptor.run(listener, connections, stop.clone()));
    tasks.spawn(rotate(authority, own, stop.clone()));
    tasks.spawn(publishing::follow(shared.clone(), stop.clone()));
    let workload = Server::builder()
        .timeout(config.limits.request_timeout)
        .max_connection_age(config.limits.connection_age_max)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_MAX)
        .add_service(ByMethod::new(WorkloadApi(shared.clone())))
        .serve_with_incoming_shutdown(ReceiverStream::new(established), stop.clone().cancelled_owned());
    tasks.spawn(serve_until(workload, shutdown_now.clone()));
    let admin_api = AdminServer::new(AdminApi(shared.clone()));
    let admin = Server::builder()
        .add_service(admin_api)
        .serve_with_incoming_shutdown(admin_socket::incoming(admin), stop.clone().cancelled_owned());
    tasks.spawn(serve_until(admin, shutdown_now.clone()));

    shutdown.may_drain_for(config.drain_deadline);
    shutdown.signal().await;
    info!(drain_deadline = ?config.drain_deadline, "ending");
    stop.cancel();
    let finished = async { while tasks.join_next().await.is_some() {} };
    tokio::select! {
        () = finished => {}
        () = tokio::time::sleep(config.drain_deadline) => warn!("cutting what is still open"),
        () = shutdown.signal() => {}
    }
    shutdown.ends_within(Duration::ZERO);
    shutdown_now.cancel();
    while tasks.join_next().await.is_some() {}
    shared.streams_ended().await;
    admin_socket::remove(&config.admin_socket);
    if let Err(error) = store.close().await {
        error!(%error, "the store did not close in order");
    }
    writer.join();
    info!("ended");
    Ok(())
}

/// `[::]` takes IPv4 callers, too, whatever net.ipv6.bindv6only says.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if address.is_ipv6() {
        SockRef::from(&socket).set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn serve_until(
    server: impl Future<Output = Result<(), tonic::transport::Error>>,
    shutdown_now: CancellationToken,
) {
    if let Some(Err(error)) = shutdown_now.run_until_cancelled(server).await {
        error!(%error, "a server failed");
    }
}

/// Says on standard output what people and scripts need.
fn print_startup_banner(
    config: &Config,
    authority: &Authority,
    listener: &TcpListener,
) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "trust domain  {}", config.trust_domain)?;
    writeln!(out, "bundle pin    {} (SHA-256)", authority.bundle().pin())?;
    writeln!(out, "admin socket  {}", config.admin_socket.display())?;
    writeln!(out, "listening on {}", listener.local_addr()?)?;
    out.flush()
}

/// Renews the issuer and the CA's own certificate in time.
async fn rotate(authority: Arc<Authority>, own: Arc<ArcSwap<TlsIdentity>>, stop: CancellationToken) {
    let mut made_at = OffsetDateTime::now_utc();
    let work = async {
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let now = OffsetDateTime::now_utc();
            if let Err(error) = authority.renew_issuer(now) {
                error!(%error, "cannot renew the issuer");
            }
            if (now - made_at).abs() < OWN_LIFE / 2 {
                continue;
            }
            match authority.serving_identity(now, OWN_LIFE) {
                Ok(fresh) => {
                    own.store(Arc::new(fresh));
                    made_at = now;
                }
                Err(error) => error!(%error, "cannot renew the CA's own certificate"),
            }
        }
    };
    stop.run_until_cancelled(work).await;
}
