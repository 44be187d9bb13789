//! A foreign client with an SVID is served at a sidecar's inbound as one with a sidecar would be.

use postern_integration::apps::App;
use postern_integration::{Ca, CaOptions, Mesh, Sidecar, SidecarSpec, web};

use crate::app::{ECHO, ToldApp};
use crate::papers::Papers;
use crate::program::{Foreign, Kind, Places, Role};
use crate::{requests, traffic};

pub(crate) const POLICY: &str = r#"trust_domain = "shop.example"
[service.payments]
ports = { bulk = "tcp", web = "http" }
[[service.payments.allow]]
from = ["orders"]
port = "bulk"
[[service.payments.allow]]
from = ["orders"]
calls = ["* /charge", "* /charges/**"]
port = "web"
[service.orders]
[service.reports]
"#;

/// `payments` with a sidecar, an app for bytes and one for the web.
#[derive(Debug)]
pub(crate) struct Payments {
    pub(crate) mesh: Mesh,
    pub(crate) ca: Ca,
    pub(crate) sidecar: Sidecar,
    pub(crate) app: ToldApp,
    _web: App,
}

impl Payments {
    pub(crate) async fn start(options: CaOptions) -> Self {
        Self::start_as("payments", options).await
    }

    /// With a sidecar that has another name.
    pub(crate) async fn start_as(name: &str, options: CaOptions) -> Self {
        let mesh = Mesh::default();
        let ca = mesh.ca(options).await;
        let policy = mesh.write("policy.toml", POLICY);
        let (app, web) = (ToldApp::start().await, web::app().await);
        let spec = SidecarSpec::new(name).policy(&policy).inbound("bulk", app.address).http();
        let sidecar = mesh.sidecar(&ca, &spec.inbound("web", web.address));
        sidecar.ready().await;
        Self { mesh, ca, sidecar, app, _web: web }
    }

    pub(crate) fn places(&self) -> Places {
        Places { tcp: self.sidecar.inbounds[0], http: self.sidecar.inbounds[1] }
    }

    /// A foreign program in the name of `id`.
    pub(crate) async fn caller(&self, kind: Kind, id: &str) -> Foreign {
        let papers = Papers::of(&self.mesh, &self.ca, id).await;
        Foreign::start(kind, Role::Client, &papers, self.places()).await
    }
}

#[tokio::test]
async fn bytes_pass_both_ways_and_ends_are_what_they_were() {
    let mut payments = Payments::start(CaOptions::default()).await;
    for kind in Kind::here() {
        println!("{kind:?}");
        let caller = payments.caller(kind, "orders").await;
        traffic::bulk_passes(caller.at.tcp).await;
        let _of_the_bulk = payments.app.end().await;
        traffic::clean_end_passes(caller.at.tcp).await;
        let _of_the_closed = payments.app.end().await;
        if kind.half_closes() {
            traffic::callers_half_close_passes(caller.at.tcp, &mut payments.app).await;
            traffic::apps_half_close_passes(caller.at.tcp, &mut payments.app).await;
        }
    }
}

#[tokio::test]
async fn requests_are_answered_in_the_callers_name_and_refused_one_by_one() {
    let payments = Payments::start(CaOptions::default()).await;
    for kind in Kind::here() {
        println!("{kind:?}");
        let caller = payments.caller(kind, "orders").await;
        let told = requests::are_answered(caller.at.http).await;
        let name = told["headers"]["x-forwarded-client-cert"].as_str().unwrap();
        assert!(name.ends_with("URI=spiffe://shop.example/orders"), "{kind:?}: {name}");
        let refused = requests::ask(caller.at.http, "POST", "/refunds", 6).await;
        assert_eq!(refused.status, 403, "{kind:?}: {refused:?}");
        assert!(refused.text().contains("--call 'POST /refunds'"), "{kind:?}: {refused:?}");
    }
}

#[tokio::test]
async fn a_foreign_client_that_is_killed_is_a_reset_at_the_app() {
    let mut payments = Payments::start(CaOptions::default()).await;
    for kind in Kind::here() {
        println!("{kind:?}");
        let mut caller = payments.caller(kind, "orders").await;
        let mut stream = traffic::ordered(caller.at.tcp, ECHO).await;
        traffic::echo_once(&mut stream).await;
        caller.program.kill().await;
        let end = payments.app.end().await;
        assert!(end.how.is_err(), "{kind:?}: not a clean end");
    }
}
