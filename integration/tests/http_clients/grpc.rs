//! tonic on both ends: every kind of call passes with its trailers, and a refusal is a status that explains itself.

use postern_integration::CaOptions;
use postern_integration::grpc::{self, Client, NO_MORE};
use postern_integration::shop::{HTTP_POLICY_WITHOUT_ORDERS, Shop};
use tonic::Code;

async fn shop() -> (Shop, Client) {
    let shop = Shop::start_http(CaOptions::default(), grpc::app().await, "").await;
    let client = Client::new(shop.orders_to_payments());
    (shop, client)
}

#[tokio::test]
async fn unary_calls_are_answered_and_the_server_knows_the_caller() {
    let (_shop, mut client) = shop().await;
    let long = "x".repeat(1024 * 1024);
    for text in ["12 EUR", "", &long] {
        let response = client.charge(text).await.unwrap();
        let caller = response.metadata().get("x-seen-caller").unwrap().to_str().unwrap();
        assert!(caller.ends_with("URI=spiffe://shop.example/orders"), "{caller}");
        assert_eq!(response.into_inner(), text);
    }
}

#[tokio::test]
async fn a_server_streams_and_its_trailers_arrive() {
    let (_shop, mut client) = shop().await;
    let mut replies = client.list(1000).await.unwrap();
    for at in 0..1000 {
        assert_eq!(replies.message().await.unwrap().unwrap(), at.to_string());
    }
    let status = replies.message().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::OutOfRange, NO_MORE));
    assert_eq!(status.metadata().get("x-listed").unwrap(), "1000", "trailers beside the status");
}

#[tokio::test]
async fn both_sides_stream_at_once_and_end_cleanly() {
    let (_shop, mut client) = shop().await;
    let (mut one, mut other) = (client.chat().await.unwrap(), client.chat().await.unwrap());
    for at in 0..100 {
        one.echo(&at.to_string()).await.unwrap();
        other.echo("in between").await.unwrap();
    }
    assert!(one.end().await.is_none(), "a clean end is a clean end");
    other.echo("still there").await.unwrap();
}

#[tokio::test]
async fn a_refused_call_is_permission_denied_with_the_reason_in_its_message() {
    let (shop, _) = shop().await;
    let mut client = Client::new(shop.reports_to_payments());
    let unary = client.charge("12 EUR").await.unwrap_err();
    let streamed = client.list(3).await.unwrap_err();
    let both = client.chat().await.unwrap_err();
    for (status, method) in [(unary, "Charge"), (streamed, "List"), (both, "Chat")] {
        assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
        let message = status.message();
        for needed in ["no rule matches", "reports", "postern-ca policy explain", method] {
            assert!(message.contains(needed), "{needed} is missing in {message:?}");
        }
    }
    shop.payments.program.line_with(&["refused", "spiffe://shop.example/reports", "denied"]).await;
}

#[tokio::test]
async fn a_caller_whom_no_rule_names_is_told_by_its_own_sidecar() {
    let (shop, _) = shop().await;
    shop.apply(HTTP_POLICY_WITHOUT_ORDERS).await;
    let status = Client::new(shop.orders_to_payments()).charge("12 EUR").await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    assert!(status.message().contains("postern-ca policy explain"), "{status:?}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    let (shop, mut client) = shop().await;
    client.charge("12 EUR").await.unwrap();
    let Shop { payments, .. } = shop;
    drop(payments);
    let status = client.charge("12 EUR").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
}
