//! The mesh most tests need: `orders` may call `payments`, `reports` may not.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::apps::App;
use crate::{Ca, CaOptions, Mesh, Sidecar, SidecarSpec, eventually};

/// Who may call whom: one rule.
pub const POLICY: &str = r#"trust_domain = "shop.example"

[service.payments]
ports = { api = "tcp" }

[[service.payments.allow]]
from = ["orders"]
port = "api"
owner = "team-checkout"
reason = "orders charges the card"

[service.orders]
[service.reports]
"#;

/// The same without its rule: nobody may call anybody.
pub const POLICY_NOBODY: &str = r#"trust_domain = "shop.example"

[service.payments]
ports = { api = "tcp" }

[service.orders]
[service.reports]
"#;

/// The same over HTTP: `orders` may make all these calls, `reports` may look at charges only.
pub const HTTP_POLICY: &str = r#"trust_domain = "shop.example"

[service.payments]
ports = { api = "http" }

[[service.payments.allow]]
from = ["orders"]
calls = ["* /charge", "* /charges/**", "GET /socket", "POST /shop.Charges/*"]
port = "api"
owner = "team-checkout"
reason = "orders charges the card"

[[service.payments.allow]]
from = ["reports"]
calls = ["GET /charges/*"]

[service.orders]
[service.reports]
"#;

/// Nobody may make any call but `reports` its own.
pub const HTTP_POLICY_WITHOUT_ORDERS: &str = r#"trust_domain = "shop.example"

[service.payments]
ports = { api = "http" }

[[service.payments.allow]]
from = ["reports"]
calls = ["GET /charges/*"]

[service.orders]
[service.reports]
"#;

/// A CA and three services with a sidecar each, all ready.
#[derive(Debug)]
pub struct Shop {
    pub payments: Sidecar,
    pub orders: Sidecar,
    pub reports: Sidecar,
    pub policy: PathBuf,
    pub ca: Ca,
    pub mesh: Mesh,
    _app: Option<App>,
}

impl Shop {
    /// Starts everything with an echo server behind `payments`.
    pub async fn start(options: CaOptions) -> Self {
        Self::start_with(options, App::echo().await, "").await
    }

    /// Starts everything; `extra` is appended to every `sidecar.toml`.
    pub async fn start_with(options: CaOptions, app: App, extra: &str) -> Self {
        Self::start_as(options, app, POLICY, |spec| spec.extra(extra)).await
    }

    /// Starts everything for an app of the test's own, which may be at this address or not.
    pub async fn start_at(options: CaOptions, app: SocketAddr, extra: &str) -> Self {
        Self::start_for(options, app, None, POLICY, |spec| spec.extra(extra)).await
    }

    /// Starts everything with `protocol = "http"` on both ends.
    pub async fn start_http(options: CaOptions, app: App, extra: &str) -> Self {
        Self::start_as(options, app, HTTP_POLICY, |spec| spec.http().extra(extra)).await
    }

    /// Starts everything, with `policy` and sidecars changed by `change`.
    pub async fn start_as(
        options: CaOptions,
        app: App,
        policy: &str,
        change: impl Fn(SidecarSpec) -> SidecarSpec,
    ) -> Self {
        Self::start_for(options, app.address, Some(app), policy, change).await
    }

    async fn start_for(
        options: CaOptions,
        address: SocketAddr,
        app: Option<App>,
        policy: &str,
        change: impl Fn(SidecarSpec) -> SidecarSpec,
    ) -> Self {
        let mesh = Mesh::default();
        let ca = mesh.ca(options).await;
        let policy = mesh.write("policy.toml", policy);
        let spec = |name| change(SidecarSpec::new(name).policy(&policy));
        let payments = mesh.sidecar(&ca, &spec("payments").inbound("api", address));
        let caller = |name| mesh.sidecar(&ca, &spec(name).outbound("payments", payments.inbounds[0]));
        let (orders, reports) = (caller("orders"), caller("reports"));
        for sidecar in [&payments, &orders, &reports] {
            sidecar.ready().await;
        }
        Self { payments, orders, reports, policy, ca, mesh, _app: app }
    }

    /// Replaces the policy, and waits until `payments` decides by it.
    pub async fn apply(&self, policy: &str) {
        let digest = async || self.payments.status().await["policy"]["digest"].clone();
        let before = digest().await;
        self.mesh.write("policy.toml", policy);
        eventually("the new policy", async || (digest().await != before).then_some(())).await;
    }

    /// Where `orders` reaches `payments`.
    pub fn orders_to_payments(&self) -> SocketAddr {
        self.orders.outbounds[0]
    }

    /// Where `reports` tries to.
    pub fn reports_to_payments(&self) -> SocketAddr {
        self.reports.outbounds[0]
    }

    /// Where peers reach `payments`.
    pub fn payments_inbound(&self) -> SocketAddr {
        self.payments.inbounds[0]
    }
}
