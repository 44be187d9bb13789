//! The signals a sidecar listens to.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tracing::info;

use crate::access_log::AccessLog;

/// SIGTERM and SIGINT end it; SIGHUP asks for a fresh look at the files.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the signal to end, and passes on the wish for a fresh look.
    pub(super) async fn end(&mut self, look_now: &Notify, access_log: &AccessLog) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hang_up.recv() => {
                    info!("SIGHUP: looking at the policy file, opening the access log anew");
                    look_now.notify_one();
                    access_log.reopen();
                }
            }
        }
    }

    /// Waits for the signal to end.
    pub(super) async fn terminate(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
