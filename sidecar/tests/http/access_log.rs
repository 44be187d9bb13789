//! Each request is one line of the access log, told when it ends, with what decided it.

use std::path::Path;
use std::sync::atomic::Ordering;

use postern_sidecar::config::{AccessLogConfig, AccessLogTarget};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::shop::{Shop, ask, say};
use crate::sidecar::eventually;

async fn shop(log: &Path) -> Shop {
    let to = AccessLogTarget::File(log.to_owned());
    Shop::with(|spec| spec.access_log = Some(AccessLogConfig { to, lines_waiting_max: 1_000 })).await
}

/// Requests at `payments`.
fn under_way(shop: &Shop) -> i64 {
    let listeners = shop.payments.proxy.control.metrics.series.listeners();
    listeners.iter().map(|listener| listener.requests_active.load(Ordering::Relaxed)).sum()
}

/// The log, once it has so many lines.
async fn lines(log: &Path, count: usize) -> Vec<Value> {
    eventually(&format!("{count} lines"), || {
        let text = std::fs::read_to_string(log).ok()?;
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (lines.len() >= count).then_some(lines)
    })
    .await
}

#[tokio::test]
async fn a_request_is_told_with_who_called_what_and_which_rule_decided() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("access.log");
    let shop = shop(&log).await;
    let trace = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    ask(&shop.orders, &format!("POST /charge?card=1 HTTP/1.1\r\n{trace}\r\ncontent-length: 0")).await;
    ask(&shop.reports, "POST /charge HTTP/1.1\r\ncontent-length: 0").await;
    let lines = lines(&log, 2).await;
    let (allowed, denied) = (&lines[0], &lines[1]);
    assert_eq!((&allowed["decision"], &allowed["status"]), (&"allow".into(), &200.into()), "{allowed}");
    assert_eq!((&allowed["method"], &allowed["path"]), (&"POST".into(), &"/charge".into()));
    assert_eq!(allowed["from"], "spiffe://shop.example/orders");
    assert_eq!(allowed["to"], "spiffe://shop.example/payments");
    assert_eq!((&allowed["service"], &allowed["port"]), (&"payments".into(), &"api".into()));
    assert_eq!((&allowed["rule"]["file"], &allowed["rule"]["line"]), (&"policy.toml".into(), &6.into()));
    assert_eq!(allowed["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert!(allowed["bytes_out"].as_u64().unwrap() > 0, "{allowed}");
    assert!(allowed["policy"].as_str().unwrap().starts_with("sha256:"), "{allowed}");
    assert_eq!((&denied["decision"], &denied["reason"]), (&"deny".into(), &"denied".into()), "{denied}");
    assert_eq!((&denied["status"], &denied["rule"]), (&403.into(), &Value::Null));
    assert_eq!(denied["from"], "spiffe://shop.example/reports");
    assert!(denied["instance"].as_str().unwrap().starts_with("urn:postern:request:"), "{denied}");
    assert_eq!(allowed["instance"], Value::Null);
}

#[tokio::test]
async fn every_request_is_one_line_whatever_becomes_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("access.log");
    let shop = shop(&log).await;
    let answered = ask(&shop.orders, "GET /charges/1 HTTP/1.1").await;
    assert_eq!(answered.status(), 200);
    assert_eq!(ask(&shop.reports, "POST /charge HTTP/1.1\r\ncontent-length: 0").await.status(), 403);
    // Its caller leaves before its body is whole, so that the app never answers.
    let mut leaving = TcpStream::connect(shop.orders.outbound.unwrap()).await.unwrap();
    let head = b"POST /charge HTTP/1.1\r\nhost: payments\r\ncontent-length: 9\r\n\r\nhalf";
    leaving.write_all(head).await.unwrap();
    eventually("it is under way", || (under_way(&shop) == 1).then_some(())).await;
    drop(leaving);
    eventually("all are over", || (under_way(&shop) == 0).then_some(())).await;
    let lines = lines(&log, 3).await;
    assert_eq!(lines.len(), 3);
    let paths: Vec<_> = lines.iter().map(|line| line["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["/charges/1", "/charge", "/charge"]);
    assert_eq!(
        (&lines[2]["status"], &lines[2]["ended_by"]),
        (&Value::Null, &"caller".into()),
        "{}",
        lines[2]
    );
}

#[tokio::test]
async fn hostile_text_is_one_valid_line_of_json() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("access.log");
    let shop = shop(&log).await;
    ask(&shop.orders, "GET /charges/\"},{\"x\":\"%0a%1b[31m HTTP/1.1").await;
    ask(&shop.orders, &format!("GET /{} HTTP/1.1", "a".repeat(12_000))).await;
    let lines = lines(&log, 2).await;
    assert_eq!(lines[0]["path"], "/charges/\"},{\"x\":\"%0a%1b[31m");
    assert_eq!(lines[1]["path"].as_str().unwrap().len(), 8 * 1024);
}

#[tokio::test]
async fn what_is_refused_before_any_policy_is_told_as_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("access.log");
    let shop = shop(&log).await;
    ask(&shop.visitor, "GET /charges/7 HTTP/1.1").await;
    let denied = &lines(&log, 1).await[0];
    assert_eq!((&denied["decision"], &denied["method"]), (&"deny".into(), &Value::Null), "{denied}");
    assert_eq!(denied["from"], "spiffe://shop.example/visitor");
    drop(shop);

    let log = dir.path().join("caller.log");
    let to = AccessLogTarget::File(log.clone());
    let shop = Shop::with_orders(|spec| {
        spec.access_log = Some(AccessLogConfig { to, lines_waiting_max: 1_000 });
    })
    .await;
    say(&shop.orders, b"GET /charges/7 HTTP/1.1\r\nhost: a\r\nhost: b\r\nconnection: close\r\n\r\n").await;
    let refused = &lines(&log, 1).await[0];
    assert_eq!((&refused["decision"], &refused["reason"]), (&"refused".into(), &"host".into()), "{refused}");
    assert_eq!((&refused["direction"], &refused["status"]), (&"outbound".into(), &400.into()));
}
