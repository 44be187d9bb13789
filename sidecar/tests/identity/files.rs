//! An identity from files: taken whole or not at all, whatever the writer does.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use postern_sidecar::config::IdentitySource;
use postern_sidecar::identity::IdentityTask;
use postern_sidecar::identity::credentials::CredentialStore;
use postern_sidecar::network::resolver::NameServers;
use time::{Duration, OffsetDateTime};

use crate::authority::{Authority, Validity, id, pem};
use crate::clock::SetClock;
use crate::workload::Workload;

struct Files {
    dir: tempfile::TempDir,
    clock: Arc<SetClock>,
}

/// The three files' texts.
#[derive(Clone)]
struct Set {
    svid: String,
    key: String,
    bundle: String,
}

fn set(authority: &Authority) -> Set {
    set_for(authority, Validity::of(Duration::hours(1), OffsetDateTime::now_utc()))
}

fn set_for(authority: &Authority, validity: Validity) -> Set {
    let (leaf, key) = authority.leaf(&id("orders"), validity);
    Set {
        svid: pem("CERTIFICATE", &leaf),
        key: pem("PRIVATE KEY", &key.serialize_der()),
        bundle: pem("CERTIFICATE", &authority.root),
    }
}

impl Files {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), clock: Arc::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, set: &Set) {
        self.write_to(self.dir.path(), set);
    }

    fn write_to(&self, dir: &Path, set: &Set) {
        for (name, text) in [("svid.pem", &set.svid), ("key.pem", &set.key), ("bundle.pem", &set.bundle)] {
            std::fs::write(dir.join(name), text).unwrap();
        }
    }

    fn start(&self) -> Workload {
        self.start_in("")
    }

    fn start_in(&self, sub: &str) -> Workload {
        let path = |name: &str| self.path(sub).join(name);
        let source = IdentitySource::Files {
            svid: path("svid.pem"),
            key: path("key.pem"),
            bundle: path("bundle.pem"),
        };
        let store = Arc::new(CredentialStore::default());
        let task = IdentityTask::new(&source, store.clone(), NameServers::default(), self.clock.clone());
        Workload::run(store, task.status(), |cancel| task.run(cancel))
    }
}

#[tokio::test]
async fn a_good_set_is_taken_at_once_and_a_new_one_when_it_comes() {
    let (files, authority) = (Files::new(), Authority::new());
    files.write(&set(&authority));
    let mut workload = files.start();
    let credentials = workload.until_enrolled().await;
    assert_eq!(*credentials.svid.id(), id("orders"));
    files.write(&set(&authority));
    let status = workload.until(|status| status.rotations == 1).await;
    assert_eq!((status.generation, status.last_error), (2, None));
    workload.stop().await;
}

#[tokio::test]
async fn absent_files_are_waited_for() {
    let (files, authority) = (Files::new(), Authority::new());
    let mut workload = files.start();
    let error = workload.until_error().await;
    assert_eq!(error.code, "file_unreadable");
    assert!(error.reason.contains("svid.pem"), "{error:?}");
    files.write(&set(&authority));
    workload.until_enrolled().await;
    assert_eq!(workload.status().last_error, None);
}

/// The last good set stays, the problem is told once, and the next good set is taken.
async fn keeps_the_last_good(break_it: impl Fn(&Files, Set), code: &str) {
    let (files, authority) = (Files::new(), Authority::new());
    files.write(&set(&authority));
    let mut workload = files.start();
    let before = workload.until_enrolled().await;
    break_it(&files, set(&authority));
    let error = workload.until_error().await;
    assert_eq!(error.code, code, "{}", error.reason);
    assert_eq!(workload.store.current().unwrap().svid.chain(), before.svid.chain());
    files.write(&set(&authority));
    let status = workload.until(|status| status.rotations == 1).await;
    assert_eq!((status.failures, status.last_error), (1, None));
}

#[tokio::test]
async fn a_mismatched_key() {
    keeps_the_last_good(|files, new| std::fs::write(files.path("key.pem"), new.key).unwrap(), "key_mismatch")
        .await;
}

#[tokio::test]
async fn a_half_written_certificate_key_or_bundle() {
    let half = |text: &str| text[..text.len() / 2].to_owned();
    let svid = |files: &Files, new: Set| std::fs::write(files.path("svid.pem"), half(&new.svid)).unwrap();
    let key = |files: &Files, new: Set| std::fs::write(files.path("key.pem"), half(&new.key)).unwrap();
    let bundle =
        |files: &Files, new: Set| std::fs::write(files.path("bundle.pem"), half(&new.bundle)).unwrap();
    tokio::join!(
        keeps_the_last_good(svid, "file_malformed"),
        keeps_the_last_good(key, "file_malformed"),
        keeps_the_last_good(bundle, "bundle_refused"),
    );
}

#[tokio::test]
async fn a_file_that_is_gone_or_too_large_or_a_directory() {
    let gone = |files: &Files, _| std::fs::remove_file(files.path("key.pem")).unwrap();
    let large = |files: &Files, _| std::fs::write(files.path("key.pem"), vec![b'\n'; 64 * 1024 + 1]).unwrap();
    tokio::join!(keeps_the_last_good(gone, "file_unreadable"), keeps_the_last_good(large, "file_too_large"));
    let (files, authority) = (Files::new(), Authority::new());
    files.write(&set(&authority));
    std::fs::remove_file(files.path("svid.pem")).unwrap();
    std::fs::create_dir(files.path("svid.pem")).unwrap();
    assert!(files.start().until_error().await.reason.contains("is not a file"));
}

#[tokio::test]
async fn an_expired_set_and_a_set_of_another_root() {
    let (files, authority) = (Files::new(), Authority::new());
    files.write(&set(&authority));
    let mut workload = files.start();
    workload.until_enrolled().await;
    files.write(&set_for(&authority, Validity::of(Duration::seconds(-5), OffsetDateTime::now_utc())));
    assert_eq!(workload.until_error().await.code, "expired");
    files.write(&Set { bundle: set(&Authority::new()).bundle, ..set(&authority) });
    workload.until(|status| status.failures == 2).await;
    assert_eq!(workload.status().generation, 1);
}

#[tokio::test]
async fn an_empty_bundle_trusts_nobody_and_is_not_taken() {
    let (files, authority) = (Files::new(), Authority::new());
    files.write(&set(&authority));
    let mut workload = files.start();
    workload.until_enrolled().await;
    std::fs::write(files.path("bundle.pem"), "").unwrap();
    workload.until_error().await;
    assert_eq!(workload.status().generation, 1);
}

#[tokio::test]
async fn roots_may_come_and_go_in_either_order() {
    let (files, old, new) = (Files::new(), Authority::new(), Authority::new());
    let first = set(&old);
    files.write(&first);
    let mut workload = files.start();
    workload.until_enrolled().await;
    let second = set(&new);
    let both = format!("{}{}", first.bundle, second.bundle);
    std::fs::write(files.path("bundle.pem"), &both).unwrap();
    workload.until(|status| status.rotations == 1).await;
    files.write(&Set { bundle: both, ..second.clone() });
    workload.until(|status| status.rotations == 2).await;
    files.write(&second);
    let status = workload.until(|status| status.rotations == 3).await;
    assert_eq!((status.failures, status.last_error), (0, None));
}

#[tokio::test]
async fn a_volume_swapped_by_symlink_as_kubernetes_does_is_seen() {
    let (files, authority) = (Files::new(), Authority::new());
    let point_to = |generation: &str| {
        std::fs::create_dir(files.path(generation)).unwrap();
        files.write_to(&files.path(generation), &set(&authority));
        std::os::unix::fs::symlink(generation, files.path("..data_tmp")).unwrap();
        std::fs::rename(files.path("..data_tmp"), files.path("..data")).unwrap();
    };
    point_to("..2026_1");
    for name in ["svid.pem", "key.pem", "bundle.pem"] {
        std::os::unix::fs::symlink(format!("..data/{name}"), files.path(name)).unwrap();
    }
    let mut workload = files.start();
    workload.until_enrolled().await;
    point_to("..2026_2");
    workload.until(|status| status.rotations == 1).await;
    assert_eq!(workload.status().failures, 0);
}

#[tokio::test]
async fn a_set_that_becomes_valid_later_is_taken_then() {
    let (files, authority) = (Files::new(), Authority::new());
    let tomorrow = OffsetDateTime::now_utc() + Duration::days(1);
    files.write(&set_for(&authority, Validity::of(Duration::hours(1), tomorrow)));
    let mut workload = files.start();
    workload.until_error().await;
    files.clock.set_wrong_by(Duration::days(1));
    workload.until_enrolled().await;
}
