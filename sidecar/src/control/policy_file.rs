//! A policy from a local file, reloaded when the file changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use postern_proto::policy::{FILE_BYTES_MAX, Policy};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::clock::Clock;
use crate::control::policy_store::{PolicySource, PolicyStore};
use crate::observability::metrics::Metrics;

/// Interval between two polls of the file. Contents are compared, so that symlink swaps and quick rewrites are
/// detected.
pub const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// A changed file is used when its content is still the same after this time, so that a file that is being written in
/// place is not used half-written: half a policy can be a valid policy that allows less.
pub const SETTLE_TIME: Duration = Duration::from_millis(50);
/// A file that keeps changing is used as it is after this number of polls.
const SETTLE_POLLS_MAX: usize = 20;
/// Maximum number of problems of an invalid file that are logged; `postern-ca policy check` shows all.
const PROBLEMS_LOGGED_MAX: usize = 5;

/// Watches one policy file.
#[derive(Debug)]
pub struct PolicyFile {
    path: PathBuf,
    store: Arc<PolicyStore>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    /// Triggers a poll immediately, for SIGHUP.
    pub poll_now: Arc<Notify>,
    /// The content of the last poll: each content is parsed once.
    last_content: Option<Result<Vec<u8>, String>>,
}

impl PolicyFile {
    pub fn new(path: PathBuf, store: Arc<PolicyStore>, metrics: Arc<Metrics>, clock: Arc<dyn Clock>) -> Self {
        store.expect_from(PolicySource::File, Some(path.display().to_string()));
        Self { path, store, metrics, clock, poll_now: Arc::default(), last_content: None }
    }

    /// Watches until `cancel`.
    pub async fn run(mut self, cancel: CancellationToken) {
        let watch = async {
            loop {
                self.poll().await;
                // A timeout and SIGHUP both lead to the next poll.
                let _woken = tokio::time::timeout(POLL_INTERVAL, self.poll_now.notified()).await;
            }
        };
        cancel.run_until_cancelled(watch).await;
    }

    /// Polls the file once and applies a changed policy.
    pub async fn poll(&mut self) {
        let mut content = read(&self.path).await;
        if self.last_content.as_ref() == Some(&content) {
            return;
        }
        // The first poll need not wait: without a policy every peer is refused.
        if self.last_content.is_some() {
            content = self.wait_until_unchanged(content).await;
        }
        let parsed =
            content.as_deref().map_err(|error| vec![error.clone()]).and_then(|bytes| self.parse(bytes));
        self.last_content = Some(content);
        match parsed {
            Ok(policy) => {
                info!(file = %self.path.display(), digest = policy.digest(), "policy in force");
                self.metrics.policy_reloaded("ok");
                self.store.replace(policy, self.clock.now());
            }
            Err(problems) => self.keep_last_good(&problems),
        }
    }

    async fn wait_until_unchanged(&self, mut content: Result<Vec<u8>, String>) -> Result<Vec<u8>, String> {
        for _ in 0..SETTLE_POLLS_MAX {
            tokio::time::sleep(SETTLE_TIME).await;
            let again = read(&self.path).await;
            if again == content {
                break;
            }
            content = again;
        }
        content
    }

    fn parse(&self, bytes: &[u8]) -> Result<Policy, Vec<String>> {
        let file = self.path.display().to_string();
        let text =
            std::str::from_utf8(bytes).map_err(|error| vec![format!("{file}: not UTF-8 text: {error}")])?;
        Policy::parse(&file, text).map_err(|problems| problems.iter().map(one_line).collect())
    }

    fn keep_last_good(&self, problems: &[String]) {
        let has_policy = self.store.current().is_some();
        let consequence =
            if has_policy { "the last good policy stays in force" } else { "every peer is refused" };
        self.metrics.policy_reloaded("error");
        let joined = problems.iter().take(PROBLEMS_LOGGED_MAX).cloned().collect::<Vec<_>>().join("; ");
        self.store.refused(joined);
        // Log last: whoever reads the log line then finds a matching status and metric.
        for problem in problems.iter().take(PROBLEMS_LOGGED_MAX) {
            error!(problem, consequence, problems = problems.len(), "policy file not taken");
        }
    }
}

/// The first line of a problem, without the source excerpt.
fn one_line(problem: &postern_proto::policy::Problem) -> String {
    problem.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Reads the file, or returns an error text. Reads at most one byte more than a policy may have.
async fn read(path: &Path) -> Result<Vec<u8>, String> {
    use tokio::io::AsyncReadExt as _;
    let describe = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = tokio::fs::File::open(path).await.map_err(describe)?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes).await.map_err(describe)?;
    Ok(bytes)
}
