//! The sidecar's whole life: admin, identity, policy, listeners; then its orderly end.

mod signals;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::access_log::{AccessLog, AccessLogError};
use crate::admin::{Admin, LogLinesDropped, Phase};
use crate::clock::SystemClock;
use crate::config::{AccessLogConfig, Config, IdentitySource};
use crate::identity::IdentityTask;
use crate::inbound::InboundServer;
use crate::listen::{self, Until};
use crate::outbound::OutboundServer;
use crate::plane::Plane;
use crate::policy_file::PolicyFile;
use crate::subscription::Subscription;
use signals::Signals;

/// Why a sidecar cannot start.
#[derive(Debug, Error)]
pub enum RunError {
    #[error("cannot listen on {address} ({what})")]
    Listen {
        what: String,
        address: SocketAddr,
        #[source]
        error: io::Error,
    },
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
    #[error(transparent)]
    AccessLog(#[from] AccessLogError),
}

/// What tells the parts when to end: first no new connections, then no connections, then nothing at all.
#[derive(Debug, Default, Clone)]
struct Ends {
    listeners: Until,
    over: CancellationToken,
}

/// Runs until a signal ends it.
pub async fn run(config: Config, log_lines_dropped: LogLinesDropped) -> Result<(), RunError> {
    let mut signals = Signals::new().map_err(RunError::Signals)?;
    let clock = Arc::new(SystemClock);
    let mut plane = Plane::new(config, clock.clone());
    if let Some(AccessLogConfig { to, lines_waiting_max }) = &plane.config.access_log {
        plane.access_log = AccessLog::open(to, *lines_waiting_max)?;
    }
    let plane = Arc::new(plane);
    let (phase, phases) = watch::channel(Phase::Starting);
    let ends = Ends::default();
    let mut background = JoinSet::new();

    let identity = IdentityTask::new(&plane.config.identity, plane.credentials.clone(), clock.clone());
    let admin = Admin { plane: plane.clone(), identity: identity.status(), phase: phases, log_lines_dropped };
    let listener = open("admin", plane.config.admin)?;
    background.spawn(admin.run(listener, ends.over.clone()));
    background.spawn(identity.run(ends.over.clone()));
    let look_now = start_policy(&plane, &ends, &mut background, clock).await;
    if let Some(mut subscription) = Subscription::new(plane.clone()) {
        subscription.restore().await;
        background.spawn(subscription.run(ends.over.clone()));
    }
    background.spawn(plane.clone().watch(ends.over.clone()));

    let mut listeners = open_listeners(&plane, &ends)?;
    phase.send_replace(Phase::Serving);
    info!(admin = %plane.config.admin, inbounds = plane.config.inbounds.len(), outbounds = plane.config.outbounds.len(), "listening");

    signals.end(&look_now, &plane.access_log).await;
    phase.send_replace(Phase::Ending);
    end(&plane, &ends, &mut signals, &mut listeners).await;
    ends.over.cancel();
    report_all(&mut background).await;
    plane.access_log.flush();
    info!("ended");
    Ok(())
}

/// Reads the policy once before anybody connects, and then watches it.
async fn start_policy(
    plane: &Arc<Plane>,
    ends: &Ends,
    background: &mut JoinSet<()>,
    clock: Arc<SystemClock>,
) -> Arc<Notify> {
    let Some(path) = plane.config.policy_file.clone() else {
        if matches!(plane.config.identity, IdentitySource::Files { .. }) {
            warn!("no [policy] file and no CA: every peer is refused");
        }
        return Arc::default();
    };
    let mut file = PolicyFile::new(path, plane.policy.clone(), plane.metrics.clone(), clock);
    let look_now = file.look_now.clone();
    file.look().await;
    background.spawn(file.run(ends.over.clone()));
    look_now
}

fn open(what: &str, address: SocketAddr) -> Result<TcpListener, RunError> {
    listen::open(address).map_err(|error| RunError::Listen { what: what.to_owned(), address, error })
}

/// Opens all listeners, or none is served.
fn open_listeners(plane: &Arc<Plane>, ends: &Ends) -> Result<JoinSet<()>, RunError> {
    let config = &plane.config;
    let inbounds: Result<Vec<_>, _> = config
        .inbounds
        .iter()
        .map(|inbound| open(&format!("inbound {}", inbound.name), inbound.listen))
        .collect();
    let outbounds: Result<Vec<_>, _> = config
        .outbounds
        .iter()
        .map(|outbound| open(&format!("outbound {}", outbound.target), outbound.listen))
        .collect();
    let (inbounds, outbounds) = (inbounds?, outbounds?);
    let mut listeners = JoinSet::new();
    for (index, (listener, inbound)) in inbounds.into_iter().zip(&config.inbounds).enumerate() {
        let server = Arc::new(InboundServer::new(plane.clone(), index, inbound.clone()));
        listeners.spawn(listen::run(listener, server, plane.clone(), ends.listeners.clone()));
    }
    for (index, (listener, outbound)) in outbounds.into_iter().zip(&config.outbounds).enumerate() {
        let server = Arc::new(OutboundServer::new(plane.clone(), index, outbound.clone()));
        listeners.spawn(listen::run(listener, server, plane.clone(), ends.listeners.clone()));
    }
    Ok(listeners)
}

/// Not ready, but serving; then no new connections; then, after the deadline or at a second signal, none at all.
async fn end(plane: &Plane, ends: &Ends, signals: &mut Signals, listeners: &mut JoinSet<()>) {
    let shutdown = plane.config.shutdown;
    info!(drain_delay = ?shutdown.drain_delay, "not ready");
    let again = tokio::select! {
        () = tokio::time::sleep(shutdown.drain_delay) => false,
        () = signals.terminate() => true,
    };
    ends.listeners.stop.cancel();
    if !again {
        let (_, live) = plane.metrics.connections();
        info!(drain_deadline = ?shutdown.drain_deadline, live, "draining");
        tokio::select! {
            () = report_all(listeners) => return,
            () = tokio::time::sleep(shutdown.drain_deadline) => {}
            () = signals.terminate() => {}
        }
    }
    let (_, live) = plane.metrics.connections();
    warn!(live, "cutting what is still open");
    ends.listeners.abort.cancel();
    report_all(listeners).await;
}

/// Waits for every task, and tells of those that failed.
async fn report_all(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            error!(%error, "a task failed");
        }
    }
}
