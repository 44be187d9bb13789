//! The tasks of one HTTP connection, those that hyper spawns included: each has an owner, and ends when the connection
//! is cut.

use hyper::rt::Executor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Spawns the tasks of one connection.
#[derive(Debug, Clone)]
pub(super) struct ConnectionTasks {
    /// Of the listener, which waits for all of them at its end.
    tracker: TaskTracker,
    /// Cancelled when the connection is cut.
    cut: CancellationToken,
}

impl ConnectionTasks {
    pub(super) fn new(tracker: &TaskTracker, cut: &CancellationToken) -> Self {
        Self { tracker: tracker.clone(), cut: cut.clone() }
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        // Boxed once: each future around it would hold it twice more, for as long as it runs.
        let (cut, task) = (self.cut.clone(), Box::pin(task));
        self.tracker.spawn(async move {
            // Dropping a task of hyper's that holds a connection ends its streams with an error, never cleanly.
            let _cut_or_done = cut.run_until_cancelled_owned(task).await;
        });
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for ConnectionTasks {
    fn execute(&self, task: F) {
        self.spawn(task);
    }
}
