//! Proofs that are none: each ends the tunnel, and only the true one lets it go on.

use postern_proto::identity::Svid;
use postern_sidecar::proxy::tunnel::AUTH_FRAMES_MAX;
use time::{Duration, OffsetDateTime};

use crate::apps::App;
use crate::authority::{Authority, Validity, id};
use crate::sidecar::{Sidecar, Spec};
use crate::stranger::{Caller, NEWS, PROOF, auth, data, prove, svid};

struct Shop {
    authority: Authority,
    payments: Sidecar,
    _app: App,
}

impl Shop {
    async fn new() -> Self {
        let (authority, app) = (Authority::new(), App::echo().await);
        let payments = Spec::new(&authority, "payments").app(app.address).start(&authority);
        Self { authority, payments, _app: app }
    }

    /// A caller in a lease.
    async fn caller(&self) -> Caller {
        let mut caller = Caller::connect(&self.authority, "orders", self.payments.inbound.unwrap()).await;
        caller.lease().await;
        caller
    }

    /// The answer to a request ends the tunnel.
    async fn refuses(&self, svid: &Svid) {
        let mut caller = self.caller().await;
        let request = caller.asked().await;
        let proof = prove(&caller.exporter, &request, svid);
        caller.send(&proof).await.unwrap();
        caller.expect_broken().await;
        self.payments.refusal("reauthentication_failed").await;
    }
}

#[tokio::test]
async fn who_proves_a_newer_certificate_goes_on() {
    let shop = Shop::new().await;
    let mut caller = shop.caller().await;
    let request = caller.asked().await;
    let proof = prove(&caller.exporter, &request, &svid(&shop.authority, "orders"));
    caller.send(&[proof, data(b"more")].concat()).await.unwrap();
    assert_eq!(caller.bytes(4).await.unwrap(), b"more");
}

#[tokio::test]
async fn a_proof_of_another_identity_of_another_authority_or_of_the_past_ends_the_tunnel() {
    let shop = Shop::new().await;
    shop.refuses(&svid(&shop.authority, "reports")).await;
    shop.refuses(&svid(&Authority::new(), "orders")).await;
    let now = OffsetDateTime::now_utc();
    let past = Validity { not_before: now - Duration::hours(2), not_after: now - Duration::hours(1) };
    shop.refuses(&shop.authority.svid(&id("orders"), past)).await;
}

#[tokio::test]
async fn a_proof_of_another_connection_or_another_request_ends_the_tunnel() {
    let shop = Shop::new().await;
    let (mut caller, mut other) = (shop.caller().await, shop.caller().await);
    let (request, asked_other) = (caller.asked().await, other.asked().await);
    let newer = svid(&shop.authority, "orders");
    let on_another = prove(&other.exporter, &request, &newer);
    caller.send(&on_another).await.unwrap();
    caller.expect_broken().await;
    let to_another = prove(&other.exporter, &request, &newer);
    assert_ne!(request.context(), asked_other.context());
    other.send(&to_another).await.unwrap();
    other.expect_broken().await;
}

#[tokio::test]
async fn a_proof_that_is_said_twice_ends_the_tunnel() {
    let shop = Shop::new().await;
    let mut caller = shop.caller().await;
    let request = caller.asked().await;
    let proof = prove(&caller.exporter, &request, &svid(&shop.authority, "orders"));
    caller.send(&[proof, data(b"more")].concat()).await.unwrap();
    assert_eq!(caller.bytes(4).await.unwrap(), b"more");
    let proof = prove(&caller.exporter, &request, &svid(&shop.authority, "orders"));
    caller.send(&proof).await.unwrap();
    caller.expect_broken().await;
}

#[tokio::test]
async fn a_proof_with_any_byte_changed_or_cut_short_ends_the_tunnel() {
    let shop = Shop::new().await;
    let newer = svid(&shop.authority, "orders");
    for part in 0..12 {
        let mut caller = shop.caller().await;
        let request = caller.asked().await;
        let proof = prove(&caller.exporter, &request, &newer);
        // Behind the frame's header and the kind.
        let mut body = proof[5..].to_vec();
        let at = body.len() * part / 12 + part % 5;
        match part % 4 {
            3 => body.truncate(at),
            _ => body[at] ^= 1,
        }
        caller.send(&auth(PROOF, &body)).await.unwrap();
        caller.expect_broken().await;
    }
}

#[tokio::test]
async fn a_flood_of_news_ends_the_tunnel_at_the_bound_and_not_before() {
    let shop = Shop::new().await;
    let mut caller = shop.caller().await;
    for _ in 0..AUTH_FRAMES_MAX {
        caller.send(&auth(NEWS, &[])).await.unwrap();
    }
    caller.send(&data(b"more")).await.unwrap();
    assert_eq!(caller.bytes(4).await.unwrap(), b"more");
    caller.send(&auth(NEWS, &[])).await.unwrap();
    caller.expect_broken().await;
    let told = shop.payments.refusal("reauthentication_failed").await;
    assert!(told["detail"].as_str().unwrap().contains("AUTH frames"), "{told}");
}
