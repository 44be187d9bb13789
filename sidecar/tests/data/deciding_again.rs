//! A change of policy or trust acts at once on live connections, and on those only that it concerns.

use std::sync::Arc;

use postern_proto::identity::TrustBundles;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::apps::{App, echoed, expect_reset};
use crate::authority::{Authority, Validity, id};
use crate::sidecar::{POLICY, Sidecar, Spec, eventually};

/// Nobody may call anybody.
const NOBODY: &str = r#"trust_domain = "shop.example"
[service.payments]
ports = { api = "tcp" }
[service.orders]
[service.reports]
"#;

/// Both may call.
const BOTH: &str = r#"trust_domain = "shop.example"
[service.payments]
[[service.payments.allow]]
from = ["orders", "reports"]
[service.orders]
[service.reports]
"#;

struct Shop {
    authority: Authority,
    payments: Sidecar,
    orders: Sidecar,
    reports: Sidecar,
    _app: App,
}

impl Shop {
    async fn new(policy: &'static str) -> Self {
        let (authority, app) = (Authority::new(), App::echo().await);
        let mut spec = Spec::new(&authority, "payments").app(app.address);
        spec.policy = Some(policy);
        let payments = spec.start(&authority);
        let caller = |name| Spec::new(&authority, name).to(&[payments.inbound.unwrap()]).start(&authority);
        let (orders, reports) = (caller("orders"), caller("reports"));
        Self { authority, payments, orders, reports, _app: app }
    }
}

async fn echoing(sidecar: &Sidecar) -> TcpStream {
    let mut stream = TcpStream::connect(sidecar.outbound.unwrap()).await.unwrap();
    echoed(&mut stream).await.unwrap();
    stream
}

#[tokio::test]
async fn a_withdrawn_permission_resets_its_connections_and_no_others() {
    let shop = Shop::new(BOTH).await;
    let (mut orders, mut reports) = (echoing(&shop.orders).await, echoing(&shop.reports).await);
    shop.payments.apply(POLICY);
    expect_reset(&mut reports).await;
    echoed(&mut orders).await.unwrap();
    shop.payments.apply(NOBODY);
    expect_reset(&mut orders).await;
    assert!(
        shop.payments
            .proxy
            .control
            .metrics
            .text()
            .unwrap()
            .contains("postern_connections_terminated_total{reason=\"denied\"} 2")
    );
}

#[tokio::test]
async fn a_cut_resets_the_own_app_too() {
    let (ended, mut ends) = tokio::sync::mpsc::channel(1);
    let app = App::serve(move |mut stream: TcpStream| {
        let ended = ended.clone();
        async move {
            stream.write_u8(b'x').await?;
            let end = stream.read_to_end(&mut Vec::new()).await;
            ended.send(end).await.map_err(std::io::Error::other)
        }
    })
    .await;
    let authority = Authority::new();
    let payments = Spec::new(&authority, "payments").app(app.address).start(&authority);
    let orders = Spec::new(&authority, "orders").to(&[payments.inbound.unwrap()]).start(&authority);
    let mut stream = TcpStream::connect(orders.outbound.unwrap()).await.unwrap();
    stream.read_u8().await.unwrap();
    payments.apply(NOBODY);
    let error = ends.recv().await.unwrap().expect_err("a reset, never a clean end");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    expect_reset(&mut stream).await;
}

#[tokio::test]
async fn a_service_that_gets_another_identity_is_no_longer_talked_to_under_the_old_one() {
    let shop = Shop::new(POLICY).await;
    let mut stream = echoing(&shop.orders).await;
    shop.orders.apply(&POLICY.replace("[service.payments]", "[service.payments]\nidentity = \"/billing\""));
    expect_reset(&mut stream).await;
}

#[tokio::test]
async fn a_root_that_is_no_longer_trusted_takes_its_connections_with_it() {
    let shop = Shop::new(POLICY).await;
    let mut stream = echoing(&shop.orders).await;
    let other = Authority::new();
    let validity = Validity::of(time::Duration::hours(1), OffsetDateTime::now_utc());
    let svid = other.svid(&id("payments"), validity);
    shop.payments.proxy.control.credentials.replace(svid, Arc::new(other.bundles())).unwrap();
    expect_reset(&mut stream).await;
}

#[tokio::test]
async fn a_renewed_certificate_and_an_added_root_cut_nothing() {
    let shop = Shop::new(POLICY).await;
    let mut stream = echoing(&shop.orders).await;
    let validity = Validity::of(time::Duration::hours(1), OffsetDateTime::now_utc());
    let roots = vec![Authority::new().root, shop.authority.root.clone()];
    let bundle = postern_proto::identity::TrustBundle::new(
        postern_proto::identity::TrustDomain::new("shop.example").unwrap(),
        roots,
    );
    let bundles: TrustBundles = [bundle.unwrap()].into_iter().collect();
    for sidecar in [&shop.payments, &shop.orders] {
        let name = if std::ptr::eq(sidecar, &shop.payments) { "payments" } else { "orders" };
        let svid = shop.authority.svid(&id(name), validity);
        sidecar.proxy.control.credentials.replace(svid, Arc::new(bundles.clone())).unwrap();
    }
    echoed(&mut stream).await.unwrap();
    echoing(&shop.orders).await;
    echoed(&mut stream).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_connection_slips_between_a_decision_and_a_change() {
    let shop = Shop::new(POLICY).await;
    for _ in 0..20 {
        shop.payments.apply(POLICY);
        let address = shop.orders.outbound.unwrap();
        let callers: Vec<_> = (0..8)
            .map(|_| {
                tokio::spawn(async move {
                    let mut stream = TcpStream::connect(address).await.unwrap();
                    // Served or refused: it was decided before or after the change.
                    let _either = echoed(&mut stream).await;
                    stream
                })
            })
            .collect();
        shop.payments.apply(NOBODY);
        let mut streams = Vec::new();
        for caller in callers {
            streams.push(caller.await.unwrap());
        }
        eventually("every connection is refused or cut", || (shop.payments.live() == 0).then_some(())).await;
    }
}
