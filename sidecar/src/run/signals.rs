//! The signals a sidecar listens to.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tracing::info;

use crate::plane::Plane;

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

    /// From now on they are acted on; what came before is not lost.
    pub(super) fn act_on(self, look_now: Arc<Notify>, plane: Arc<Plane>) -> Told {
        Told { signals: self, look_now, plane }
    }
}

/// What the sidecar is told while it runs, and while it ends.
#[derive(Debug)]
pub(super) struct Told {
    signals: Signals,
    look_now: Arc<Notify>,
    plane: Arc<Plane>,
}

impl Told {
    /// Waits for the signal to end, and passes on the wish for a fresh look.
    pub(super) async fn end(&mut self) {
        loop {
            tokio::select! {
                _ = self.signals.terminate.recv() => return,
                _ = self.signals.interrupt.recv() => return,
                _ = self.signals.hang_up.recv() => {
                    info!("SIGHUP: looking at the policy file, opening the access log anew");
                    self.look_now.notify_one();
                    self.plane.access_log.reopen();
                }
            }
        }
    }
}
