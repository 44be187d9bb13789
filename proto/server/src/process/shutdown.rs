//! What a server hears of its end, and what it says about how long that may take.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// The server's side of the supervision.
#[derive(Debug)]
pub struct Shutdown {
    signals: watch::Receiver<u32>,
    /// As many of the signals this side has acted on.
    heard: u32,
    bound: watch::Sender<Bound>,
}

/// By when the server has ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bound {
    /// So long after the first signal.
    AfterSignal(Duration),
    At(Instant),
}

impl Shutdown {
    pub(crate) fn new(signals: watch::Receiver<u32>, bound: watch::Sender<Bound>) -> Self {
        Self { signals, heard: 0, bound }
    }

    /// Waits for the next signal to end that has not been heard yet.
    pub async fn signal(&mut self) {
        let heard = self.heard;
        if self.signals.wait_for(|sent| *sent > heard).await.is_err() {
            // The supervisor lives as long as the process.
            std::future::pending::<()>().await;
        }
        self.heard += 1;
    }

    /// From now on the server drains, once a signal comes, and that may take so long. Without this it ends at once.
    pub fn may_drain_for(&self, drain: Duration) {
        self.bound.send_replace(Bound::AfterSignal(drain));
    }

    /// The end has begun, with or without a signal, and may take so long.
    pub fn ends_within(&self, time: Duration) {
        self.bound.send_replace(Bound::At(Instant::now() + time));
    }
}
