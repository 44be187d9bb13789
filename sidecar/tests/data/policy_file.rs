//! The policy file: reloaded as a whole when it changes, and never replaced by a broken one.

use std::path::Path;
use std::sync::Arc;

use postern_sidecar::clock::SystemClock;
use postern_sidecar::control::policy_file::PolicyFile;
use postern_sidecar::control::policy_store::PolicyStore;
use postern_sidecar::observability::metrics::Metrics;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::sidecar::{POLICY, eventually};

struct InstrumentedIo {
    dir: tempfile::TempDir,
    store: Arc<PolicyStore>,
    metrics: Arc<Metrics>,
    _task: JoinHandle<()>,
    _guard: DropGuard,
}

impl InstrumentedIo {
    async fn new(prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let (store, metrics) = (Arc::<PolicyStore>::default(), Arc::<Metrics>::default());
        let path = dir.path().join("policy.toml");
        let mut file = PolicyFile::new(path, store.clone(), metrics.clone(), Arc::new(SystemClock));
        file.poll().await;
        let cancel = CancellationToken::new();
        let task = tokio::spawn(file.run(cancel.clone()));
        Self { dir, store, metrics, _task: task, _guard: cancel.drop_guard() }
    }

    async fn with_policy() -> Self {
        Self::new(|dir| std::fs::write(dir.join("policy.toml"), POLICY).unwrap()).await
    }

    fn digest(&self) -> Option<String> {
        self.store.current().map(|policy| policy.digest().to_owned())
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join(name), text).unwrap();
    }

    async fn error(&self) -> String {
        eventually("an error", || self.store.status().last_error).await
    }

    async fn replaced(&self, old: &Option<String>) {
        eventually("another policy", || (self.digest() != *old).then_some(())).await;
        assert_eq!(self.store.status().last_error, None);
    }
}

fn larger() -> String {
    format!("{POLICY}\n[service.audit]\n")
}

#[tokio::test]
async fn a_change_is_taken_and_counted() {
    let watched = InstrumentedIo::with_policy().await;
    let old = watched.digest();
    assert!(old.is_some());
    watched.write("policy.toml", &larger());
    watched.replaced(&old).await;
    let text = watched.metrics.text().unwrap();
    assert!(text.contains("postern_policy_reloads_total{result=\"ok\"} 2"), "{text}");
}

#[tokio::test]
async fn a_broken_file_keeps_the_last_good_policy_and_says_where_it_is_broken() {
    let watched = InstrumentedIo::with_policy().await;
    let old = watched.digest();
    watched.write("policy.toml", "trust_domain = \"shop.example\"\n[servce.payments]\n");
    let error = watched.error().await;
    assert!(error.contains("policy.toml:2:2") && error.contains("servce"), "{error}");
    assert_eq!(watched.digest(), old);
    assert!(watched.metrics.text().unwrap().contains("postern_policy_reloads_total{result=\"error\"} 1"));
    watched.write("policy.toml", &larger());
    watched.replaced(&old).await;
}

#[tokio::test]
async fn a_file_that_vanishes_or_is_no_text_or_is_too_large_keeps_the_last_good_policy() {
    let watched = InstrumentedIo::with_policy().await;
    let old = watched.digest();
    std::fs::remove_file(watched.dir.path().join("policy.toml")).unwrap();
    assert!(watched.error().await.contains("policy.toml"));
    std::fs::write(watched.dir.path().join("policy.toml"), [0xff, 0xfe]).unwrap();
    eventually("not text", || watched.store.status().last_error.filter(|error| error.contains("UTF-8")))
        .await;
    watched.write("policy.toml", &"#".repeat(2 * 1024 * 1024));
    eventually("too large", || watched.store.status().last_error.filter(|error| !error.contains("UTF-8")))
        .await;
    assert_eq!(watched.digest(), old);
}

#[tokio::test]
async fn a_directory_swapped_behind_a_symlink_is_seen() {
    let watched = InstrumentedIo::new(|dir| {
        for (version, text) in [("v1", POLICY.to_owned()), ("v2", larger())] {
            std::fs::create_dir(dir.join(version)).unwrap();
            std::fs::write(dir.join(version).join("policy.toml"), text).unwrap();
        }
        std::os::unix::fs::symlink("v1", dir.join("current")).unwrap();
        std::os::unix::fs::symlink("current/policy.toml", dir.join("policy.toml")).unwrap();
    })
    .await;
    let old = watched.digest();
    // As Kubernetes does with a config map.
    std::os::unix::fs::symlink("v2", watched.dir.path().join("next")).unwrap();
    std::fs::rename(watched.dir.path().join("next"), watched.dir.path().join("current")).unwrap();
    watched.replaced(&old).await;
}

#[tokio::test]
async fn a_file_that_comes_later_is_taken() {
    let watched = InstrumentedIo::new(|_| {}).await;
    assert_eq!(watched.digest(), None);
    assert!(watched.error().await.contains("policy.toml"));
    watched.write("policy.toml", POLICY);
    watched.replaced(&None).await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_written_piece_by_piece_is_taken_when_it_is_whole() {
    use std::io::Write as _;
    let watched = InstrumentedIo::with_policy().await;
    let mut changes = watched.store.changes();
    changes.mark_unchanged();
    let whole = larger();
    let mut file = std::fs::File::create(watched.dir.path().join("policy.toml")).unwrap();
    let pieces: Vec<_> = whole.split_inclusive('\n').collect();
    for piece in pieces {
        file.write_all(piece.as_bytes()).unwrap();
        // A writer this slow is far from done when the next look comes.
        tokio::time::sleep(postern_sidecar::control::policy_file::SETTLE_TIME / 2).await;
    }
    changes.changed().await.unwrap();
    assert_eq!(watched.store.current().unwrap().services().len(), 4, "whole, at the first change");
    assert_eq!(watched.store.status().last_error, None);
}
