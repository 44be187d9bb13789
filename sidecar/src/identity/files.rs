//! An identity from three PEM files that another program renews. The files are polled and used all together or not at
//! all.
//!
//! Each poll reads the contents, not the modification times. That detects the symlink swaps by which Kubernetes updates
//! a volume, and a rewrite within the time resolution of the file system. A change is used after two polls in a row
//! have read the same contents, so that a writer has time to finish.

mod load;

use std::sync::Arc;
use std::time::Duration;

use postern_proto::identity::{Svid, TrustBundles};
use tokio_util::sync::CancellationToken;

use crate::identity::writer::IdentityWriter;
use load::{FileContents, FilesFingerprint};
pub use load::{FilePaths, FilesError, KEY_FILE_BYTES_MAX, SVID_FILE_BYTES_MAX, load};

/// Interval between two polls of the files.
pub const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Provides the identity of a workload that is configured with files.
#[derive(Debug)]
pub struct IdentityFiles {
    paths: FilePaths,
    writer: IdentityWriter,
    /// FilesFingerprint of the files at the last poll.
    last_read: Option<FilesFingerprint>,
    /// FilesFingerprint of the identity in use.
    installed: Option<FilesFingerprint>,
    /// The last reported error, so that each error is reported once.
    reported: Option<ReportedError>,
}

#[derive(Debug, PartialEq, Eq)]
struct ReportedError {
    last_read: Option<FilesFingerprint>,
    code: &'static str,
}

impl IdentityFiles {
    pub fn new(paths: FilePaths, writer: IdentityWriter) -> Self {
        Self { paths, writer, last_read: None, installed: None, reported: None }
    }

    /// Runs until `cancel`.
    pub async fn run(mut self, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.poll_forever()).await;
    }

    async fn poll_forever(&mut self) {
        loop {
            self.poll().await;
            self.writer.log_expiry();
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Polls the files once.
    async fn poll(&mut self) {
        let contents = match load::read(&self.paths).await {
            Ok(contents) => contents,
            Err(error) => return self.report_failure(None, &error),
        };
        let current = contents.fingerprint();
        let settled = self.last_read.replace(current) == Some(current) || self.installed.is_none();
        if self.installed == Some(current) {
            // The files are those in use again, so an earlier error is resolved.
            self.reported = None;
            return self.writer.record_recovery();
        }
        if settled {
            self.use_contents(&contents, current);
        }
    }

    fn use_contents(&mut self, contents: &FileContents, current: FilesFingerprint) {
        let verified = contents.verify(self.writer.now());
        match verified.and_then(|(svid, bundles)| self.install(svid, bundles)) {
            Ok(()) => {
                self.installed = Some(current);
                self.reported = None;
            }
            Err(error) => self.report_failure(Some(current), &error),
        }
    }

    fn install(&mut self, svid: Svid, bundles: TrustBundles) -> Result<(), FilesError> {
        self.writer.install(svid, Arc::new(bundles)).map_err(FilesError::Unusable)
    }

    /// Reports an error once; the identity in use stays.
    fn report_failure(&mut self, last_read: Option<FilesFingerprint>, error: &FilesError) {
        let error_report = Some(ReportedError { last_read, code: error.code() });
        if self.reported != error_report {
            self.reported = error_report;
            self.writer.record_failure(error.code(), error);
        }
    }
}
