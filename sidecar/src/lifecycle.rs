//! The lifecycle of the process: starts admin endpoint, identity, policy and listeners, then drains and shuts down.

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

/// Why the sidecar cannot start.
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

/// The cancellation tokens that start and stop the components.
#[derive(Debug, Default, Clone)]
struct LifecycleTokens {
    /// This process may accept: no old process serves its listeners.
    may_accept: CancellationToken,
    /// A new process has taken over the listeners.
    taken_over: CancellationToken,
    /// Stops the listeners, then their connections.
    listeners: ShutdownTokens,
    terminated: CancellationToken,
}

/// Runs until a shutdown signal, or until a new process has taken over.
pub async fn run(
    config: Config,
    log_lines_dropped: LogLinesDropped,
    mut shutdown: Shutdown,
) -> Result<(), RunError> {
    let (signals, tokens) = (Signals::new().map_err(RunError::Signals)?, LifecycleTokens::default());
    let mut background = JoinSet::new();
    let starting = start(config, log_lines_dropped, &tokens, signals, &mut background);
    let started = tokio::select! {
        started = starting => started?,
        // No connection is open yet, so there is nothing to drain.
        () = shutdown.signal() => return Ok(()),
    };
    let access_log = started.admin.proxy.clone();
    let served = serve(started, &tokens, &mut shutdown).await;
    shutdown.ends_within(Duration::ZERO);
    tokens.terminated.cancel();
    join_all(&mut background).await;
    access_log.access_log.flush();
    served.inspect(|()| info!("ended"))
}

/// The components that are started before the listeners.
struct Components {
    admin: Admin,
    takeover: Takeover,
    phase: watch::Sender<Phase>,
}

/// Starts the background tasks.
async fn start(
    mut config: Config,
    log_lines_dropped: LogLinesDropped,
    tokens: &LifecycleTokens,
    signals: Signals,
    background: &mut JoinSet<()>,
) -> Result<Components, RunError> {
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
        tokens.may_accept.cancel();
    }
    background.spawn(serve_admin(admin.clone(), listener, tokens.clone()));
    background.spawn(identity.run(tokens.terminated.clone()));
    let poll_now = start_policy(&proxy, tokens, background, clock).await;
    if let Some(mut subscription) = Subscription::new(proxy.control.clone()) {
        subscription.restore().await;
        background.spawn(subscription.run(tokens.terminated.clone()));
    }
    background.spawn(proxy.clone().watch(tokens.terminated.clone()));
    background.spawn(signals.act_on(poll_now, proxy, tokens.terminated.clone()));
    Ok(Components { admin, takeover, phase })
}

/// Serves the admin endpoint from the start, or from the takeover if an old process still serves it.
async fn serve_admin(admin: Admin, listener: TcpListener, tokens: LifecycleTokens) {
    let until = ShutdownTokens { stop: tokens.taken_over, abort: tokens.terminated };
    if until.abort.run_until_cancelled(tokens.may_accept.cancelled()).await.is_some() {
        admin.run(listener, until).await;
    }
}

/// Loads the policy file before the first connection and starts its watcher.
async fn start_policy(
    proxy: &Arc<ProxyState>,
    tokens: &LifecycleTokens,
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
    let poll_now = file.poll_now.clone();
    file.poll().await;
    background.spawn(file.run(tokens.terminated.clone()));
    poll_now
}

/// Opens the listeners, accepts until a shutdown signal or a takeover, then drains.
async fn serve(
    started: Components,
    tokens: &LifecycleTokens,
    shutdown: &mut Shutdown,
) -> Result<(), RunError> {
    let Components { admin, mut takeover, phase } = started;
    let admin = &admin;
    let (proxy, config) = (&admin.proxy, &admin.proxy.control.config);
    let opened = Listeners::open(proxy, &mut takeover)?;
    tokio::select! {
        ready = takeover.ready(admin) => ready?,
        () = shutdown.signal() => return Ok(()),
    }
    tokens.may_accept.cancel();
    tokio::select! {
        () = takeover.wait_until_ready(admin) => {}
        () = shutdown.signal() => return Ok(()),
    }
    let mut listeners = opened.serve(proxy, &tokens.listeners);
    let drain_time = config.shutdown.drain_delay + config.shutdown.drain_deadline;
    shutdown.may_drain_for(drain_time);
    phase.send_replace(Phase::Serving);
    info!(admin = %config.admin, inbounds = config.inbounds.len(), outbounds = config.outbounds.len(), "listening");
    if let Some(server) = takeover.serving().await {
        listeners.spawn(server.run(tokens.listeners.stop.clone(), tokens.taken_over.clone()));
    }
    tokio::select! {
        () = shutdown.signal() => {}
        () = tokens.taken_over.cancelled() => {}
    }
    phase.send_replace(Phase::Ending);
    shutdown.ends_within(drain_time);
    drain(proxy, tokens, shutdown, &mut listeners).await;
    Ok(())
}

/// Drains: reports not ready for `drain_delay` while still accepting (skipped after a takeover), then stops accepting,
/// then terminates the open connections at the deadline or at a second signal.
async fn drain(
    proxy: &ProxyState,
    tokens: &LifecycleTokens,
    shutdown: &mut Shutdown,
    listeners: &mut JoinSet<()>,
) {
    let config = proxy.control.config.shutdown;
    info!(drain_delay = ?config.drain_delay, "not ready");
    let second_signal = tokio::select! {
        biased;
        () = tokens.taken_over.cancelled() => false,
        () = shutdown.signal() => true,
        () = tokio::time::sleep(config.drain_delay) => false,
    };
    tokens.listeners.stop.cancel();
    if !second_signal {
        let (_, live) = proxy.control.metrics.connections();
        info!(drain_deadline = ?config.drain_deadline, live, "draining");
        tokio::select! {
            () = join_all(listeners) => return,
            () = tokio::time::sleep(config.drain_deadline) => {}
            () = shutdown.signal() => {}
        }
    }
    let (_, live) = proxy.control.metrics.connections();
    warn!(live, "cutting what is still open");
    tokens.listeners.abort.cancel();
    join_all(listeners).await;
}

/// Waits for every task and logs those that failed.
async fn join_all(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            error!(%error, "a task failed");
        }
    }
}
