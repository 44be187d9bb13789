//! A service that only observes refuses no authenticated peer's call, and nothing else is relaxed.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::authority::Authority;
use crate::live::{Http2, Live, asked, policy};

/// `payments` observes; only `orders` may anything.
async fn live() -> Live {
    let live = Live::new().await;
    let enforced = policy(Some(r#""POST /refund""#), None);
    live.payments.apply(&enforced.replace("[service.payments]", "[service.payments]\nmode = \"observe\""));
    live
}

#[tokio::test]
async fn what_no_rule_allows_passes_and_counts_as_observed() {
    let live = live().await;
    let mut http1 = live.direct("reports", b"http/1.1").await;
    for path in ["/charge", "/charge/..%2fadmin", "/a//b"] {
        assert_eq!(asked(&mut http1, &format!("POST {path}")).await.unwrap(), 200, "{path}");
    }
    let (status, _) = Http2::through(&live.reports).await.post("/charge").await.unwrap();
    assert_eq!(status, 200);
    let counted = live.payments.proxy.control.call_counts.take().unwrap().calls;
    let of_charge = counted.iter().find(|call| call.path == "/charge").unwrap();
    assert_eq!((of_charge.count, of_charge.from.as_str()), (2, "spiffe://shop.example/reports"));
    assert_eq!(counted.len(), 3, "one entry for each call, none for the connections: {counted:?}");
}

#[tokio::test]
async fn what_a_rule_allows_is_not_counted() {
    let live = live().await;
    let mut http1 = live.direct("orders", b"http/1.1").await;
    assert_eq!(asked(&mut http1, "POST /refund").await.unwrap(), 200);
    assert!(live.payments.proxy.control.call_counts.take().is_none());
}

#[tokio::test]
async fn what_is_not_valid_or_would_be_a_tunnel_is_refused_all_the_same() {
    let live = live().await;
    for (request, status) in [
        ("GET /charge HTTP/1.1\r\n\r\n", "400"),
        ("GET /charge HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", "400"),
        (
            "POST /charge HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            "400",
        ),
        ("CONNECT payments:443 HTTP/1.1\r\nhost: payments:443\r\n\r\n", "501"),
    ] {
        let mut stream = live.direct("reports", b"http/1.1").await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(std::str::from_utf8(&answer).unwrap(), format!("HTTP/1.1 {status}"), "{request}");
    }
}

#[tokio::test]
async fn another_ca_s_certificate_is_refused_all_the_same() {
    let live = live().await;
    let mut stream = live.direct_of(&Authority::new(), "orders", b"http/1.1").await;
    asked(&mut stream, "POST /refund").await.unwrap_err();
    live.payments.refusal("unknown_issuer").await;
}
