//! Requests and answers arrive as they were sent, but for what is of one hop or claims an identity.

use crate::shop::{Shop, ask, say, seen};

#[tokio::test]
async fn the_app_is_told_who_calls_whatever_the_client_claims() {
    let shop = Shop::new().await;
    let told = ask(
        &shop.orders,
        "GET /charges/7 HTTP/1.1\r\nX-Forwarded-Client-Cert: URI=spiffe://shop.example/admin\r\n\
         x_forwarded_client_cert: URI=spiffe://shop.example/admin\r\nClient-Cert: :MIIB:\r\n\
         traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    )
    .await;
    let told = told.json();
    let headers = told["headers"].as_array().unwrap();
    let named = |name: &str| -> Vec<&serde_json::Value> {
        headers.iter().filter(|header| header[0] == name).map(|header| &header[1]).collect()
    };
    let claims = named("x-forwarded-client-cert");
    assert_eq!(claims.len(), 1, "{told}");
    let claim = claims[0].as_str().unwrap();
    assert!(claim.starts_with("By=spiffe://shop.example/payments;Hash="), "{claim}");
    assert!(claim.ends_with(";URI=spiffe://shop.example/orders"), "{claim}");
    assert_eq!(named("client-cert").len() + named("x_forwarded_client_cert").len(), 0, "{told}");
    assert_eq!(named("traceparent").len(), 1);
    assert_eq!(named("host"), ["payments"]);
}

#[tokio::test]
async fn many_requests_ride_one_connection_and_pipelined_ones_are_answered_in_order() {
    let shop = Shop::new().await;
    let one = |at: usize| {
        format!("POST /charge HTTP/1.1\r\nhost: payments\r\ncontent-length: {at}\r\n\r\n{}", "x".repeat(at))
    };
    let mut bytes: String = (0..100).map(one).collect();
    bytes += "GET /charges/9 HTTP/1.1\r\nhost: payments\r\nconnection: close\r\n\r\n";
    let answer = String::from_utf8(say(&shop.orders, bytes.as_bytes()).await).unwrap();
    let lengths: Vec<usize> = answer
        .split("\"body_bytes\":")
        .skip(1)
        .map(|rest| rest[..rest.find(',').unwrap()].parse().unwrap())
        .collect();
    assert_eq!(lengths, (0..100).chain([0]).collect::<Vec<_>>());
    assert_eq!(shop.orders.live(), 1, "one connection to the peer");
}

#[tokio::test]
async fn a_chunked_body_passes_with_its_trailers_but_without_claims() {
    let shop = Shop::new().await;
    let answer = say(
        &shop.orders,
        b"POST /charge HTTP/1.1\r\nhost: payments\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\
          connection: close\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 5\r\nClient-Cert: :MIIB:\r\n\r\n",
    )
    .await;
    let told = seen(&answer).json();
    assert_eq!(told["body_bytes"], 5, "{told}");
}
