//! The task that obtains and renews the sidecar's identity, from a CA or from files.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::IdentitySource;
use crate::identity::ca_client::{CaClient, Timeouts};
use crate::identity::credentials::CredentialStore;
use crate::identity::files::{FilePaths, IdentityFiles};
use crate::identity::renewal::Renewal;
use crate::identity::state_dir::StateDir;
use crate::identity::writer::IdentityWriter;
use crate::network::resolver::NameServers;

use super::status::IdentityStatus;

/// Fills a credential store and keeps it up to date. Created before it runs, so that its status can be watched.
#[derive(Debug)]
pub struct IdentityTask {
    status: watch::Receiver<IdentityStatus>,
    work: Work,
}

#[derive(Debug)]
enum Work {
    Renewal(Box<Renewal>),
    Files(Box<IdentityFiles>),
}

impl IdentityTask {
    /// Creates the task. It does nothing before [`Self::run`].
    pub fn new(
        source: &IdentitySource,
        store: Arc<CredentialStore>,
        name_servers: NameServers,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let (writer, status) = IdentityWriter::new(store, clock);
        let work = match source.clone() {
            IdentitySource::Ca { ca, join_token, state_dir } => {
                let client = CaClient::new(ca, name_servers, Timeouts::default());
                let state = state_dir.map(StateDir::new);
                Work::Renewal(Box::new(Renewal::new(client, join_token, state, writer)))
            }
            IdentitySource::Files { svid, key, bundle } => {
                Work::Files(Box::new(IdentityFiles::new(FilePaths { svid, key, bundle }, writer)))
            }
        };
        Self { status, work }
    }

    /// A receiver for the status, also while the task runs.
    pub fn status(&self) -> watch::Receiver<IdentityStatus> {
        self.status.clone()
    }

    /// Runs until `cancel`.
    pub async fn run(self, cancel: CancellationToken) {
        match self.work {
            Work::Renewal(renewal) => renewal.run(cancel).await,
            Work::Files(files) => files.run(cancel).await,
        }
    }
}
