//! One identity, though it is allowed, keeps nobody else out.

use postern_sidecar::config::Limits;
use time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::apps::{App, echoed, expect_refused};
use crate::authority::Authority;
use crate::sidecar::{Sidecar, Spec, eventually};
use crate::stranger;

/// Both may call.
const BOTH: &str = r#"trust_domain = "shop.example"
[service.payments]
[[service.payments.allow]]
from = ["orders", "reports"]
[service.orders]
[service.reports]
"#;

const MAX: usize = 8;

struct Shop {
    authority: Authority,
    payments: Sidecar,
    _app: App,
}

impl Shop {
    async fn new() -> Self {
        let (authority, app) = (Authority::new(), App::echo().await);
        let mut spec = Spec::new(&authority, "payments").app(app.address);
        spec.policy = Some(BOTH);
        spec.limits = Limits { connections_per_peer_max: MAX, ..Limits::default() };
        Self { payments: spec.start(&authority), authority, _app: app }
    }

    fn sidecar(&self, name: &str) -> Sidecar {
        Spec::new(&self.authority, name).to(&[self.payments.inbound.unwrap()]).start(&self.authority)
    }

    async fn stranger(&self, name: &str) -> TlsStream<TcpStream> {
        stranger::connect(&self.authority, name, Duration::hours(1), self.payments.inbound.unwrap()).await
    }

    async fn serves(&self, name: &str) {
        let sidecar = self.sidecar(name);
        let mut stream = TcpStream::connect(sidecar.outbound.unwrap()).await.unwrap();
        echoed(&mut stream).await.unwrap();
    }
}

/// Case 58.
#[tokio::test]
async fn idle_connections_of_one_allowed_identity_leave_room_for_another() {
    let shop = Shop::new().await;
    let mut idle = Vec::new();
    for _ in 0..MAX * 4 {
        idle.push(shop.stranger("orders").await);
    }
    eventually("those that are too many have gone", || (shop.payments.live() == MAX as u64).then_some(()))
        .await;
    let told = shop.payments.refusal("connections_per_peer_max").await;
    assert_eq!(told["count"], MAX * 3);
    assert_eq!(told["from"], "spiffe://shop.example/orders");
    let text = shop.payments.proxy.control.metrics.text().unwrap();
    let counted = format!("reason=\"connections_per_peer_max\"}} {}", MAX * 3);
    assert!(text.contains(&counted), "{text}");
    shop.payments.proxy.measure();
    let text = shop.payments.proxy.control.metrics.text().unwrap();
    for (level, of) in [
        ("connections_of_one_peer", MAX),
        ("connections_of_one_peer_limit", MAX),
        ("listener_connections_limit", Limits::default().connections_max),
        ("handshakes_pending_limit", Limits::default().handshakes_pending_max),
        ("handshakes_pending", 0),
        ("listener_connections{direction=\"inbound\",listener=\"api\"}", MAX),
    ] {
        assert!(text.contains(&format!("postern_{level} {of}\n")), "{level} {of}: {text}");
    }
    shop.serves("reports").await;
    idle.truncate(MAX - 1);
    eventually("one has made room", || (shop.payments.live() < MAX as u64).then_some(())).await;
    shop.serves("orders").await;
}

#[tokio::test]
async fn tunnels_of_one_sidecar_are_bounded_and_its_app_learns_it_by_a_reset() {
    let shop = Shop::new().await;
    let orders = shop.sidecar("orders");
    let mut open = Vec::new();
    for _ in 0..MAX {
        let mut stream = TcpStream::connect(orders.outbound.unwrap()).await.unwrap();
        echoed(&mut stream).await.unwrap();
        open.push(stream);
    }
    expect_refused(orders.outbound.unwrap()).await;
    shop.payments.refusal("connections_per_peer_max").await;
    for stream in &mut open {
        echoed(stream).await.unwrap();
    }
    shop.serves("reports").await;
}

#[tokio::test]
async fn who_is_refused_by_the_policy_takes_no_room() {
    let shop = Shop::new().await;
    shop.payments.apply(&BOTH.replace("\"orders\", ", ""));
    for _ in 0..MAX * 2 {
        let mut refused = shop.stranger("orders").await;
        refused.read_to_end(&mut Vec::new()).await.unwrap_err();
    }
    assert_eq!(shop.payments.refusal("denied").await["count"], MAX * 2);
    shop.payments.apply(BOTH);
    shop.serves("orders").await;
}
