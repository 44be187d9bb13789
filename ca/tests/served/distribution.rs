//! What `policy status` says of sidecars: how many run the policy in force, who lags, and why; and the bounds on them.

use std::time::Duration;

use postern_proto::wire::v1::call_report::Outcome;
use postern_proto::wire::v1::sidecar_report::Report;
use postern_proto::wire::v1::{
    CallReport, CallReports, ListCallReportsRequest, ListCallReportsResponse, PolicyAcknowledgement,
    SidecarHello,
};
use serde_json::json;
use tonic::Code;

use crate::fixture::{Ca, Home};
use crate::subscriber::{Subscriber, hello, svid};

const POLICY: &str = "trust_domain = \"shop.example\"\n[service.payments]\n[service.orders]\n";

/// A sidecar that acknowledges what it is told first.
async fn running(ca: &Ca, id: &str, instance: &str) -> Subscriber {
    let mut stream = ca.client().subscribe(&svid(ca, id).await, hello(instance)).await.unwrap();
    let version = stream.slice().await.version;
    stream.acknowledge(version).await;
    stream
}

/// The same in a runtime of its own, whose end is a crash: its connection is gone without a word.
async fn running_apart(ca: &Ca, id: &str, instance: &'static str) -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (client, svid) = (ca.client(), svid(ca, id).await);
    let subscribing = runtime.spawn(async move {
        let mut stream = client.subscribe(&svid, hello(instance)).await.unwrap();
        let version = stream.slice().await.version;
        stream.acknowledge(version).await;
        stream
    });
    let stream = subscribing.await.unwrap();
    runtime.spawn(async move {
        let _kept = stream;
        std::future::pending::<()>().await;
    });
    runtime
}

fn counts(status: &serde_json::Value) -> (u64, u64) {
    (status["running"].as_u64().unwrap(), status["sidecars"].as_u64().unwrap())
}

/// Instance, state and version of those that the status names.
fn notable(status: &serde_json::Value) -> Vec<(&str, &str, Option<u64>)> {
    let rows = status["notable"].as_array().unwrap().iter();
    rows.map(|row| {
        (row["instance"].as_str().unwrap(), row["state"].as_str().unwrap(), row["version"].as_u64())
    })
    .collect()
}

#[tokio::test]
async fn without_a_policy_or_before_all_run_it_the_exit_code_is_1() {
    let home = Home::new();
    let ca = home.start("");
    let (status, all) = ca.policy_status();
    assert_eq!((&status["policy"], all), (&json!(null), false));
    ca.apply(POLICY);
    let status = ca.policy_status_where(|status| status["policy"]["version"] == 1).await;
    assert_eq!(status["policy"]["author"], "ann");
    assert!(ca.policy_status().1, "there is nobody who lags");
    let mut stream = ca.client().subscribe(&svid(&ca, "orders").await, hello("one")).await.unwrap();
    stream.slice().await;
    let (status, all) = ca.policy_status();
    assert_eq!((counts(&status), all), ((0, 1), false));
    stream.acknowledge(1).await;
    ca.policy_status_where(|status| counts(status) == (1, 1)).await;
    assert!(ca.policy_status().1);
    let text = ca.told(&["policy", "status"]);
    assert!(text.contains("1 of 1 run version 1") && text.contains("by ann"), "{text}");
}

#[tokio::test]
async fn each_sidecar_that_lags_is_named_with_its_reason() {
    let home = Home::new();
    let ca = home.start("");
    ca.apply(POLICY);
    let mut good = running(&ca, "orders", "good").await;
    let mut refusing = running(&ca, "orders", "refusing").await;
    let _silent = running(&ca, "payments", "silent").await;
    let crashing = running_apart(&ca, "payments", "crashing").await;
    let Subscriber { reports, mut updates } = running(&ca, "payments", "leaving").await;
    let own = SidecarHello { own_policy_digest: "sha256:0f".to_owned(), ..hello("own") };
    let _own = ca.client().subscribe(&svid(&ca, "payments").await, own).await.unwrap();
    ca.policy_status_where(|status| counts(status) == (5, 6)).await;
    // Taking leave: the sidecar closes its side and waits for the CA to close the other.
    drop(reports);
    while let Ok(Some(_)) = updates.message().await {}
    crashing.shutdown_background();
    ca.policy_status_where(|status| counts(status) == (4, 5)).await;
    home.logged_times("subscription ended", 2).await;
    ca.apply(&format!("{POLICY}# 2\n"));
    good.slice().await;
    good.acknowledge(2).await;
    refusing.slice().await;
    let refused = "rule \u{1b}[31m on line 3 is not understood".to_owned();
    let said = PolicyAcknowledgement { version: 2, refused, unenforceable: Vec::new() };
    refusing.report(Report::Acknowledgement(said)).await;
    let status = ca.policy_status_where(|status| counts(status).0 == 1 && status["awaited"] == 1).await;
    let expected = [
        ("refusing", "refused", Some(1)),
        ("crashing", "disconnected", Some(1)),
        ("own", "local_policy", None),
        ("silent", "pending", Some(1)),
    ];
    let status = match notable(&status) == expected {
        true => status,
        false => ca.policy_status_where(|status| notable(status) == expected).await,
    };
    assert!(status["notable"][0]["reason"].as_str().unwrap().contains("not understood"));
    let output = ca.ask(&["policy", "status"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("1 of 5 run version 2") && text.contains("sha256:0f"), "{text}");
    assert!(!text.contains('\u{1b}'), "a sidecar steers no terminal");
}

#[tokio::test]
async fn what_a_sidecar_cannot_enforce_is_told_although_it_runs_the_policy() {
    let home = Home::new();
    let ca = home.start("");
    ca.apply(POLICY);
    let stream = running(&ca, "orders", "one").await;
    let unenforceable = vec!["rule on line 3: port \"api\" is not declared http".to_owned()];
    stream
        .report(Report::Acknowledgement(PolicyAcknowledgement {
            version: 1,
            refused: String::new(),
            unenforceable,
        }))
        .await;
    let status =
        ca.policy_status_where(|status| counts(status) == (1, 1) && !notable(status).is_empty()).await;

    assert_eq!((counts(&status), notable(&status)), ((1, 1), vec![("one", "synced", Some(1))]));
    assert!(ca.told(&["policy", "status"]).contains("cannot enforce: rule on line 3"));
}

#[tokio::test]
async fn one_subscription_too_many_is_told_to_come_back_until_another_ends() {
    let home = Home::new();
    let ca = home.start("[limits]\nsubscriptions_max = 3\nidentity_subscriptions_max = 2\n");
    let (client, orders) = (ca.client(), svid(&ca, "orders").await);
    let first = running(&ca, "orders", "a").await;
    let _second = running(&ca, "orders", "b").await;
    let full = client.subscribe(&orders, hello("c")).await.err().unwrap();
    assert_eq!(full.code(), Code::ResourceExhausted, "{full}");
    assert!(full.message().contains("2 sidecars of spiffe://shop.example/orders"), "{full}");
    assert!(full.metadata().contains_key("retry-after"));
    let _third = running(&ca, "payments", "a").await;
    let full = client.subscribe(&svid(&ca, "reports").await, hello("a")).await.err().unwrap();
    assert!(full.message().starts_with("3 sidecars are"), "{full}");
    drop(first);
    let reports = svid(&ca, "reports").await;
    let entered = async { while client.subscribe(&reports, hello("a")).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(8), entered).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_and_rollback_wait_until_sidecars_have_answered_but_not_for_ever() {
    let home = Home::new();
    let ca = home.start("");
    ca.apply(POLICY);
    let mut good = running(&ca, "orders", "good").await;
    let answering = tokio::spawn(async move {
        let version = good.slice().await.version;
        good.acknowledge(version).await;
        good
    });
    let file = home.path().join("policy.toml");
    std::fs::write(&file, format!("{POLICY}# 2\n")).unwrap();
    let said = ca.told(&["policy", "apply", file.to_str().unwrap(), "--author", "ann"]);
    assert!(said.contains("version 2 is in force") && said.contains("1 of 1 sidecars run it"), "{said}");
    let _silent = answering.await.unwrap();
    let back = ["policy", "rollback", "1", "--author", "ann", "--wait", "200ms", "--format", "json"];
    let said: serde_json::Value = serde_json::from_str(&ca.told(&back)).unwrap();
    assert_eq!((&said["outcome"], counts(&said["status"])), (&json!("applied"), (0, 1)));
    assert_eq!(notable(&said["status"]), [("good", "pending", Some(2))]);
}

#[tokio::test]
async fn an_identity_that_subscribes_too_often_is_told_when_to_come_back_and_may_still_renew() {
    let home = Home::new();
    let ca = home.start("[limits]\nidentity_per_second = 1\nidentity_burst = 2\n");
    let (client, orders) = (ca.client(), svid(&ca, "orders").await);
    for _ in 0..2 {
        client.subscribe(&orders, hello("a")).await.unwrap();
    }
    let busy = client.subscribe(&orders, hello("a")).await.err().unwrap();
    assert_eq!(busy.code(), Code::ResourceExhausted, "{busy}");
    assert!(busy.message().contains("too many subscriptions"), "{busy}");
    client.renew(&orders).await.unwrap();
}

/// A report of calls to so many paths, each of about so many bytes.
fn report(paths: usize, bytes: usize) -> Report {
    let call = |number: usize| CallReport {
        outcome: Outcome::Refused.into(),
        from: "spiffe://shop.example/reports".to_owned(),
        path: format!("/{number}/{}", "x".repeat(bytes)),
        count: 2,
        first: 1,
        last: 1,
        ..CallReport::default()
    };
    Report::Calls(CallReports { calls: (0..paths).map(call).collect(), lost: 0 })
}

#[tokio::test]
async fn reported_calls_add_up_and_what_has_no_room_is_counted() {
    let home = Home::new();
    let ca = home.start("[limits]\ncall_rows_max = 1000\n");
    // Together larger than any request of a stranger.
    let (one, two) = (running(&ca, "orders", "one").await, running(&ca, "orders", "two").await);
    one.report(report(150, 500)).await;
    two.report(report(60, 500)).await;
    let listed = ca.reported_calls_where(|listed| calls_in(listed) == 420).await;
    assert_eq!(listed.rows.len(), 100, "an identity has a tenth of the rows");
    assert!(listed.rows.iter().all(|row| row.to == "spiffe://shop.example/orders"));
    let last = listed.rows.last().unwrap().number;
    let request = ListCallReportsRequest { after: last - 1, page_size: 5 };
    let page = ca.admin().await.list_call_reports(request).await.unwrap().into_inner();
    assert_eq!(page.rows.iter().map(|row| row.number).collect::<Vec<_>>(), [last]);
}

#[tokio::test(flavor = "multi_thread")]
async fn suggest_reads_what_sidecars_have_reported_and_takes_no_connection_for_leave_to_do_everything() {
    let home = Home::new();
    let ca = home.start("");
    let reporting = running(&ca, "orders", "one").await;
    let kind = |method: &str, path: &str| CallReport {
        outcome: Outcome::Refused.into(),
        from: "spiffe://shop.example/payments".to_owned(),
        port: "api".to_owned(),
        method: method.to_owned(),
        path: path.to_owned(),
        count: 3,
        ..CallReport::default()
    };
    let calls = vec![kind("GET", "/x"), kind("", "")];
    reporting.report(Report::Calls(CallReports { calls, lost: 0 })).await;
    ca.reported_calls_where(|listed| calls_in(listed) == 6).await;
    let file = home.path().join("policy.toml");
    std::fs::write(&file, POLICY).unwrap();
    let output = ca.ask(&["policy", "suggest", file.to_str().unwrap(), "--live", "--format", "json"]);
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let rule =
        json!({"service": "orders", "from": ["payments"], "calls": ["GET /x"], "port": null, "count": 3});
    assert_eq!((output.status.code(), &said["rules"]), (Some(1), &json!([rule])), "{said}");
    assert!(said["notes"][0].as_str().unwrap().contains("declare the ports of orders"), "{said}");
}

fn calls_in(listed: &ListCallReportsResponse) -> u64 {
    listed.lost + listed.rows.iter().map(|row| row.calls.as_ref().unwrap().count).sum::<u64>()
}

#[tokio::test]
async fn a_report_that_is_too_large_ends_the_stream() {
    let home = Home::new();
    let ca = home.start("");
    let mut stream = running(&ca, "orders", "one").await;
    stream.report(report(150, 10_000)).await;
    let end = loop {
        match stream.next().await {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    assert_eq!(end.unwrap_err().code(), Code::OutOfRange);
}
