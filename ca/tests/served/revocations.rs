//! A revoked identity gets nothing from the CA until it is restored.

use serde_json::{Value, json};
use tonic::Code;

use crate::fixture::{Ca, Home};

const ID: &str = "spiffe://shop.example/orders";

fn json_of(ca: &Ca, args: &[&str]) -> Value {
    serde_json::from_str(&ca.told(&[args, &["--format", "json"]].concat())).unwrap()
}

fn revoke(ca: &Ca, id: &str) -> Value {
    json_of(ca, &["identity", "revoke", id, "--reason", "key found in a log", "--author", "ana"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_identity_renews_redeems_and_enrols_no_more_until_it_is_restored() {
    let home = Home::new();
    let ca = home.start("");
    let client = ca.client();
    let (token, kept) = (ca.token("orders", 1), ca.token("orders", 1));
    let svid = client.redeem(&token).await.unwrap();
    assert_eq!(revoke(&ca, "orders"), json!({ "spiffe_id": ID, "state": "revoked", "changed": true }));

    for refused in [client.renew(&svid).await.unwrap_err(), client.redeem(&kept).await.unwrap_err()] {
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert!(refused.message().contains("revoked: key found in a log"), "{refused}");
    }
    let output = ca.ask(&["token", "create", "--id", "orders"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("revoked: key found in a log"), "{said}");
    let other = ca.token("reports", 1);
    client.redeem(&other).await.unwrap();

    let restored = json_of(&ca, &["identity", "restore", "orders", "--author", "bo"]);
    assert_eq!(restored, json!({ "spiffe_id": ID, "state": "restored", "changed": true }));
    client.renew(&svid).await.unwrap();
    client.redeem(&kept).await.unwrap();
    let rows = json_of(&ca, &["audit", "tail", "--limit", "100"]);
    let of = |wanted: &str| -> Vec<String> {
        let rows = rows["entries"].as_array().unwrap().iter().filter(|row| row["decision"] == wanted);
        rows.map(|row| format!("{} {}", row["subject"].as_str().unwrap(), row["detail"].as_str().unwrap()))
            .collect()
    };
    assert_eq!(of("identity_revoked"), [format!("{ID} by ana: key found in a log")]);
    assert_eq!(of("identity_restored"), [format!("{ID} by bo")]);
    assert_eq!(of("refused").len(), 2, "{rows}");
    assert!(ca.told(&["audit", "verify"]).starts_with("whole:"));
}

#[test]
fn revoking_and_restoring_again_changes_nothing_and_says_so() {
    let home = Home::new();
    let ca = home.start("");
    revoke(&ca, ID);
    assert_eq!(revoke(&ca, "/orders")["changed"], false);
    let again = ca.told(&["identity", "revoke", "orders", "--reason", "other words"]);
    assert_eq!(again, format!("{ID} was revoked already\n"));
    let listed = json_of(&ca, &["identity", "list"]);
    let [only] = listed["revoked"].as_array().unwrap().as_slice() else { panic!("{listed}") };
    assert_eq!((&only["spiffe_id"], &only["reason"]), (&json!(ID), &json!("key found in a log")));
    assert_eq!(ca.told(&["identity", "restore", "orders"]), format!("{ID} is restored\n"));
    assert_eq!(ca.told(&["identity", "restore", "orders"]), format!("{ID} was not revoked\n"));
    assert_eq!(json_of(&ca, &["identity", "list"]), json!({ "revoked": [] }));
}

#[test]
fn what_is_reserved_foreign_or_no_identity_cannot_be_revoked() {
    let home = Home::new();
    let ca = home.start("");
    for id in ["/postern/ca", "spiffe://other.example/orders", "spiffe://shop.example", "a b", "", "*"] {
        let output = ca.ask(&["identity", "revoke", id, "--reason", "x"]);
        assert_eq!(output.status.code(), Some(1), "{id:?}: {output:?}");
    }
    for reason in [String::new(), "  ".to_owned(), "r".repeat(1025)] {
        let output = ca.ask(&["identity", "revoke", "orders", "--reason", &reason]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
    }
    assert_eq!(ca.ask(&["identity", "revoke", "orders"]).status.code(), Some(2), "a reason is needed");
    assert_eq!(json_of(&ca, &["identity", "list"]), json!({ "revoked": [] }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_outlives_a_kill_and_its_words_steer_no_terminal() {
    let home = Home::new();
    let mut ca = home.start("");
    let svid = ca.client().redeem(&ca.token("orders", 1)).await.unwrap();
    ca.told(&["identity", "revoke", "orders", "--reason", "a\u{1b}[31m\nb"]);
    ca.signal("-KILL");
    ca.wait();
    ca = home.start("");
    let shown = ca.told(&["identity", "list"]);
    assert!(shown.contains("a\\u{1b}[31m\\nb") && shown.lines().count() == 2, "{shown}");
    let refused = ca.client().renew(&svid).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
}
