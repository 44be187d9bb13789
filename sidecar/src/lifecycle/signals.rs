//! The signals a sidecar listens to.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::proxy::state::ProxyState;

/// SIGHUP, which asks for a fresh look at the files. Those that end the process are heard by its main thread.
#[derive(Debug)]
pub(super) struct Signals {
    hang_up: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { hang_up: signal(SignalKind::hangup())? })
    }

    /// Acts on them until everything is over. What came before is not lost.
    pub(super) async fn act_on(
        mut self,
        look_now: Arc<Notify>,
        proxy: Arc<ProxyState>,
        over: CancellationToken,
    ) {
        while over.run_until_cancelled(self.hang_up.recv()).await.flatten().is_some() {
            info!("SIGHUP: looking at the policy file, opening the access log anew");
            look_now.notify_one();
            proxy.access_log.reopen();
        }
    }
}
