//! An identity from three PEM files that someone else renews: watched, taken whole or not at all.
//!
//! The contents are read at each look, not the modification times: that sees through the symlink swaps by which
//! Kubernetes updates a volume, and through a rewrite within a file system's time stamp. A change is taken when two
//! looks in a row saw the same, so that a writer is given time to finish.

mod load;

use std::sync::Arc;
use std::time::Duration;

use postern_proto::identity::{Svid, TrustBundles};
use tokio_util::sync::CancellationToken;

use crate::identity::writer::IdentityWriter;
use load::{Contents, Fingerprint};
pub use load::{FilePaths, FilesError, KEY_FILE_BYTES_MAX, SVID_FILE_BYTES_MAX, load};

/// How often the files are looked at.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Owns the identity of a workload that has its files.
#[derive(Debug)]
pub struct IdentityFiles {
    paths: FilePaths,
    holder: IdentityWriter,
    /// What the last look saw.
    seen: Option<Fingerprint>,
    /// What is in place.
    taken: Option<Fingerprint>,
    /// What was told last, so that each problem is told once.
    told: Option<Told>,
}

#[derive(Debug, PartialEq, Eq)]
struct Told {
    seen: Option<Fingerprint>,
    code: &'static str,
}

impl IdentityFiles {
    pub fn new(paths: FilePaths, holder: IdentityWriter) -> Self {
        Self { paths, holder, seen: None, taken: None, told: None }
    }

    /// Works until `cancel`.
    pub async fn run(mut self, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.work()).await;
    }

    async fn work(&mut self) {
        loop {
            self.look().await;
            self.holder.watch_expiry();
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Looks at the files once.
    async fn look(&mut self) {
        let contents = match load::read(&self.paths).await {
            Ok(contents) => contents,
            Err(error) => return self.refused(None, &error),
        };
        let found = contents.fingerprint();
        let settled = self.seen.replace(found) == Some(found) || self.taken.is_none();
        if self.taken == Some(found) {
            // The last good set is back, so whatever was wrong is over.
            self.told = None;
            return self.holder.recovered();
        }
        if settled {
            self.take(&contents, found);
        }
    }

    fn take(&mut self, contents: &Contents, found: Fingerprint) {
        let judged = contents.judge(self.holder.now());
        match judged.and_then(|(svid, bundles)| self.adopt(svid, bundles)) {
            Ok(()) => {
                self.taken = Some(found);
                self.told = None;
            }
            Err(error) => self.refused(Some(found), &error),
        }
    }

    fn adopt(&mut self, svid: Svid, bundles: TrustBundles) -> Result<(), FilesError> {
        self.holder.adopt(svid, Arc::new(bundles)).map_err(FilesError::Unusable)
    }

    /// What is in place stays; the problem is told once.
    fn refused(&mut self, seen: Option<Fingerprint>, error: &FilesError) {
        let telling = Some(Told { seen, code: error.code() });
        if self.told != telling {
            self.told = telling;
            self.holder.failed(error.code(), error);
        }
    }
}
