//! Sidecars that listen to a fake CA.

use std::sync::Arc;

use postern_sidecar::config::IdentitySource;
use postern_sidecar::control::subscription::{Subscription, SubscriptionStatus};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::apps::{App, echoed};
use crate::fake_ca::{Behaviour, FakeCa};
use crate::sidecar::{PATIENCE, Sidecar, Spec};

/// Nobody may call anybody.
pub const NOBODY: &str =
    "trust_domain = \"shop.example\"\n[service.payments]\n[service.orders]\n[service.reports]\n";

/// `payments`, which listens to the CA, and two callers with a policy of their own.
pub struct Shop {
    pub ca: FakeCa,
    pub home: tempfile::TempDir,
    pub app: App,
}

/// A sidecar and its subscription.
pub struct Listening {
    pub sidecar: Sidecar,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Shop {
    pub async fn new() -> Self {
        let ca = FakeCa::start(Behaviour::HangInRequest).await;
        Self { ca, home: tempfile::tempdir().unwrap(), app: App::echo().await }
    }

    /// What `payments` starts with, also again.
    pub fn spec(&self) -> Spec {
        let mut spec = Spec::new(&self.ca.authority, "payments").app(self.app.address);
        spec.policy = None;
        spec.identity = IdentitySource::Ca {
            ca: self.ca.host_port(),
            join_token: None,
            state_dir: Some(self.home.path().join("state")),
        };
        spec
    }

    pub async fn payments(&self) -> Listening {
        self.listening(self.spec()).await
    }

    pub async fn listening(&self, spec: Spec) -> Listening {
        let sidecar = spec.start(&self.ca.authority);
        let mut subscription = Subscription::new(sidecar.proxy.control.clone()).unwrap();
        subscription.restore().await;
        let cancel = CancellationToken::new();
        let task = tokio::spawn(subscription.run(cancel.clone()));
        Listening { sidecar, cancel, task }
    }

    /// A sidecar that calls `payments`.
    pub fn caller(&self, name: &str, payments: &Listening) -> Sidecar {
        let to = payments.sidecar.inbound.unwrap();
        Spec::new(&self.ca.authority, name).to(&[to]).start(&self.ca.authority)
    }

    /// As if its machine were gone.
    pub fn away(&self) {
        self.ca.behave(Behaviour::Away);
        self.ca.subscriptions().refuse(Some(tonic::Status::unavailable("gone")));
    }

    pub fn back(&self) {
        self.ca.subscriptions().refuse(None);
        self.ca.behave(Behaviour::HangInRequest);
    }

    pub fn kept(&self) -> std::path::PathBuf {
        self.home.path().join("state/subscription.json")
    }
}

impl Listening {
    /// Waits until the subscription stands so.
    pub async fn until(&self, such: impl FnMut(&SubscriptionStatus) -> bool) -> SubscriptionStatus {
        let mut status = self.sidecar.proxy.control.subscription.subscribe();
        if let Ok(status) = tokio::time::timeout(PATIENCE, status.wait_for(such)).await {
            return status.unwrap().clone();
        }
        panic!("still {:?}", self.sidecar.proxy.control.subscription.borrow())
    }

    /// Ends the subscription and then all that is open; what is to be kept is on the disk then.
    pub async fn stop(self) {
        self.cancel.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap();
        self.sidecar.abort.cancel();
    }
}

/// An open connection through a caller, which has answered.
pub async fn echoing(caller: &Sidecar) -> TcpStream {
    let mut stream = TcpStream::connect(caller.outbound.unwrap()).await.unwrap();
    echoed(&mut stream).await.unwrap();
    stream
}

/// Whether a new connection is served.
pub async fn is_served(caller: &Sidecar) -> bool {
    let mut stream = TcpStream::connect(caller.outbound.unwrap()).await.unwrap();
    echoed(&mut stream).await.is_ok()
}

pub fn text_of(proxy: &Arc<postern_sidecar::proxy::state::ProxyState>) -> String {
    proxy.control.metrics.text().unwrap()
}
