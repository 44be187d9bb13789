//! The tasks of one HTTP connection, including those that hyper spawns: each has an owner, and ends when the
//! connection is terminated.

use hyper::rt::Executor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Spawns the tasks of one connection.
#[derive(Debug, Clone)]
pub(super) struct ConnectionTasks {
    /// The listener's tracker, which waits for all tasks when it stops.
    tracker: TaskTracker,
    /// Cancelled when the connection is terminated.
    termination: CancellationToken,
}

impl ConnectionTasks {
    pub(super) fn new(tracker: &TaskTracker, termination: &CancellationToken) -> Self {
        Self { tracker: tracker.clone(), termination: termination.clone() }
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        // Boxed once: each wrapping future would otherwise hold it twice.
        let (termination, task) = (self.termination.clone(), Box::pin(task));
        self.tracker.spawn(async move {
            // Dropping a hyper task that holds a connection ends its streams with an error, never cleanly.
            let _terminated_or_done = termination.run_until_cancelled_owned(task).await;
        });
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for ConnectionTasks {
    fn execute(&self, task: F) {
        self.spawn(task);
    }
}
