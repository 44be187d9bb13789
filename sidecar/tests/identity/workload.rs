//! A sidecar's identity task under test, with a state directory and a token file of its own.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use postern_sidecar::clock::Clock;
use postern_sidecar::config::JoinTokenSource;
use postern_sidecar::identity::ca_client::{CaClient, Timeouts};
use postern_sidecar::identity::credentials::{CredentialStore, Credentials};
use postern_sidecar::identity::renewal::Renewal;
use postern_sidecar::identity::state_dir::StateDir;
use postern_sidecar::identity::writer::IdentityWriter;
use postern_sidecar::identity::{IdentityError, IdentityStatus};
use postern_sidecar::network::resolver::NameServers;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::clock::SetClock;
use crate::fake_ca::FakeCa;

/// A test that waits longer than this has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Short, so that a CA that hangs costs a test little.
pub const SHORT: Timeouts = Timeouts {
    connect: Duration::from_millis(500),
    handshake: Duration::from_millis(500),
    request: Duration::from_millis(500),
};

/// What outlives a restart.
pub struct Home {
    pub dir: tempfile::TempDir,
    pub clock: Arc<SetClock>,
}

impl Home {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), clock: Arc::default() }
    }

    pub fn clock(&self) -> Arc<dyn Clock> {
        self.clock.clone()
    }

    pub fn put_token(&self, token: &str) {
        std::fs::write(self.token(), format!("{token}\n")).unwrap();
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub fn state_file(&self) -> PathBuf {
        self.state().join("identity.json")
    }

    fn token(&self) -> PathBuf {
        self.dir.path().join("token")
    }

    /// Starts the task against this CA.
    pub fn start(&self, ca: &FakeCa) -> Workload {
        self.start_with(CaClient::new(ca.host_port(), NameServers::default(), SHORT))
    }

    pub fn start_with(&self, client: CaClient) -> Workload {
        let store = Arc::new(CredentialStore::default());
        let (holder, status) = IdentityWriter::new(store.clone(), self.clock());
        let token = Some(JoinTokenSource::File(self.token()));
        let state = Some(StateDir::new(self.state()));
        let renewal = Renewal::new(client, token, state, holder);
        Workload::run(store, status, |cancel| renewal.run(cancel))
    }
}

pub struct Workload {
    pub store: Arc<CredentialStore>,
    status: watch::Receiver<IdentityStatus>,
    cancel: CancellationToken,
    task: Option<JoinHandle<()>>,
    _guard: DropGuard,
}

impl Workload {
    pub fn run<F: Future<Output = ()> + Send + 'static>(
        store: Arc<CredentialStore>,
        status: watch::Receiver<IdentityStatus>,
        run: impl FnOnce(CancellationToken) -> F,
    ) -> Self {
        let cancel = CancellationToken::new();
        let task = Some(tokio::spawn(run(cancel.clone())));
        Self { store, status, cancel: cancel.clone(), task, _guard: cancel.drop_guard() }
    }

    /// Waits until the status is such.
    pub async fn until(&mut self, such: impl FnMut(&IdentityStatus) -> bool) -> IdentityStatus {
        if let Ok(status) = tokio::time::timeout(PATIENCE, self.status.wait_for(such)).await {
            return status.unwrap().clone();
        }
        panic!("still {:?}", self.status())
    }

    pub async fn until_enrolled(&mut self) -> Arc<Credentials> {
        self.until(|status| status.id.is_some()).await;
        self.store.current().unwrap()
    }

    pub async fn until_error(&mut self) -> IdentityError {
        self.until(|status| status.last_error.is_some()).await.last_error.unwrap()
    }

    pub fn status(&self) -> IdentityStatus {
        self.status.borrow().clone()
    }

    /// Ends the task, which must end when told.
    pub async fn stop(mut self) {
        self.cancel.cancel();
        tokio::time::timeout(PATIENCE, self.task.take().unwrap()).await.unwrap().unwrap();
    }
}
