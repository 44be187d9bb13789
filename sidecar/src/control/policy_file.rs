//! A policy from the own file: reloaded as a whole when that changes.

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

/// How often the file is looked at. Its content is compared, so that symlink swaps and quick rewrites are seen.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// A content that has changed is taken when it is the same again after this time, so that a file that is being written
/// in place is not taken half-written: half a policy can be a valid one that allows less.
pub const SETTLE: Duration = Duration::from_millis(50);
/// A file that never comes to rest is taken as it is after so many looks.
const SETTLE_LOOKS_MAX: usize = 20;
/// A broken file's problems are logged up to this many; `postern-ca policy check` shows all.
const PROBLEMS_LOGGED_MAX: usize = 5;

/// Watches one file.
#[derive(Debug)]
pub struct PolicyFile {
    path: PathBuf,
    store: Arc<PolicyStore>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    /// Wakes the watch before its time, as SIGHUP asks.
    pub look_now: Arc<Notify>,
    /// What the last look saw: each content is judged once.
    seen: Option<Result<Vec<u8>, String>>,
}

impl PolicyFile {
    pub fn new(path: PathBuf, store: Arc<PolicyStore>, metrics: Arc<Metrics>, clock: Arc<dyn Clock>) -> Self {
        store.expect_from(PolicySource::File, Some(path.display().to_string()));
        Self { path, store, metrics, clock, look_now: Arc::default(), seen: None }
    }

    /// Watches until `cancel`.
    pub async fn run(mut self, cancel: CancellationToken) {
        let watch = async {
            loop {
                self.look().await;
                // Whether it was time or SIGHUP, the next step is the same.
                let _woken = tokio::time::timeout(LOOK_INTERVAL, self.look_now.notified()).await;
            }
        };
        cancel.run_until_cancelled(watch).await;
    }

    /// Looks at the file once, and takes what is new in it.
    pub async fn look(&mut self) {
        let mut content = read(&self.path).await;
        if self.seen.as_ref() == Some(&content) {
            return;
        }
        // The first look has nothing to lose: without a policy everybody is refused.
        if self.seen.is_some() {
            content = self.settled(content).await;
        }
        let parsed =
            content.as_deref().map_err(|error| vec![error.clone()]).and_then(|bytes| self.parse(bytes));
        self.seen = Some(content);
        match parsed {
            Ok(policy) => {
                info!(file = %self.path.display(), digest = policy.digest(), "policy in force");
                self.metrics.policy_reloaded("ok");
                self.store.replace(policy, self.clock.now());
            }
            Err(problems) => self.keep_last_good(&problems),
        }
    }

    async fn settled(&self, mut content: Result<Vec<u8>, String>) -> Result<Vec<u8>, String> {
        for _ in 0..SETTLE_LOOKS_MAX {
            tokio::time::sleep(SETTLE).await;
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
        let kept = self.store.current().is_some();
        let consequence = if kept { "the last good policy stays in force" } else { "every peer is refused" };
        self.metrics.policy_reloaded("error");
        let joined = problems.iter().take(PROBLEMS_LOGGED_MAX).cloned().collect::<Vec<_>>().join("; ");
        self.store.refused(joined);
        // The log comes last: whoever reads it there finds the status and the metric to match.
        for problem in problems.iter().take(PROBLEMS_LOGGED_MAX) {
            error!(problem, consequence, problems = problems.len(), "policy file not taken");
        }
    }
}

/// A problem without the picture of its line.
fn one_line(problem: &postern_proto::policy::Problem) -> String {
    problem.to_string().lines().next().unwrap_or_default().to_owned()
}

/// The file's bytes, or why there are none. It is never larger in memory than a policy may be.
async fn read(path: &Path) -> Result<Vec<u8>, String> {
    use tokio::io::AsyncReadExt as _;
    let tell = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = tokio::fs::File::open(path).await.map_err(tell)?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes).await.map_err(tell)?;
    Ok(bytes)
}
