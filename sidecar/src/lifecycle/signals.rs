//! Signal handling: SIGHUP.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::proxy::state::ProxyState;

/// The handler of SIGHUP, which reloads the policy file and reopens the access log. The main thread handles the signals
/// that end the process.
#[derive(Debug)]
pub(super) struct Signals {
    hang_up: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { hang_up: signal(SignalKind::hangup())? })
    }

    /// Handles signals until `over`, including those that arrived before.
    pub(super) async fn act_on(
        mut self,
        poll_now: Arc<Notify>,
        proxy: Arc<ProxyState>,
        over: CancellationToken,
    ) {
        while over.run_until_cancelled(self.hang_up.recv()).await.flatten().is_some() {
            info!("SIGHUP: looking at the policy file, opening the access log anew");
            poll_now.notify_one();
            proxy.access_log.reopen();
        }
    }
}
