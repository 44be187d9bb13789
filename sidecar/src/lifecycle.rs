//! The sidecar's whole life: admin, identity, policy, listeners; then its orderly end.

pub mod handover;
mod listeners;
mod signals;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use postern_server::process::Shutdown;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::admin::{Admin, LogLinesDropped, Phase};
use crate::clock::SystemClock;
use crate::config::{AccessLogConfig, Config, IdentitySource};
use crate::control::policy_file::PolicyFile;
use crate::control::subscription::Subscription;
use crate::identity::IdentityTask;
use crate::network::descriptors;
use crate::observability::access_log::{AccessLog, AccessLogError};
use crate::proxy::listener::ShutdownTokens;
use crate::proxy::state::ProxyState;
use handover::{Takeover, TakeoverError};
pub use listeners::ListenError;
use listeners::{Listeners, open_admin};
use signals::Signals;

/// Why a sidecar cannot start.
#[derive(Debug, Error)]
pub enum RunError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Takeover(#[from] TakeoverError),
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
    #[error(transparent)]
    AccessLog(#[from] AccessLogError),
}

/// What tells the parts when to begin and to end.
#[derive(Debug, Default, Clone)]
struct LifecycleTokens {
    /// This process may accept: no old one does so for it.
    begun: CancellationToken,
    /// A new process accepts.
    taken_over: CancellationToken,
    /// First no new connections, then no connections, then nothing at all.
    listeners: ShutdownTokens,
    over: CancellationToken,
}

/// Runs until a signal ends it, or a new process has taken its place.
pub async fn run(
    config: Config,
    log_lines_dropped: LogLinesDropped,
    mut shutdown: Shutdown,
) -> Result<(), RunError> {
    let (signals, ends) = (Signals::new().map_err(RunError::Signals)?, LifecycleTokens::default());
    let mut background = JoinSet::new();
    let starting = start(config, log_lines_dropped, &ends, signals, &mut background);
    let started = tokio::select! {
        started = starting => started?,
        // Nobody is served yet.
        () = shutdown.signal() => return Ok(()),
    };
    let access_log = started.admin.proxy.clone();
    let served = serve(started, &ends, &mut shutdown).await;
    shutdown.ends_within(Duration::ZERO);
    ends.over.cancel();
    report_all(&mut background).await;
    access_log.access_log.flush();
    served.inspect(|()| info!("ended"))
}

/// What is there before the first connection.
struct Started {
    admin: Admin,
    takeover: Takeover,
    phase: watch::Sender<Phase>,
}

/// Starts everything that does not end with a connection.
async fn start(
    mut config: Config,
    log_lines_dropped: LogLinesDropped,
    ends: &LifecycleTokens,
    signals: Signals,
    background: &mut JoinSet<()>,
) -> Result<Started, RunError> {
    let mut takeover = Takeover::begin(config.restart.as_ref()).await?;
    descriptors::prepare(&mut config);
    let clock = Arc::new(SystemClock);
    let mut proxy = ProxyState::new(config, clock.clone());
    if let Some(AccessLogConfig { to, lines_waiting_max }) = &proxy.control.config.access_log {
        proxy.access_log = AccessLog::open(to, *lines_waiting_max)?;
    }
    let proxy = Arc::new(proxy);
    let (phase, phases) = watch::channel(Phase::Starting);

    let (source, name_servers) = (&proxy.control.config.identity, proxy.control.name_servers.clone());
    let identity = IdentityTask::new(source, proxy.control.credentials.clone(), name_servers, clock.clone());
    let admin = Admin { proxy: proxy.clone(), identity: identity.status(), phase: phases, log_lines_dropped };
    let listener = open_admin(&mut takeover, &proxy.control.config)?;
    if !takeover.is_under_way() {
        ends.begun.cancel();
    }
    background.spawn(administer(admin.clone(), listener, ends.clone()));
    background.spawn(identity.run(ends.over.clone()));
    let look_now = start_policy(&proxy, ends, background, clock).await;
    if let Some(mut subscription) = Subscription::new(proxy.control.clone()) {
        subscription.restore().await;
        background.spawn(subscription.run(ends.over.clone()));
    }
    background.spawn(proxy.clone().watch(ends.over.clone()));
    background.spawn(signals.act_on(look_now, proxy, ends.over.clone()));
    Ok(Started { admin, takeover, phase })
}

/// The admin endpoint answers from the start; where an old process answers still, from when that one lets go.
async fn administer(admin: Admin, listener: TcpListener, ends: LifecycleTokens) {
    let until = ShutdownTokens { stop: ends.taken_over, abort: ends.over };
    if until.abort.run_until_cancelled(ends.begun.cancelled()).await.is_some() {
        admin.run(listener, until).await;
    }
}

/// Reads the policy once before anybody connects, and then watches it.
async fn start_policy(
    proxy: &Arc<ProxyState>,
    ends: &LifecycleTokens,
    background: &mut JoinSet<()>,
    clock: Arc<SystemClock>,
) -> Arc<Notify> {
    let Some(path) = proxy.control.config.policy_file.clone() else {
        if matches!(proxy.control.config.identity, IdentitySource::Files { .. }) {
            warn!("no [policy] file and no CA: every peer is refused");
        }
        return Arc::default();
    };
    let mut file = PolicyFile::new(path, proxy.control.policy.clone(), proxy.control.metrics.clone(), clock);
    let look_now = file.look_now.clone();
    file.look().await;
    background.spawn(file.run(ends.over.clone()));
    look_now
}

/// Opens the listeners, accepts until told to end or taken over, and ends them in order.
async fn serve(started: Started, ends: &LifecycleTokens, shutdown: &mut Shutdown) -> Result<(), RunError> {
    let Started { admin, mut takeover, phase } = started;
    let admin = &admin;
    let (proxy, config) = (&admin.proxy, &admin.proxy.control.config);
    let opened = Listeners::open(proxy, &mut takeover)?;
    tokio::select! {
        ready = takeover.ready(admin) => ready?,
        () = shutdown.signal() => return Ok(()),
    }
    ends.begun.cancel();
    tokio::select! {
        () = takeover.ripe(admin) => {}
        () = shutdown.signal() => return Ok(()),
    }
    let mut listeners = opened.serve(proxy, &ends.listeners);
    let drain_time = config.shutdown.drain_delay + config.shutdown.drain_deadline;
    shutdown.may_drain_for(drain_time);
    phase.send_replace(Phase::Serving);
    info!(admin = %config.admin, inbounds = config.inbounds.len(), outbounds = config.outbounds.len(), "listening");
    if let Some(giver) = takeover.serving().await {
        listeners.spawn(giver.run(ends.listeners.stop.clone(), ends.taken_over.clone()));
    }
    tokio::select! {
        () = shutdown.signal() => {}
        () = ends.taken_over.cancelled() => {}
    }
    phase.send_replace(Phase::Ending);
    shutdown.ends_within(drain_time);
    end(proxy, ends, shutdown, &mut listeners).await;
    Ok(())
}

/// Not ready, but serving, unless a new process does; then no new connections; then, after the deadline or when told
/// a second time, none at all.
async fn end(
    proxy: &ProxyState,
    ends: &LifecycleTokens,
    shutdown: &mut Shutdown,
    listeners: &mut JoinSet<()>,
) {
    let config = proxy.control.config.shutdown;
    info!(drain_delay = ?config.drain_delay, "not ready");
    let again = tokio::select! {
        biased;
        () = ends.taken_over.cancelled() => false,
        () = shutdown.signal() => true,
        () = tokio::time::sleep(config.drain_delay) => false,
    };
    ends.listeners.stop.cancel();
    if !again {
        let (_, live) = proxy.control.metrics.connections();
        info!(drain_deadline = ?config.drain_deadline, live, "draining");
        tokio::select! {
            () = report_all(listeners) => return,
            () = tokio::time::sleep(config.drain_deadline) => {}
            () = shutdown.signal() => {}
        }
    }
    let (_, live) = proxy.control.metrics.connections();
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
