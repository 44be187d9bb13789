//! A foreign server with the SVID of the service that is called serves a sidecar's outbound.

use postern_integration::apps::App;
use postern_integration::{Ca, CaOptions, Mesh, Sidecar, SidecarSpec, web};

use crate::app::{ECHO, ToldApp};
use crate::called::POLICY;
use crate::papers::Papers;
use crate::program::{Foreign, Kind, Places, Role};
use crate::{requests, traffic};

/// A CA, an app for bytes and one for the web, and a caller's sidecar for each foreign server before them.
#[derive(Debug)]
pub(crate) struct Orders {
    pub(crate) mesh: Mesh,
    pub(crate) ca: Ca,
    pub(crate) app: ToldApp,
    web: App,
}

/// A foreign server, and the sidecar that calls it.
#[derive(Debug)]
pub(crate) struct Reached {
    pub(crate) server: Foreign,
    pub(crate) sidecar: Sidecar,
    /// Where the calling app connects.
    pub(crate) entry: Places,
}

impl Orders {
    pub(crate) async fn start() -> Self {
        let mesh = Mesh::default();
        let ca = mesh.ca(CaOptions::default()).await;
        mesh.write("policy.toml", POLICY);
        Self { mesh, ca, app: ToldApp::start().await, web: web::app().await }
    }

    pub(crate) fn apps(&self) -> Places {
        Places { tcp: self.app.address, http: self.web.address }
    }

    /// A server in the name of `id`, where `payments` is called.
    pub(crate) async fn reach(&self, kind: Kind, id: &str) -> Reached {
        self.reach_with(kind, id, |text| text).await
    }

    pub(crate) async fn reach_with(
        &self,
        kind: Kind,
        id: &str,
        change: impl Fn(String) -> String,
    ) -> Reached {
        let papers = Papers::of(&self.mesh, &self.ca, id).await;
        self.reach_holding(kind, &papers, change).await
    }

    pub(crate) async fn reach_holding(
        &self,
        kind: Kind,
        papers: &Papers,
        change: impl Fn(String) -> String,
    ) -> Reached {
        let server = Foreign::start_with(kind, Role::Server, papers, self.apps(), change).await;
        let sidecar = self.sidecar(server.at).await;
        let entry = Places { tcp: sidecar.outbounds[0], http: sidecar.outbounds[1] };
        Reached { server, sidecar, entry }
    }

    /// The sidecar of `orders`, which calls `payments` there. Each test has one at a time.
    pub(crate) async fn sidecar(&self, to: Places) -> Sidecar {
        let policy = self.mesh.path().join("policy.toml");
        let spec = SidecarSpec::new("orders").policy(&policy).outbound("payments", to.tcp);
        let sidecar = self.mesh.sidecar(&self.ca, &spec.http().outbound("payments", to.http));
        sidecar.ready().await;
        sidecar
    }
}

#[tokio::test]
async fn bytes_pass_both_ways_and_ends_are_what_they_were() {
    let mut orders = Orders::start().await;
    for kind in Kind::here() {
        println!("{kind:?}");
        let Reached { entry, .. } = &orders.reach(kind, "payments").await;
        traffic::bulk_passes(entry.tcp).await;
        let _of_the_bulk = orders.app.end().await;
        traffic::clean_end_passes(entry.tcp).await;
        let _of_the_closed = orders.app.end().await;
        if kind.half_closes() {
            traffic::callers_half_close_passes(entry.tcp, &mut orders.app).await;
            traffic::apps_half_close_passes(entry.tcp, &mut orders.app).await;
        }
    }
}

#[tokio::test]
async fn requests_are_answered_and_bodies_pass_whole() {
    let orders = Orders::start().await;
    for kind in Kind::here() {
        println!("{kind:?}");
        let reached = orders.reach(kind, "payments").await;
        requests::are_answered(reached.entry.http).await;
    }
}

#[tokio::test]
async fn a_foreign_server_that_is_killed_is_a_reset_at_the_caller() {
    let orders = Orders::start().await;
    for kind in Kind::here() {
        println!("{kind:?}");
        let mut reached = orders.reach(kind, "payments").await;
        let mut stream = traffic::ordered(reached.entry.tcp, ECHO).await;
        traffic::echo_once(&mut stream).await;
        reached.server.program.kill().await;
        traffic::is_reset(&mut stream).await;
    }
}
