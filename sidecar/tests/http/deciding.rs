//! Each request is decided by itself, and a refusal explains itself at the caller.

use crate::shop::{Shop, ask};

#[tokio::test]
async fn what_a_rule_allows_passes_and_everything_else_is_a_403_that_explains_itself() {
    let shop = Shop::new().await;
    let allowed = ask(&shop.orders, "GET /charges/7?full=1 HTTP/1.1").await;
    assert_eq!(allowed.status(), 200, "{allowed:?}");
    assert_eq!(allowed.json()["target"], "/charges/7?full=1");

    let refused = ask(&shop.reports, "POST /charge HTTP/1.1\r\ncontent-length: 0").await;
    assert_eq!(refused.status(), 403, "{refused:?}");
    assert!(refused.head.contains("content-type: application/problem+json"), "{refused:?}");
    let problem = refused.json();
    assert_eq!(problem["type"], "urn:postern:denied");
    assert_eq!(problem["status"], 403);
    assert_eq!(problem["caller"], "spiffe://shop.example/reports");
    assert_eq!(problem["service"], "spiffe://shop.example/payments");
    assert_eq!((&problem["port"], &problem["call"]), (&"api".into(), &"POST /charge".into()));
    let explain = "postern-ca policy explain policy.toml --from spiffe://shop.example/reports \
                   --to spiffe://shop.example/payments --port api --call 'POST /charge'";
    assert_eq!(problem["explain"], explain);
    let told = shop.payments.refusal("denied").await;
    assert_eq!(told["instance"], problem["instance"], "the log has the rest");
    let counted = shop.payments.proxy.control.call_counts.take().unwrap().calls;
    assert_eq!((counted.len(), counted[0].count), (1, 1), "what is allowed is not counted: {counted:?}");
    assert_eq!((counted[0].method.as_str(), counted[0].path.as_str()), ("POST", "/charge"));
}

#[tokio::test]
async fn a_caller_whom_no_rule_names_is_refused_in_the_handshake_and_its_sidecar_explains() {
    let shop = Shop::new().await;
    let refused = ask(&shop.visitor, "GET /charges/7 HTTP/1.1").await;
    assert_eq!(refused.status(), 403, "{refused:?}");
    let problem = refused.json();
    assert_eq!(problem["type"], "urn:postern:access_denied");
    assert_eq!(problem["caller"], "spiffe://shop.example/visitor");
    assert!(problem["explain"].as_str().unwrap().ends_with("--call 'GET /charges/7'"), "{problem}");
    shop.visitor.refusal("access_denied").await;
}
